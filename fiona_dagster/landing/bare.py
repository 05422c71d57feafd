"""DICOM without the beginning of a file: no preamble, or a naked data set as some tools write it.

The bytes are kept as they are; what is missing is put in front of them, as it is for an object that comes by
the network. Only what the bytes leave no doubt about is taken: little endian, with or without explicit VR,
not compressed. Nothing else can be told without the file meta information.
"""

from __future__ import annotations

from pathlib import Path

from fiona_dagster.dicom import HeadReader, Refusal, build_file_meta, judge
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from fiona_dagster.dicom.walker import PIXEL_DATA, UNDEFINED, FileSource, Walk

_CHUNK = 64 * 1024
_PREFIX = bytes(128) + b"DICM"
_META, _FIRST = b"\x02\0\0\0UL\x04\0", b"\x08\0"
_MAX_FIRST = 1024


def looks_bare(head: bytes) -> bool:
    """Whether a file begins like file meta information or like a little endian data set (group 0008)."""
    if head.startswith(_META):
        return True
    if not head.startswith(_FIRST) or len(head) < 8 or head[3]:
        return False
    return _says_vr(head) or int.from_bytes(head[4:8], "little") <= _MAX_FIRST


def _says_vr(head: bytes) -> bool:
    return head[4:6].isalpha() and head[4:6].isupper()


def missing_beginning(path: Path) -> bytes | Refusal:
    """What has to stand in front of a file's bytes to make it a DICOM file.

    Args:
        path: a file for which :func:`looks_bare` is true.

    Returns:
        The bytes, or why there can't be any.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(_META):
            return _PREFIX
        explicit = _says_vr(head)
        syntax = EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
        reader = HeadReader(syntax)
        file.seek(0)
        while chunk := file.read(_CHUNK):
            if reader.feed(chunk):
                break
        reader.end()
        uids = judge(reader)
        if isinstance(uids, Refusal):
            return Refusal("unreadable", 0, "no DICM prefix, and no sound data set without one")
        for element in Walk(FileSource(file, path.stat().st_size), explicit=explicit):
            if element.tag == PIXEL_DATA and element.depth == 0 and element.length == UNDEFINED:
                return Refusal("unreadable", 0, "compressed, but without its file meta information")
    return build_file_meta(uids.sop_class, uids.sop_instance, syntax)
