"""Layouts: what the data sets of one series have in common, compared in one step for many elements.

Files of a series hold the same elements in the same order; only a few of them differ in length. A
:class:`Block` is a run of elements whose heads (tags, VRs, lengths, items, delimiters) were met before, up to
and with an element whose length may differ. :func:`~fiona_dagster.dicom.scan.scan` has judged that structure
once; where the same heads stand again, byte for byte, there is nothing left to judge.

Belongs here: learning blocks and following them. Stays out: anything that is not exactly as before: following
ends at the last element that is, and the scan reads on from there. So a layout changes how fast a header is
read, never what is read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fiona_dagster.dicom.scan import LONG_VRS, PIXEL_TAGS, Lookup, Scanned, Sink, swapped
from fiona_dagster.dicom.walker import MAX_DEPTH, UNDEFINED, Element, Source, Walk, is_sequence

MAX_NEXT = 6
"""Blocks that are tried behind a block; the one that came last is tried first."""
MAX_BLOCKS = 4096
"""Blocks of one plan; above that they are learned anew."""
MAX_LEARNED = 8
"""Times that a layout is learned from one series."""
MAX_SERIES = 256
"""Series that are remembered to be learned from."""
MAX_LEAVES = 1500
"""Values of one data set that a layout may cover."""
_LARGEST = 4096
"""Bytes of a value or of heads inside a block; what is larger ends it."""
_REFILL = 4096
_SHORT_LENGTH, _LONG_LENGTH = struct.Struct("<H"), struct.Struct("<I")


class Leaf(NamedTuple):
    """A value and the bytes between the value before it and its own."""

    heads: bytes
    tag: int
    vr: str
    offset: int
    length: int
    depth: int


class Block:
    """Heads that were met before, the values between them, and an element of any length at the end.

    Attributes:
        size: bytes from the first head to the value of the last element.
        unpack, expected: the heads, and what they must be (the length of the last element is left out).
        values, tags, vrs: values that are wanted.
        length_at, length: where the length of the last element stands, and how it is read.
        tag, vr: the last element.
        kept: the last element just goes into the sink's elements.
        asked: the sink is asked about the last element.
        nexts: blocks that followed, by what the sink wanted behind the last element.
    """

    __slots__ = (
        *("asked", "expected", "kept", "key", "length", "length_at", "nexts", "size", "tag", "tags"),
        *("unpack", "values", "vr", "vrs"),
    )

    def __init__(self, leaves: list[Leaf], wanted: list[Leaf], how: int | None) -> None:
        last, long = leaves[-1], _has_long_length(leaves[-1])
        code = heads = ""
        expected = []
        for leaf in leaves[:-1]:
            heads += f"{len(leaf.heads)}s{leaf.length}x"
            expected.append(leaf.heads)
            code += f"{len(leaf.heads)}x{leaf.length}{'s' if leaf in wanted else 'x'}"
        self.length = (_LONG_LENGTH if long else _SHORT_LENGTH).unpack_from
        self.length_at = sum(len(leaf.heads) + leaf.length for leaf in leaves[:-1])
        self.length_at += len(last.heads) - (4 if long else 2)
        self.size = self.length_at + (4 if long else 2)
        expected.append(last.heads[: -4 if long else -2])
        heads += f"{len(expected[-1])}s"
        self.unpack, self.expected = struct.Struct("<" + heads).unpack_from, tuple(expected)
        self.values = struct.Struct("<" + code).unpack_from if wanted else None
        self.tags, self.vrs = tuple(leaf.tag for leaf in wanted), tuple(leaf.vr for leaf in wanted)
        self.tag, self.vr = last.tag, last.vr
        self.kept, self.asked = bool(how), how == 0
        self.key = (heads, self.expected, self.tags, self.kept, self.asked)
        self.nexts: dict[Lookup, list[Block]] = {}

    def behind(self, wanted: Lookup) -> list[Block]:
        """Blocks that followed where the sink wanted this."""
        found = self.nexts.get(wanted)
        if found is None:
            found = self.nexts[wanted] = []
        return found


def _has_long_length(leaf: Leaf) -> bool:
    """Whether the head ends with a length of four bytes (PS3.5 section 7.1.2): long VRs and implicit VR."""
    return not leaf.vr or leaf.vr.encode("ascii") in LONG_VRS


class Followed(NamedTuple):
    """How far known blocks led.

    Attributes:
        data: bytes of the file from ``base`` on.
        base: see ``data``.
        at: index into ``data``: a place between two elements of the top level.
        nexts: the blocks known there, none of which fits.
        scanned: what was met.
        whole: it led to the end of the file.
    """

    data: bytes
    base: int
    at: int
    nexts: list[Block]
    scanned: Scanned
    whole: bool


class Layouts:
    """The layouts that were learned for one plan of wanted elements.

    Args:
        explicit: explicit VR little endian, else implicit.
    """

    def __init__(self, *, explicit: bool) -> None:
        self._explicit = explicit
        self._roots: list[Block] = []
        self._blocks = 0
        self._series: dict[bytes, _Series] = {}

    def follow(  # noqa: PLR0917
        self, read: Callable[[int, int], bytes], data: bytes, base: int, at: int, size: int, sink: Sink
    ) -> Followed:
        """Reads as far as the data set is like others.

        Args:
            read: ``read(offset, length)`` gives bytes of the file.
            data: bytes of the file from ``base`` on.
            base: see ``data``.
            at: index of the first element in ``data``.
            size: bytes of the file.
            sink: takes what is wanted.
        """
        nexts, elements, longest = self._roots, sink.elements, sink.longest
        wanted = sink.wanted
        pixels: Element | None = None
        there = len(data)
        while nexts:
            for block in nexts:
                if at + block.size > there and base + there < size:
                    base += at
                    data, at = read(base, max(block.size, _REFILL)), 0
                    there = len(data)
                if at + block.size <= there and block.unpack(data, at) == block.expected:
                    break
            else:
                break
            (length,) = block.length(data, at + block.length_at)
            start = at + block.size
            if base + start + length > size or length == UNDEFINED:
                break
            if block.values is not None:
                elements.update(zip(block.tags, zip(block.vrs, block.values(data, at))))  # noqa: B905
            if nexts[0] is not block:
                nexts.remove(block)
                nexts.insert(0, block)
            at = start + length
            if block.kept and length <= longest and at <= there:
                elements[block.tag] = (block.vr, data[start:at])
            elif block.kept or block.asked:
                if swapped(block.tag) in PIXEL_TAGS:
                    pixels = Element(block.tag, block.vr, base + start, length, 0)
                sink.found(block.tag, block.vr, base + start, length, data, base)
                wanted = sink.wanted
            nexts = block.behind(wanted)
        return Followed(data, base, at, nexts, Scanned(pixels, 0), base + at == size)

    def learn(self, series: bytes, known: Followed, source: Source, start: int, sink: Sink) -> None:
        """Learns from a sound data set that could not be followed to its end.

        A layout pays from the third file on, so nothing is learned from the first file of a series.

        Args:
            series: what it belongs to, as SeriesInstanceUID.
            known: how far it could be followed.
            source: the file.
            start: position of the first element.
            sink: a new one, to be asked as it was when the data set was read.
        """
        before = self._series.get(series)
        if before is None:
            if len(self._series) >= MAX_SERIES:
                self._series.clear()
            self._series[series] = _Series()
            return
        if before.learned >= MAX_LEARNED:
            return
        before.learned += 1
        leaves = list(_leaves(source, start, self._explicit, sink))
        before.compare(leaves)
        nexts = known.nexts
        for block, wanted in _blocks(leaves, known.base + known.at, before.varying, sink):
            nexts.insert(0, block)
            del nexts[MAX_NEXT:]
            self._blocks += 1
            nexts = block.behind(wanted)
        if self._blocks > MAX_BLOCKS:
            self._roots, self._blocks = [], 0


class _Series:
    """What is known of a series: elements of the top level whose lengths differ."""

    def __init__(self) -> None:
        self.learned = 0
        self.varying: set[int] = set()
        self._lengths: dict[int, int] = {}

    def compare(self, leaves: list[Leaf]) -> None:
        lengths = {leaf.tag: leaf.length for leaf in leaves if not leaf.depth}
        before = self._lengths
        self.varying.update(tag for tag, length in lengths.items() if before.get(tag, length) != length)
        self._lengths = lengths


def _leaves(source: Source, start: int, explicit: bool, sink: Sink) -> Iterator[Leaf]:
    """Values of a data set, as far as a layout can go; the last one stands at the top level."""
    walk = Walk(source, start, explicit=explicit, is_sequence=is_sequence)
    end, last, count = start, -1, 0
    waiting: list[Leaf] = []
    for element in walk:
        tag, vr, offset, length, depth = element
        if not depth:
            if tag <= last or (length == UNDEFINED and vr in ("OB", "OW")):
                return
            last = tag
        if walk.holds(element):
            wanted = swapped(tag) in sink.nested or (not depth and sink.wanted.get(swapped(tag)) is not None)
            if wanted or depth > MAX_DEPTH:
                return
            continue
        count += 1
        heads = source.read(end, offset - end) if offset - end <= _LARGEST else b""
        if not heads or count > MAX_LEAVES or (depth and length > _LARGEST) or walk.problem is not None:
            return
        end = offset + length
        waiting.append(Leaf(heads, tag, vr, offset, length, depth))
        if not depth:
            yield from waiting
            waiting.clear()


def _blocks(leaves: list[Leaf], start: int, varying: set[int], sink: Sink) -> Iterator[tuple[Block, Lookup]]:
    """Cuts leaves from ``start`` on into blocks, each with what the sink wants behind it.

    The sink is asked as a scan would ask it.
    """
    block: list[Leaf] = []
    wanted: list[Leaf] = []
    for number, leaf in enumerate(leaves):
        if leaf.offset > start:
            block.append(leaf)
        if leaf.depth:
            continue
        how = sink.wanted.get(swapped(leaf.tag))
        large = leaf.length > _LARGEST or (how and leaf.length > sink.longest)
        if how == 0:
            sink.found(leaf.tag, leaf.vr, leaf.offset, leaf.length, b"", 0)  # may change what is wanted
        if block and (how == 0 or large or leaf.tag in varying or number + 1 == len(leaves)):
            yield Block(block, wanted, how), sink.wanted
            block, wanted = [], []
        elif block and how:
            wanted.append(leaf)
