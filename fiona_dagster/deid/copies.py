"""What a copy consists of: file meta of our own, a treated data set, pixel data out of the original.

Belongs here: the two ways from an opened original to the pieces of its copy, the fast one (``rewriting``) and
the exact one (``engine``). Stays out: reports, names, writing (``writing``).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from fiona_dagster.config.deid import Deidentification
from fiona_dagster.deid import pixels
from fiona_dagster.deid.elements import (
    BIG_ENDIAN,
    DEFLATED,
    UNDEFINED,
    DicomFile,
    Element,
    FileRange,
    Reader,
    Value,
    nothing,
)
from fiona_dagster.deid.encoding import encode, flat, in_memory, written
from fiona_dagster.deid.engine import SOP_INSTANCE, STUDY
from fiona_dagster.deid.files import became_shorter, beginning, from_disk, viewed
from fiona_dagster.deid.identities import Told
from fiona_dagster.deid.kinds import held_kind
from fiona_dagster.deid.rewriting import Rewriter, Rewritten
from fiona_dagster.deid.rows import Cut, Unsure
from fiona_dagster.deid.tally import Tally
from fiona_dagster.errors import UnreadableDicom

IMPLEMENTATION_CLASS_UID = "2.25.229451862133703155108373893150541573905"
IMPLEMENTATION_VERSION = "FIONA_DAGSTER"
_HEADS = (1 << 16, 1 << 20, 1 << 23)
"""Bytes that are read first; more where the pixel data begin later."""
_LARGE = 1 << 24
"""Files of so many bytes have headers that grow with their frames."""

Pieces = Iterable[Value | FileRange]
"""Can be gone through once; large values are made on the way."""


class Heard(NamedTuple):
    """What an original told; in memory only.

    Attributes:
        study: its Study Instance UID.
        told: what identifies its person.
        header: digest of what the copy has before the pixel data, b"" where that is not known.
    """

    study: str
    told: frozenset[Told]
    header: bytes = b""


@dataclass
class Copy:
    """What is written, and what is said about it.

    Attributes:
        pieces: all bytes of the file.
        instance, study: new UIDs.
        tally: what was done.
        held: why a transfer would hold this kind of object back.
        heard: what the original told of its person.
        release: see ``elements.DicomFile``.
    """

    pieces: Pieces
    instance: str
    study: str
    tally: Tally
    held: str
    heard: Heard
    release: Callable[[], None] = nothing


@lru_cache(maxsize=256)
def _meta_around(sop_class: str, transfer_syntax: str) -> tuple[bytes, bytes]:
    before = [Element(0x00020001, "OB", b"\0\1"), Element(0x00020002, "UI", sop_class.encode())]
    after = [
        Element(0x00020010, "UI", transfer_syntax.encode()),
        Element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
        Element(0x00020013, "SH", IMPLEMENTATION_VERSION.encode()),
    ]
    first, last = (written(part, False, True) for part in (before, after))
    return first, last


def file_start(sop_class: str, instance: str, transfer_syntax: str) -> bytes:
    """Preamble of zeros and file meta information of our own (PS3.10 7.1)."""
    first, last = _meta_around(sop_class, transfer_syntax)
    value = instance.encode()
    value += b"\0" * (len(value) & 1)
    named = b"\2\0\3\0UI" + len(value).to_bytes(2, "little") + value
    length = (len(first) + len(named) + len(last)).to_bytes(4, "little")
    return bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + length + first + named + last


def exact(found: DicomFile, elements: list[Element], instance: str) -> Pieces:
    """The pieces of a copy whose elements are at hand."""
    start = file_start(found.sop_class, instance, found.transfer_syntax)
    chunks = encode(elements, found.implicit, found.little)
    if found.transfer_syntax not in DEFLATED:
        return chain([start], flat(chunks))
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(packer.compress(chunk) for chunk in in_memory(chunks)) + packer.flush()
    return [start, packed + b"\0" * (len(packed) & 1)]


class FastWay:
    """Makes copies of originals that need no more than a look at their header.

    Args:
        rewriter: treats headers.
    """

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter

    def copy(self, descriptor: int, project: Deidentification) -> Copy:
        """The copy of an open file, for a project that allows some kinds of objects.

        Raises:
            Unsure: the exact way has to make it.
            UnreadableDicom, RefusedDicom: no way can.
            OriginalUnavailable: the disk does not give it.
        """
        with from_disk():
            size = os.fstat(descriptor).st_size
        if size < 8:
            raise Unsure
        for length in _HEADS if size < _LARGE else _HEADS[1:]:
            with from_disk():
                head = os.pread(descriptor, length, 0)
            try:
                syntax, sop_class, start = beginning(memoryview(head))
            except UnreadableDicom:
                if len(head) == size:
                    raise
                continue  # file meta information of any length
            if syntax in DEFLATED or syntax == BIG_ENDIAN:
                raise Unsure
            try:
                made = self.rewriter.rewrite(head, start, len(head) == size, syntax, sop_class)
            except Cut:
                if len(head) == size:
                    raise
                continue
            if made.pixels + 12 > len(head) < size:
                continue
            return self._copy(made, head, descriptor, project)
        raise Unsure

    def _copy(self, made: Rewritten, head: bytes, descriptor: int, project: Deidentification) -> Copy:
        header, tally = made.header, self.rewriter.tally(made)
        header.elements = [e for tag in header.places if tag >> 24 == 0x60 and (e := header.find(tag))]
        instance = made.written.get(SOP_INSTANCE) or header.text(SOP_INSTANCE)
        start = [file_start(header.sop_class, instance, header.transfer_syntax), *made.pieces]
        pixels_of: Pieces = self._pixels(made, head, descriptor, tally) if made.pixels >= 0 else ()
        held = held_kind(header, tally.unchecked, project)
        original = header.text(STUDY)
        heard = Heard(original, made.told, sha256(b"".join(start)).digest())
        study = made.written.get(STUDY) or original
        return Copy(chain(start, pixels_of), instance, study, tally, held, heard, header.release)

    @staticmethod
    def _pixels(made: Rewritten, head: bytes, descriptor: int, tally: Tally) -> Pieces:
        """The element of the pixel data: as it stands if it is the picture alone, else after ``pixels``.

        Raises:
            Unsure: an element that the exact way has to read.
            UnreadableDicom, RefusedDicom: no way can.
        """
        pos, header, tag = made.pixels, made.header, 0x7FE00000 | head[made.pixels + 2]
        at = pos + (8 if header.implicit else 12)
        if at > len(head) or (not header.implicit and head[pos + 4 : pos + 6] == b"UN"):
            raise Unsure
        length, size = int.from_bytes(head[at - 4 : at], "little"), os.fstat(descriptor).st_size
        if length != UNDEFINED and at + length == size:
            fill = pixels.plain_padding(tag, length, header)
            if fill == 0 or (fill and os.pread(descriptor, 1, size - 1) == b"\0"):
                new = head[pos : pos + 4] + (b"" if header.implicit else head[pos + 4 : pos + 6] + b"\0\0")
                return [new + head[at - 4 : at], FileRange(at, length)]
        view, release = viewed(descriptor)
        if len(view) != size:
            raise became_shorter(len(view))
        reader = Reader(view, lambda _: True, implicit=header.implicit)
        reader.release = header.release = release
        stop, element = reader.element(pos, size, tag, length, 0)
        reader.after_pixels(stop, size)
        element.at = at
        cleaned = pixels.clean(element, header)
        tally.unchecked = cleaned.unchecked
        tally.actions.update(cleaned.done)
        return flat(encode([cleaned.element], header.implicit, True))
