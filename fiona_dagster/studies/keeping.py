"""Which elements of a header are kept, and under which tag: fed by the scan or by the walk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping

from fiona_dagster.dicom.scan import Lookup, swapped
from fiona_dagster.dicom.walker import PIXEL_DATA, UNDEFINED, Element
from fiona_dagster.studies import diffusion, frames, private
from fiona_dagster.studies.attributes import judged_tags
from fiona_dagster.studies.header import PIXEL_REPRESENTATION, SPECIFIC_CHARACTER_SET, InstanceHeader, Place
from fiona_dagster.studies.multiframe import Frames

MAX_KEPT = 16 * 1024
"""Values longer than so many bytes count as present but are not kept."""
MAX_KEPT_FILE = 2**20
"""Bytes of values that are kept of one file."""
MAX_KEPT_ELEMENTS = 5000
"""Elements that are kept of one file; none has so many at the top level."""
MAX_VENDOR = 4 * 2**20
"""Bytes of a vendor's header that are looked at."""
PIXELS = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))
BASIC_TAGS = frozenset(
    (
        SPECIFIC_CHARACTER_SET,
        0x00080016,
        0x00080018,
        0x00080021,
        0x00080060,
        0x00100010,
        0x00100020,
        0x00100021,
        0x00100030,
        0x0020000D,
        0x0020000E,
        0x00200013,
        0x00200052,
        PIXEL_REPRESENTATION,
        0x00287FE0,
        0x00280002,
        0x00280004,
        0x00280008,
        0x00280010,
        0x00280011,
        0x00280100,
    )
)
"""Tags that are kept whatever the rules want: identities, frame of reference, the shape of the pixels."""
_ALWAYS = (
    BASIC_TAGS | frames.SOURCES | PIXELS | {frames.SHARED, frames.PER_FRAME} | frozenset(private.CSA_TAGS)
)


_ASKED = (
    PIXELS | private.CREATORS | frozenset(private.CSA_TAGS) | {frames.SHARED, frames.PER_FRAME}
)  # not just kept


class _Everything:
    """Every tag is wanted, each with a look at what it is."""

    @staticmethod
    def get(_: int) -> int:
        return 0


def wanted_with_creators(tags: Collection[int]) -> frozenset[int]:
    """The tags and the private creators (PS3.5 section 7.8.1) of those that are private."""
    creators = {
        tag & 0xFFFF0000 | tag >> 8 & 0xFF for tag in tags if tag >> 16 & 1 and tag & 0xFFFF >= 0x1000
    }
    return frozenset(tags) | creators


class Plan(dict[int, int]):
    """See :attr:`fiona_dagster.dicom.scan.Sink.wanted`; never changed once made."""

    __hash__ = object.__hash__  # type: ignore[assignment]


@functools.lru_cache(maxsize=16)
def _plan(tags: frozenset[int]) -> Plan:
    """Wanted tags as the scan compares them."""
    wanted = wanted_with_creators(tags) | _ALWAYS | private.CREATORS
    return Plan((swapped(tag), 0 if tag in _ASKED else tag) for tag in wanted)


@functools.lru_cache(maxsize=256)
def _extended(plan: Plan, tag: int, creator: str) -> Plan:
    """A plan with the places of private elements after one creator; mostly they are in it already."""
    more = {swapped(alias): 0 for alias in private.aliases(tag, creator) if alias not in private.PLAIN_TAGS}
    return plan if more.keys() <= plan.keys() else Plan({**more, **plan})


def _inside() -> dict[int, frozenset[int]]:
    table: dict[int, set[int]] = {}
    for sequence, tag in frames.GROUPS:
        table.setdefault(swapped(sequence), set()).add(swapped(tag))
    for block in range(0x10, 0x100):  # Siemens XA: protocol and phase direction in sequences of their own
        low = {0x00210000 | block, 0x00210019 | block << 8, 0x0021001C | block << 8}
        low |= {0x00210000 | block << 8 | last for lows in frames.SIEMENS.values() for last in lows}
        table[swapped(0x002100FE | block << 8)] = {swapped(tag) for tag in low}
    philips = {0x20010000 | block for block in range(0x10, 0x100)}
    lows = private.NAMED[0x2001, "Philips Imaging DD 001"]
    philips |= {0x20010000 | block << 8 | low for block in range(0x10, 0x100) for low in lows}
    inside = {swapped(tag) for tag in philips}
    for block in range(0x10, 0x100):  # Philips: a classic object's elements in a sequence of their own
        table[swapped(0x2005000E | block << 8)] = table[swapped(0x2005000F | block << 8)] = inside
    shared = frozenset(inside)
    return {seq: shared if tags is inside else frozenset(tags) for seq, tags in table.items()}


_NESTED: Mapping[int, frozenset[int]] = _inside()
_EVERYTHING = _Everything()


class Keeper:
    """Keeps what is wanted of one file (a :class:`~fiona_dagster.dicom.scan.Sink`).

    Args:
        tags: top-level tags that are wanted; ``None``: all short elements.
        read: ``read(offset, length)`` gives bytes of the data set.
        big: big endian.
    """

    nested: Mapping[int, frozenset[int]] = _NESTED
    items = frozenset((swapped(frames.PER_FRAME),))
    longest = 1024

    def __init__(self, tags: frozenset[int] | None, read: Callable[[int, int], bytes], *, big: bool) -> None:
        self._tags = tags
        plan = None if tags is None else _plan(tags)
        self.wanted: Plan | _Everything = _EVERYTHING if plan is None else plan
        self._plan = self.plan = plan
        self._read = read
        self._big = big
        self._room = MAX_KEPT_FILE
        self.elements: dict[int, tuple[str, bytes]] = {}
        self._creators: dict[int, str] = {}
        self._counts_as: dict[int, int] = {}
        self._inner: dict[int, dict[int, int]] = {}
        self._places: list[Place] = []
        self._frames: Frames | None = None

    def anew(self, wanted: Lookup) -> Keeper:
        """One of the same file that has kept nothing yet, and wants this."""
        fresh = Keeper(self._tags, self._read, big=self._big)
        if isinstance(wanted, Plan):
            fresh.wanted = fresh._plan = wanted
        return fresh

    def found(self, tag: int, vr: str, offset: int, length: int, data: bytes, base: int) -> None:  # noqa: PLR0917
        """See :class:`~fiona_dagster.dicom.scan.Sink`."""
        kept = self.elements
        in_frames = tag in (frames.SHARED, frames.PER_FRAME)
        if length == UNDEFINED or vr == "SQ" or tag in PIXELS or in_frames:
            if in_frames and self._frames is None:
                self._frames = Frames(judged_tags(self._tags), big=self._big)
            kept[tag] = ("SQ", b"")
            return
        counts_as, unnamed = self._counts_as.get(tag, 0), False
        if not counts_as and tag in private.CSA_TAGS:
            unnamed = not self._creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
            counts_as = private.CSA_TAGS[tag] if unnamed else 0
        if counts_as in private.VENDOR and 0 < length <= MAX_VENDOR:
            self._places.append((counts_as, unnamed, offset, length))
        if self._plan is None and len(kept) >= MAX_KEPT_ELEMENTS and tag not in _ALWAYS:
            return
        if length <= MAX_KEPT and length <= self._room:
            self._room -= length
            kept[tag] = (vr, self._bytes(offset, length, data, base))
            if tag in private.CREATORS:
                self._creator(tag, kept[tag][1])
        else:
            kept[tag] = (vr, b"")

    def found_inside(  # noqa: PLR0917
        self, sequence: int, tag: int, vr: str, offset: int, length: int, data: bytes, base: int, depth: int
    ) -> None:
        """See :class:`~fiona_dagster.dicom.scan.Sink`."""
        if self._frames is None or length == UNDEFINED or length > MAX_VENDOR:
            return
        group = frames.GROUPS.get((sequence, tag))
        if group is None:
            group = self._vendor_inside(tag, offset, length, data, base)
        elif depth != 2 + (sequence in frames.INNER):
            return
        if group and length <= MAX_KEPT:
            self._frames.say(group, vr, self._bytes(offset, length, data, base))

    def _bytes(self, offset: int, length: int, data: bytes, base: int) -> bytes:
        """Bytes of the file, from those at hand if they reach."""
        index = offset - base
        inside = 0 <= index <= len(data) - length
        return data[index : index + length] if inside else self._read(offset, length)

    def found_item(self, sequence: int) -> None:
        """See :class:`~fiona_dagster.dicom.scan.Sink`."""
        if self._frames is not None and sequence == frames.PER_FRAME:
            self._frames.begin()

    def take(self, element: Element, *, whole: bool) -> None:
        """A top-level element of a walk; ``whole``: its value is all there."""
        tag, vr, offset, length, _ = element
        if self._plan is not None and swapped(tag) not in self._plan:
            return
        if whole or length == UNDEFINED or vr == "SQ" or tag in PIXELS:
            self.found(tag, vr, offset, length, b"", 0)

    def take_inside(self, sequence: int, element: Element) -> None:
        """An element inside items, of a walk."""
        inside = self.nested.get(swapped(sequence))
        if inside is not None and swapped(element.tag) in inside:
            tag, vr, offset, length, depth = element
            self.found_inside(sequence, tag, vr, offset, length, b"", 0, depth)

    def hand_over(self, header: InstanceHeader, *, sealed: bool) -> None:
        """Gives the header what was kept; nothing at the top level is overwritten by functional groups.

        Args:
            header: gets it.
            sealed: positions are those in the file, so that vendors' headers can be read when asked for.
        """
        elements = self.elements
        if self._frames is not None:
            header.kinds = self._frames.add_to(elements)
            header.varying = frozenset(self._frames.varying)
        if self._creators:
            private.settle(elements, self._creators)
        diffusion.add(elements, big=self._big)
        header.elements = elements
        if sealed:
            header.vendor_places = tuple(self._places)
        else:
            header.learn(tuple(self._places), self._read)

    def _creator(self, tag: int, data: bytes) -> None:
        name = data.decode("latin-1").strip(" \0")
        self._creators[tag] = name
        found = private.aliases(tag, name)
        if found:
            self._counts_as.update(found)
            if self._plan is not None:
                self.wanted = self._plan = _extended(self._plan, tag, name)

    def _vendor_inside(self, tag: int, offset: int, length: int, data: bytes, base: int) -> int:
        """Siemens' values in the sequences of XA software, where a creator stands in the item itself.

        Returns:
            The classic tag that the element counts as; 0 for none.
        """
        if tag & 0xFFFF < 0x100:
            name = self._bytes(offset, min(length, 64), data, base).decode("latin-1").strip(" \0")
            lows = frames.SIEMENS.get(name, {})
            block = tag & 0xFFFF0000 | (tag & 0xFF) << 8
            self._inner[tag] = {**private.aliases(tag, name), **{block | low: to for low, to in lows.items()}}
            return 0
        counts_as = self._inner.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, {}).get(tag, 0)
        if counts_as not in private.VENDOR:
            return counts_as
        if length and all(place[0] != counts_as for place in self._places):
            self._places.append((counts_as, False, offset, length))
        return 0
