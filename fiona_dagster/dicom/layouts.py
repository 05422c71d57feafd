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

from fiona_dagster.dicom.scan import LONG_VRS, PIXEL_TAGS, Lookup, Met, Scanned, Sink, swapped
from fiona_dagster.dicom.walker import UNDEFINED, Element

MAX_NEXT = 6
"""Blocks that are tried behind a block; the one that came last is tried first."""
MAX_BLOCKS = 2048
"""Blocks of one plan; above that they are learned anew."""
COMPARED, LEARNED = 2, 10
"""Files of a series that are only compared, and that are compared or learned from."""
MAX_SERIES = 256
"""Series that are remembered to be learned from."""
_LARGEST = 4096
"""Bytes of a value or of heads inside a block; what is larger ends it."""
_REFILL = 4096
_WINDOW = 64 * 1024
_VARYING = frozenset(swapped(tag) for tag in (0x00080018, 0x00200013, 0x00200032, 0x00201041))
"""UID, number, position and location of an instance: they differ in length in nearly every series."""
_SHORT_LENGTH, _LONG_LENGTH = struct.Struct("<H"), struct.Struct("<I")


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
        pixels: the last element holds pixels.
        nexts: blocks that followed, by what the sink wanted behind the last element.
    """

    __slots__ = (
        *("asked", "expected", "kept", "length", "length_at", "nexts", "pixels", "size", "tag", "tags"),
        *("unpack", "values", "vr", "vrs"),
    )

    def __init__(
        self,
        heads: list[bytes],
        lengths: list[int],
        wanted: list[tuple[int, int, str]],
        last: Met,
        how: int | None,
    ) -> None:
        """Makes one.

        Args:
            heads: bytes before each value.
            lengths: of the values, but for the last one.
            wanted: (index, tag, VR) of the values that are wanted.
            last: the last element.
            how: what the sink says of the last element, see :attr:`Sink.wanted`.
        """
        number, self.vr = last[:2]
        self.tag, self.pixels = swapped(number), number in PIXEL_TAGS
        # a length of four bytes (PS3.5 section 7.1.2): long VRs and implicit VR
        width = 4 if not self.vr or self.vr.encode("ascii") in LONG_VRS else 2
        self.length = (_LONG_LENGTH if width == 4 else _SHORT_LENGTH).unpack_from
        heads[-1] = heads[-1][:-width]
        sizes = [len(head) for head in heads]
        self.length_at = sum(sizes) + sum(lengths)
        self.size = self.length_at + width
        pairs = zip(sizes, [*lengths, 0], strict=True)
        self.unpack = struct.Struct(
            "<" + "".join([f"{size}s{length}x" for size, length in pairs])
        ).unpack_from
        self.expected = tuple(heads)
        self.tags, self.vrs = tuple(tag for _, tag, _ in wanted), tuple(vr for *_, vr in wanted)
        self.values = None
        if wanted:
            code, gap, begin = "<", 0, 0
            for index, *_ in wanted:
                gap = sum(sizes[begin : index + 1]) + sum(lengths[begin:index])
                code += f"{gap}x{lengths[index]}s"
                begin = index + 1
            self.values = struct.Struct(code).unpack_from
        self.kept, self.asked = bool(how), how == 0
        self.nexts: dict[Lookup, list[Block]] = {}

    def behind(self, wanted: Lookup) -> list[Block]:
        """Blocks that followed where the sink wanted this."""
        found = self.nexts.get(wanted)
        if found is None:
            found = self.nexts[wanted] = []
        return found


class Followed(NamedTuple):
    """How far known blocks led.

    Attributes:
        data: bytes of the file from ``base`` on.
        base: see ``data``.
        at: index into ``data``: a place between two elements of the top level.
        nexts: the blocks known there, none of which fits.
        wanted: what the sink wants there.
        scanned: what was met.
        whole: it led to the end of the file.
    """

    data: bytes
    base: int
    at: int
    nexts: list[Block]
    wanted: Lookup
    scanned: Scanned
    whole: bool


class Layouts:
    """The layouts that were learned for one plan of wanted elements, in one encoding.

    Several threads may use it: each step leaves the lists whole; a block tried in vain only costs time.
    """

    def __init__(self) -> None:
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
                nexts[:] = [block, *(each for each in nexts if each is not block)]
            at = start + length
            if block.kept and length <= longest and at <= there:
                elements[block.tag] = (block.vr, data[start:at])
            elif block.kept or block.asked:
                if block.pixels:
                    pixels = Element(block.tag, block.vr, base + start, length, 0)
                sink.found(block.tag, block.vr, base + start, length, data, base)
                wanted = sink.wanted
            nexts = block.behind(wanted)
        return Followed(data, base, at, nexts, wanted, Scanned(pixels, 0), base + at == size)

    def wants(self, series: bytes) -> bool:
        """Whether something is to be learned from a file that could not be followed to its end.

        A layout pays only where more files follow: the first file of a series is let go, some are compared,
        then some are learned from, and ever fewer of those that come later.

        Args:
            series: what it belongs to, for instance its SeriesInstanceUID.
        """
        known = self._series.get(series)
        if known is None:
            if len(self._series) >= MAX_SERIES:
                self._series.clear()
            self._series[series] = _Series()
            return False
        known.missed += 1
        return known.missed <= LEARNED or not known.missed & known.missed - 1

    def learn(
        self, series: bytes, known: Followed, trace: list[Met], read: Callable[[int, int], bytes], sink: Sink
    ) -> None:
        """Learns from a sound data set.

        Args:
            series: see :meth:`wants`.
            known: how far it could be followed.
            trace: what the scan met from there on.
            read: ``read(offset, length)`` gives bytes of the file.
            sink: a new one, to be asked as it was when the data set was read.
        """
        before = self._series.get(series) or _Series()
        start = known.base + known.at
        usable = _usable(trace, start, sink)
        before.compare(usable)
        if before.missed <= COMPARED or not usable:
            return
        window = _Window(known.data, known.base, read)
        nexts = known.nexts
        for block, wanted in _blocks(usable, start, before.varying, sink, window):
            nexts.insert(0, block)
            del nexts[MAX_NEXT:]
            self._blocks += 1
            nexts = block.behind(wanted)
        if self._blocks > MAX_BLOCKS:
            self._roots, self._blocks = [], 0


class _Series:
    """What is known of a series: elements of the top level whose lengths differ."""

    def __init__(self) -> None:
        self.missed = 0
        self.varying = set(_VARYING)
        self._lengths: dict[int, int] = {}

    def compare(self, trace: list[Met]) -> None:
        """Notes elements whose length is another than before."""
        known = self._lengths.setdefault
        for number, _, _, length, depth, holds in trace:
            if not depth and not holds and known(number, length) != length:
                self.varying.add(number)


class _Window:
    """Bytes of a file, read in pieces."""

    def __init__(self, data: bytes, base: int, read: Callable[[int, int], bytes]) -> None:
        self._data, self._base, self._read = data, base, read

    def between(self, start: int, end: int) -> bytes:
        """Bytes from ``start`` to ``end``."""
        if end - self._base > len(self._data):
            self._data, self._base = self._read(start, max(end - start, _REFILL)), start
        return self._data[start - self._base : end - self._base]


def _usable(trace: list[Met], end: int, sink: Sink) -> list[Met]:
    """What a layout can hold of a data set; ends with a value of the top level."""
    count, last, lookup = 0, -1, sink.wanted.get
    for index, (number, _, start, length, depth, holds) in enumerate(trace):
        if not depth:
            tag = (number & 0xFFFF) << 16 | number >> 16
            if tag <= last:
                break  # out of order: a creator may stand behind what it creates
            last = tag
        if start - end > _LARGEST:
            break
        if holds:
            if not depth and lookup(number) is not None:
                break
        else:
            if not depth:
                count = index + 1
            elif length > _LARGEST:
                break
            end = start + length
    return trace[:count]


def _blocks(
    trace: list[Met], end: int, varying: set[int], sink: Sink, window: _Window
) -> Iterator[tuple[Block, Lookup]]:
    """Cuts elements into blocks, each with what the sink wants behind it.

    The sink is asked as a scan would ask it.
    """
    heads: list[bytes] = []
    lengths: list[int] = []
    wanted: list[tuple[int, int, str]] = []
    final, lookup = trace[-1], sink.wanted.get
    for met in trace:
        number, vr, start, length, depth, holds = met
        if holds:
            continue
        heads.append(window.between(end, start))
        end = start + length
        if not depth:
            how = lookup(number)
            if how == 0:
                sink.found(swapped(number), vr, start, length, b"", 0)  # may change what is wanted
                lookup = sink.wanted.get
            longest = sink.longest if how else _LARGEST
            if how == 0 or number in varying or length > longest or met is final:
                yield Block(heads, lengths, wanted, met, how), sink.wanted
                heads, lengths, wanted = [], [], []
                continue
            if how:
                wanted.append((len(lengths), how, vr))
        lengths.append(length)
