"""Looks at a whole file and decides whether it can be filed; reads no more than needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fiona_dagster.dicom import (
    MEDIA_DIRECTORY,
    FileMeta,
    HeadReader,
    Refusal,
    StorageUids,
    is_uid,
    judge,
    read_file_meta,
)
from fiona_dagster.errors import UnreadableDicom

_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Inspection:
    """What a file is: its meta information if it could be read, and UIDs or the reason against them."""

    meta: FileMeta | None
    verdict: StorageUids | Refusal

    @property
    def transfer_syntax(self) -> str:
        """UID, empty if there is no meta information."""
        return self.meta.transfer_syntax if self.meta else ""

    @property
    def is_media_directory(self) -> bool:
        """A DICOMDIR: an index of files, no object of its own (PS3.10 section 8.6)."""
        return self.meta is not None and self.meta.sop_class == MEDIA_DIRECTORY


def inspect_file(path: Path) -> Inspection:
    """Reads meta information and the head of the data set of a file.

    Args:
        path: a regular file.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        try:
            meta = read_file_meta(file)
        except UnreadableDicom as error:
            return Inspection(None, Refusal("unreadable", 0xC000, str(error)[:64]))
        if not is_uid(meta.transfer_syntax):
            return Inspection(
                meta, Refusal("malformed_uid", 0xC000, "TransferSyntaxUID is malformed", 0x00020010)
            )
        head = HeadReader(meta.transfer_syntax)
        file.seek(meta.data_set_offset)
        while chunk := file.read(_CHUNK):
            if head.feed(chunk):
                break
    head.end()
    return Inspection(meta, judge(head, meta.sop_class, meta.sop_instance))
