"""Bytes of DICOM: UIDs, the head of a data set, file meta information, PDUs and command sets.

Belongs here: what PS3.5, PS3.7, PS3.8 and PS3.10 say about bytes. Stays out: files, sockets, and what
arrivals mean (landing, receiver). Nothing here imports pydicom or pynetdicom when it is imported.
"""

from fiona_dagster.dicom.filing import Refusal, StorageUids, judge, read_head
from fiona_dagster.dicom.head import HeadReader
from fiona_dagster.dicom.known_heads import KnownHeads
from fiona_dagster.dicom.part10 import FileMeta, build_file_meta, read_file_meta
from fiona_dagster.dicom.uids import (
    APPLICATION_CONTEXT,
    MEDIA_DIRECTORY,
    UID_PATTERN,
    VERIFICATION,
    clean_uid,
    is_storage_class,
    is_uid,
)

__all__ = [
    "APPLICATION_CONTEXT",
    "MEDIA_DIRECTORY",
    "UID_PATTERN",
    "VERIFICATION",
    "FileMeta",
    "HeadReader",
    "KnownHeads",
    "Refusal",
    "StorageUids",
    "build_file_meta",
    "clean_uid",
    "is_storage_class",
    "is_uid",
    "judge",
    "read_file_meta",
    "read_head",
]
