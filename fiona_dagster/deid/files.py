"""DICOM files: their bytes from the disk, file meta information, inflating.

Belongs here: from a path to a :class:`~fiona_dagster.deid.elements.DicomFile` (PS3.10 section 7.1), and that
a disk in trouble is not taken for a damaged object. Stays out: the elements of a data set (``elements``).
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from fiona_dagster.deid.elements import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    DicomFile,
    Reader,
    Value,
    nothing,
    text,
)
from fiona_dagster.dicom.dictionary import UIDS
from fiona_dagster.errors import OriginalUnavailable, RefusedDicom, UnreadableDicom

INFLATE_FLOOR = 64 << 20
INFLATE_RATIO = 50
"""A deflated data set may grow to the floor plus so many times its size; more is taken for a bomb."""

MAPPED_FROM = 8 << 20
"""Files of so many bytes are read as a whole; larger ones are mapped."""

_REFERENCED = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (94, 95, 204, 205))
"""JPIP Referenced: pixels lie behind an address of the hospital."""


@contextmanager
def from_disk(other: Container[int | None] = ()) -> Iterator[None]:
    """Around what reads an original: what the disk does not give says nothing about the object.

    A project may leave out objects that can't be processed; a mount that is gone must not become one.

    Args:
        other: numbers of errors that are left as they are.

    Raises:
        OriginalUnavailable: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno in other:
            raise
        why = os.strerror(error.errno) if error.errno else type(error).__name__
        raise OriginalUnavailable(
            f"an original can't be read from the disk ({why}), which says nothing about the object; look at "
            "the disk or mount, and at who may read the file"
        ) from None


def became_shorter(at: int) -> OriginalUnavailable:
    """The error for an original that ends before it should: originals never change, so the disk is at fault.

    Args:
        at: byte of the file.
    """
    return OriginalUnavailable(
        f"byte {at}: an original became shorter while it was read; look at the disk or mount"
    )


@contextmanager
def opened(path: Path, opaque: Callable[[int], bool]) -> Iterator[DicomFile]:
    """Reads ``path``; the elements are valid inside the ``with`` block.

    Args:
        path: the file (PS3.10); a missing preamble is tolerated, missing file meta is not.
        opaque: tags of sequences that nobody will look into.

    Raises:
        UnreadableDicom: no DICOM, damaged or cut off; says byte and reason.
        RefusedDicom: nested too deep, inflates too much, or a transfer syntax that is not known.
        OriginalUnavailable: the disk does not give it.
    """
    with from_disk(), path.open("rb") as handle:
        view, release = viewed(handle.fileno())
    if len(view) < 8:
        raise UnreadableDicom(f"byte {len(view)}: too short for DICOM")
    yield _read(view, opaque, release)  # freed with the last slice of it


def viewed(descriptor: int) -> tuple[memoryview, Callable[[], None]]:
    """The bytes of an open file, and what gives their memory back; they stay readable after that.

    Only large files are mapped: where a mapped page can't be read (a broken disk, a file that became
    shorter), the kernel ends the process (SIGBUS, mmap(2)), while reading raises an error.

    Raises:
        OriginalUnavailable: the disk does not give it.
    """
    with from_disk():
        size = os.fstat(descriptor).st_size
        if size <= MAPPED_FROM:
            data = os.pread(descriptor, size, 0)
            if len(data) != size:
                raise became_shorter(len(data))
            return memoryview(data), nothing
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    return memoryview(mapped), lambda: mapped.madvise(mmap.MADV_DONTNEED)


def beginning(view: memoryview) -> tuple[str, str, int]:
    """Transfer syntax and SOP class of the file meta information, and where the data set begins.

    Raises:
        UnreadableDicom: no DICOM, or no sound file meta information.
        RefusedDicom: a transfer syntax that is not known, or pixel data that are elsewhere.
    """
    if bytes(view[128:132]) == b"DICM":
        start = 132
    elif bytes(view[:4]) == b"\x02\x00\x00\x00":
        start = 0
    else:
        raise UnreadableDicom("byte 0: neither DICM nor file meta information; this is no DICOM file")
    syntax, sop_class, pos = _meta(view, start)
    if syntax in _REFERENCED:
        raise RefusedDicom("the pixel data are only referenced (JPIP); fetch them first")
    known = UIDS.get(syntax, ("", ""))[1] == "Transfer Syntax"
    if not known and not re.fullmatch(r"1\.2\.840\.10008\.1\.2(\.[0-9]{1,3}){1,4}", syntax):
        raise RefusedDicom(
            "the transfer syntax in its file meta information (0002,0010) is not known; it is not passed on"
        )
    # newer ones of the standard are explicit little endian like all but three (PS3.5 section 10)
    return syntax, sop_class, pos


def _read(view: memoryview, opaque: Callable[[int], bool], release: Callable[[], None]) -> DicomFile:
    syntax, sop_class, pos = beginning(view)
    if syntax in DEFLATED:
        data = memoryview(inflate(view[pos:]))
        begin = 0
    else:
        data, begin = view, pos
    reader = Reader(data, opaque, little=syntax != BIG_ENDIAN, implicit=syntax == IMPLICIT)
    reader.release, reader.in_file = release, syntax not in DEFLATED
    elements, _ = reader.data_set(begin, len(data), 0)
    if not elements:
        raise UnreadableDicom(f"byte {begin}: the data set is empty")
    found = next((text(e.value) for e in elements if e.tag == 0x00080016), "")
    return DicomFile(syntax, elements, found or sop_class, release)


def _meta(view: memoryview, start: int) -> tuple[str, str, int]:
    """Transfer syntax, SOP class, and where the data set begins: file meta is never copied."""
    reader = Reader(view, lambda _tag: True)
    pos, syntax, sop_class = start, "", ""
    while len(view) - pos >= 8:
        group, number, length = reader.tag_long(view, pos)
        if group != 2:
            break
        pos, element = reader.element(pos, len(view), group << 16 | number, length, 0)
        if number == 0x0010:
            syntax = text(element.value)
        elif number == 0x0002:
            sop_class = text(element.value)
    if not syntax:
        raise UnreadableDicom(f"byte {pos}: file meta information without a transfer syntax")
    return syntax, sop_class, pos


def inflate(compressed: Value) -> bytes:
    """Inflates a deflated data set (PS3.5 A.5).

    Raises:
        RefusedDicom: grows beyond the limit.
        UnreadableDicom: no deflate stream, or cut off.
    """
    limit = INFLATE_FLOOR + INFLATE_RATIO * len(compressed)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(compressed, limit)
    except zlib.error:
        raise UnreadableDicom("the deflated data set is damaged") from None
    if stream.unconsumed_tail:
        raise RefusedDicom(f"the deflated data set grows beyond {limit} bytes; it is not passed on")
    if not stream.eof:
        raise UnreadableDicom("the deflated data set is cut off")
    return data
