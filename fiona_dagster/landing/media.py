"""Media directories (DICOMDIR, PS3.3 annex F): what they list, to tell what did not come."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import clean_uid, is_uid, read_file_meta
from fiona_dagster.dicom.uids import encoding_of
from fiona_dagster.dicom.walker import FileSource, Walk

MAX_LISTED = 500_000
"""Instances of one directory that are looked for."""

_ITEM = 0xFFFEE000
_IN_USE = 0x00041410  # RecordInUseFlag, retired: 0 means that the record does not count
_INSTANCE = 0x00041511  # ReferencedSOPInstanceUIDInFile
_STUDY = 0x0020000D
_MAX_VALUE = 66


@dataclass
class Listing:
    """What a media directory lists.

    Attributes:
        studies: StudyInstanceUIDs.
        instances: SOPInstanceUIDs.
        problem: what is wrong with the directory itself; empty if nothing is.
    """

    studies: set[str] = field(default_factory=set)
    instances: set[str] = field(default_factory=set)
    problem: str = ""


def read_media_directory(path: Path) -> Listing:
    """Reads a DICOMDIR as far as it can be read.

    Args:
        path: a file whose meta information says that it is one.

    Raises:
        UnreadableDicom: its meta information is broken.
        OSError: it can't be read.
    """
    listing = Listing()
    with path.open("rb") as file:
        meta = read_file_meta(file)
        encoding = encoding_of(meta.transfer_syntax)
        source = FileSource(file, path.stat().st_size)
        walk = Walk(
            source, meta.data_set_offset, explicit=encoding.explicit is not False, big=encoding.big_endian
        )
        in_use = True
        for element in walk:
            if element.tag == _ITEM and element.depth == 1:
                in_use = True
            elif element.depth != 1 or element.length > _MAX_VALUE:
                continue
            elif element.tag == _IN_USE:
                in_use = walk.value(element) != b"\0\0"
            elif element.tag in (_STUDY, _INSTANCE) and in_use:
                uid = clean_uid(walk.value(element))
                if is_uid(uid):
                    (listing.studies if element.tag == _STUDY else listing.instances).add(uid)
            if len(listing.instances) > MAX_LISTED:
                listing.problem = f"DICOMDIR lists more than {MAX_LISTED} instances; the rest is not checked"
                break
    if walk.problem is not None:
        listing.problem = "DICOMDIR is damaged; what it lists further on could not be checked"
    return listing


def missing_instances(root: DataRoot, listing: Listing) -> set[str]:
    """The instances of a listing that the archive does not hold.

    Args:
        root: the data root.
        listing: of a media directory.
    """
    missing = set(listing.instances)
    for study in listing.studies:
        try:
            names = os.listdir(root.archive / f"scp_{study}")  # noqa: PTH208 - thousands of names
        except FileNotFoundError:
            continue
        missing.difference_update(name.partition(".")[2] for name in names)
    return missing
