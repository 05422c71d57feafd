"""Steps over a sound data set as fast as Python can; anything odd is left to the walker.

Belongs here: little endian data sets whose structure is whole (PS3.5 section 7). Stays out: naming what is
wrong. :func:`scan` either reads a data set to its last byte, with the structure of every sequence checked, or
gives ``None``; :class:`~fiona_dagster.dicom.walker.Walk` then says why. So there is one meaning of a header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from fiona_dagster.dicom.walker import MAX_DEPTH, PIXEL_DATA, UNDEFINED, Element

CHUNK = 32 * 1024
"""Bytes that are read at once."""
MAX_CHUNKS = 4096
"""Reads after which the walker takes over; an object has a few."""

_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NAME = {b"": "", **{vr: vr.decode("ascii") for vr in _SHORT | LONG_VRS}}
_HEAD = struct.Struct("<I2sH")
_IMPLICIT = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE  # as read: element, then group
_PIXELS = PIXEL_DATA >> 16 | (PIXEL_DATA & 0xFFFF) << 16
PIXEL_TAGS = frozenset((_PIXELS, 0x00087FE0, 0x00097FE0))
_DATASET, _ITEMS, _FRAGMENTS = range(3)


class Lookup(Protocol):
    """What a mapping has to be able to do here."""

    def get(self, tag: int, /) -> int | None:
        """See :attr:`Sink.wanted`."""


class Sink(Protocol):
    """Takes the elements that are wanted."""

    elements: dict[int, tuple[str, bytes]]
    """Tag -> VR and value."""
    longest: int
    """Bytes above which ``found`` is asked in any case."""

    @property
    def wanted(self) -> Lookup:
        """Top-level tags as :func:`swapped` -> the tag if its value just goes into ``elements``.

        0 if ``found`` is to be asked. May be another after each call of ``found``.
        """

    @property
    def nested(self) -> Mapping[int, frozenset[int]]:
        """Sequence -> tags wanted directly in its items, at whatever depth; swapped as well.

        They are wanted only inside of top-level sequences that are wanted themselves.
        """

    @property
    def items(self) -> frozenset[int]:
        """Sequences of the top level, swapped, whose items are told by ``found_item``."""

    def found_item(self, sequence: int) -> None:
        """An item of a sequence of the top level begins."""

    def found(self, tag: int, vr: str, offset: int, length: int, data: bytes, base: int) -> None:  # noqa: PLR0917
        """A wanted top-level element; ``data`` are bytes of the file from ``base`` on, if they reach."""

    def found_inside(  # noqa: PLR0917
        self, sequence: int, tag: int, vr: str, offset: int, length: int, data: bytes, base: int, depth: int
    ) -> None:
        """A wanted element inside the items of ``sequence``, ``depth`` sequences deep."""


Met = tuple[int, str, int, int, int, bool]
"""An element that a scan met: :func:`swapped` tag, VR, position of its value, length, sequences around it,
and whether it holds elements or fragments."""
MAX_TRACE = 1500
"""Elements that a scan tells."""


class Scanned(NamedTuple):
    """What a whole scan knows besides what its sink got: the pixels and the bytes of their fragments."""

    pixels: Element | None
    fragments: int


def swapped(tag: int) -> int:
    """A tag as little endian readers get it in one number: element above group."""
    return (tag & 0xFFFF) << 16 | tag >> 16


def scan(
    read: Callable[[int, int], bytes],
    position: int,
    size: int,
    sink: Sink,
    *,
    explicit: bool,
    is_sequence: Callable[[int], bool],
    first: bytes = b"",
    trace: list[Met] | None = None,
) -> Scanned | None:
    """Reads a data set to its end.

    Args:
        read: ``read(offset, length)`` gives bytes of the file.
        position: of the first element.
        size: bytes of the file.
        sink: takes what is wanted.
        explicit: explicit VR little endian, else implicit.
        is_sequence: whether a tag is a sequence; asked in implicit VR.
        first: bytes at ``position`` that were read already.
        trace: gets the first :data:`MAX_TRACE` elements, if it is given.

    Returns:
        ``None`` where the structure is not wholly plain; the sink's elements are then worth nothing.
    """
    try:
        return _scan(read, position, size, sink, explicit, is_sequence, first, trace)
    except struct.error:
        return None  # cut inside a head


def _scan(  # noqa: C901, PLR0911, PLR0912, PLR0915, PLR0917 - one loop: calls would cost what it saves
    read: Callable[[int, int], bytes],
    base: int,
    size: int,
    sink: Sink,
    explicit: bool,
    is_sequence: Callable[[int], bool],
    data: bytes,
    trace: list[Met] | None,
) -> Scanned | None:
    head, implicit, long_length = _HEAD.unpack_from, _IMPLICIT.unpack_from, _LENGTH.unpack_from
    short, long, names, lookup = _SHORT, LONG_VRS, _NAME, sink.wanted.get
    elements, longest, items = sink.elements, sink.longest, sink.items
    # at: index into data; end: where the frame ends; limit: last index at which a head is surely whole;
    # stop: where the next element needs a closer look, whichever comes first.
    at, end, limit, chunks = 0, size - base, len(data) - 12, 0
    kind, open_end, sequence, inside = _DATASET, False, 0, sink.nested.get(0)
    stack: list[tuple[int, int, bool, int, frozenset[int] | None, bool]] = []
    pixels: Element | None = None
    fragments, piece, stop = 0, CHUNK, -1
    while True:
        if at >= stop:
            if at >= end:
                if not stack:
                    return Scanned(pixels, fragments) if at == end else None
                if at > end or open_end:
                    return None
                kind, end, open_end, sequence, inside, explicit = stack.pop()
                end -= base
                stop = -1
                continue
            if at > limit:
                if base + len(data) < size:
                    base, end, chunks = base + at, end - at, chunks + 1
                    data, at = read(base, piece), 0
                    if chunks > MAX_CHUNKS or len(data) < 8:
                        return None
                    limit = len(data) - 12
                elif end - at < 8 and not stack and not data[at:].strip(b"\0"):
                    return Scanned(pixels, fragments)  # padding behind the data set
                if base + len(data) >= size:
                    limit = len(data) - 8
                    if at > limit:
                        return None
            stop = min(limit + 1, end)
        if kind != _DATASET:
            tag, length = implicit(data, at)
            at += 8
            if tag == _ITEM:
                if kind == _FRAGMENTS:
                    fragments += length
                    at += length
                    if at > end:
                        return None
                    continue
                if sequence in items and len(stack) == 1:
                    sink.found_item(swapped(sequence))
                stack.append((kind, end + base, open_end, sequence, inside, explicit))
                kind, open_end, stop = _DATASET, length == UNDEFINED, -1
                if not open_end:
                    if at + length > end:
                        return None
                    end = at + length
                continue
            if tag != _SEQUENCE_END or not open_end or length:
                return None
            if kind == _FRAGMENTS:
                piece = CHUNK
            kind, end, open_end, sequence, inside, explicit = stack.pop()
            end -= base
            stop = -1
            continue
        enter = False
        if explicit:
            tag, vr, length = head(data, at)
            if vr in short:
                start = at + 8
            elif vr in long:
                (length,) = long_length(data, at + 8)
                start = at + 12
                enter = vr == b"SQ" or length == UNDEFINED
                if length == UNDEFINED and vr == b"UN":
                    return None
            elif tag == _ITEM_END and open_end and data[at + 4 : at + 8] == b"\0\0\0\0":
                at += 8
                kind, end, open_end, sequence, inside, explicit = stack.pop()
                end -= base
                stop = -1
                continue
            else:
                return None
        else:
            vr = b""
            tag, length = implicit(data, at)
            start = at + 8
            if length:
                if length == UNDEFINED or is_sequence((tag & 0xFFFF) << 16 | tag >> 16):
                    enter = True
            elif tag == _ITEM_END and open_end and not length:
                at = start
                kind, end, open_end, sequence, inside, explicit = stack.pop()
                end -= base
                stop = -1
                continue
        if tag & 0xFFFF == 0xFFFE:
            return None
        at = start + length
        if at > end and length != UNDEFINED:
            return None
        if not stack:
            full = lookup(tag)
            if full is not None:
                if full and length <= longest and not enter and at <= len(data):
                    elements[full] = (names[vr], data[start:at])
                else:
                    full = (tag & 0xFFFF) << 16 | tag >> 16
                    if tag in PIXEL_TAGS:
                        pixels = Element(full, names[vr], base + start, length, 0)
                    sink.found(full, names[vr], base + start, length, data, base)
                    lookup = sink.wanted.get  # a private creator may have added to it
        elif inside is not None and tag in inside:
            full, depth = (tag & 0xFFFF) << 16 | tag >> 16, len(stack) // 2
            sink.found_inside(swapped(sequence), full, names[vr], base + start, length, data, base, depth)
        if trace is not None and len(trace) < MAX_TRACE:
            trace.append((tag, names[vr], base + start, length, len(stack) // 2, enter))
        if not enter:
            continue
        if len(stack) >= 2 * MAX_DEPTH:
            return None
        stack.append((kind, end + base, open_end, sequence, inside, explicit))
        open_end, kind, stop = length == UNDEFINED, _ITEMS, -1
        if open_end and (tag == _PIXELS or vr in (b"OB", b"OW")):
            kind, piece = _FRAGMENTS, 64
            if tag != _PIXELS or len(stack) > 1:
                return None  # pixels of icons: the walker keeps these apart
        sequence, inside, at = tag, sink.nested.get(tag), start
        if not open_end:
            end = start + length
