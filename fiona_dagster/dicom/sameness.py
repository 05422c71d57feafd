"""Whether two data sets in the same transfer syntax say the same, however they are written.

A PACS writes what it keeps anew: lengths of sequences become defined or undefined, group lengths and padding
at the end come or go. Every value, VR, item and fragment must be the same, in the same order.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO, BinaryIO, cast

from fiona_dagster.dicom.uids import encoding_of
from fiona_dagster.dicom.walker import FileSource, Walk

_CHUNK = 1 << 20
_TRAILING_PADDING = 0xFFFCFFFC


def same_data_set(
    one: IO[bytes], start: int, other: IO[bytes], other_start: int, transfer_syntax: str
) -> bool:
    """Compares two data sets in open files, in bounded memory.

    Args:
        one: a file.
        start: where its data set begins.
        other: the other file.
        other_start: where its data set begins.
        transfer_syntax: of both.

    Returns:
        False also for what can't be read to its end, unless it is the same byte for byte.
    """
    if _same_bytes(one, start, other, other_start):
        return True
    encoding = encoding_of(transfer_syntax)
    if encoding.deflated or encoding.explicit is None:
        return False
    first = _content(one, start, explicit=encoding.explicit, big=encoding.big_endian)
    return first != "" and first == _content(
        other, other_start, explicit=encoding.explicit, big=encoding.big_endian
    )


def _same_bytes(one: IO[bytes], start: int, other: IO[bytes], other_start: int) -> bool:
    if _size(one) - start != _size(other) - other_start:
        return False
    one.seek(start)
    other.seek(other_start)
    while chunk := one.read(_CHUNK):
        if chunk != other.read(len(chunk)):
            return False
    return True


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _content(file: IO[bytes], start: int, *, explicit: bool, big: bool) -> str:
    """Digest of what a data set says; empty if it can't be read to its end."""
    size = _size(file)
    source = FileSource(cast(BinaryIO, file), size)
    walk = Walk(source, start, explicit=explicit, big=big)
    digest = hashlib.sha256()
    for element in walk:
        if element.tag & 0xFFFF == 0 or element.tag == _TRAILING_PADDING:
            continue  # group length (PS3.5 section 7.2), data set trailing padding (section 7.1.3)
        digest.update(f"{element.tag:08x}{element.vr or '--'}{element.depth}".encode())
        if walk.is_value(element):
            digest.update(element.length.to_bytes(8, "little"))
            for at in range(element.offset, element.offset + element.length, _CHUNK):
                digest.update(source.read(at, min(_CHUNK, element.offset + element.length - at)))
    return "" if walk.problem is not None else digest.hexdigest()
