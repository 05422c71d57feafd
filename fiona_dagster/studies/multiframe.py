"""The frames of an enhanced multi-frame object, as far as rules and the record can tell them apart.

The record shows the first frame. Rules judge every frame as they judge an instance: what differs between the
frames of an object is kept once for each kind of frame that rules can tell apart.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from fiona_dagster.studies.frames import (
    DERIVED,
    GROUP_SOURCES,
    GROUPS,
    SIEMENS,
    TEMPORAL,
    Stored,
    classic,
    derive,
)
from fiona_dagster.studies.private import PLAIN_TAGS
from fiona_dagster.studies.values import number

MAX_KINDS = 4096
"""Kinds of frames of one object that are told apart."""
MAX_KIND_BYTES = 4 * 2**20
"""Bytes of values in all kinds of one object."""
MAX_VALUE = 1024
"""Bytes of a value in a functional group that are kept."""
_POSITION, _ORIENTATION, _LOCATION = 0x00200032, 0x00200037, 0x00201041
_TEMPORAL_POSITIONS, _IN_ACQUISITION, _FRAMES = 0x00200105, 0x00201002, 0x00280008
_TARGETS = (
    frozenset(GROUPS.values())
    | DERIVED
    | PLAIN_TAGS
    | {tag for lows in SIEMENS.values() for tag in lows.values()}
) - {_LOCATION, _TEMPORAL_POSITIONS, _IN_ACQUISITION}


class Kind(NamedTuple):
    """Frames that rules can't tell apart.

    Attributes:
        frame: number of the first one, from 1.
        other: what is not as in the header's elements: tag -> VR and value, or ``None`` where it is missing.
    """

    frame: int
    other: dict[int, Stored | None]


class Frames:
    """Takes what the functional groups of one object say.

    Args:
        judged: tags that rules look at; frames that are alike in these are of one kind. ``None``: all.
        big: big endian.

    Attributes:
        varying: tags whose values differ between frames.
    """

    def __init__(self, judged: Collection[int] | None, *, big: bool) -> None:
        self._judged = _TARGETS | GROUP_SOURCES if judged is None else frozenset(judged) | GROUP_SOURCES
        self._big = big
        self._shared: dict[int, Stored] = {}
        self._any: dict[int, Stored] = {}
        self._first: dict[int, Stored] | None = None
        self._current: dict[int, Stored] | None = None
        self._kinds: dict[tuple[tuple[int, Stored], ...], int] = {}
        self._room = MAX_KIND_BYTES
        self._count = 0
        self._temporal: set[bytes] = set()
        self._lowest: float | None = None
        self.varying: set[int] = set()

    def begin(self) -> None:
        """A frame begins; what was said before is shared by all."""
        self._close()
        self._current = {}
        self._count += 1

    def say(self, tag: int, vr: str, data: bytes) -> None:
        """An element of a functional group that counts as ``tag``; the first one in a frame counts."""
        stored = classic(tag, vr, data if len(data) <= MAX_VALUE else b"", big=self._big)
        self._any.setdefault(tag, stored)
        (self._shared if self._current is None else self._current).setdefault(tag, stored)

    def _close(self) -> None:
        frame = self._current
        if frame is None:
            return
        self._current = None
        if TEMPORAL in frame:
            self._temporal.add(frame.pop(TEMPORAL)[1])
        self._place(frame)
        if self._first is None:
            self._first = frame
        first = self._first
        if frame != first:
            tags = frame.keys() | first.keys()
            self.varying.update(tag for tag in tags if frame.get(tag) != first.get(tag))
        kind = tuple([each for each in frame.items() if each[0] in self._judged])
        if kind not in self._kinds and len(self._kinds) < MAX_KINDS and self._room >= 0:
            self._room -= sum([len(data) for _, (_, data) in kind])
            self._kinds[kind] = self._count

    def _place(self, frame: dict[int, Stored]) -> None:
        """Keeps the lowest distance of a frame along the normal of its plane (PS3.3 section C.7.6.2.1.1)."""
        position = _decimals(frame.get(_POSITION) or self._shared.get(_POSITION), 3)
        cosines = _decimals(frame.get(_ORIENTATION) or self._shared.get(_ORIENTATION), 6)
        if not position or not cosines:
            return
        (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
        x, y, z = position
        place = x * (b * f - c * e) + y * (c * d - a * f) + z * (a * e - b * d)
        if self._lowest is None or place < self._lowest:
            self._lowest = place

    def add_to(self, elements: dict[int, Stored]) -> tuple[Kind, ...]:
        """Adds what the first frame says, under the tags of classic objects; nothing is overwritten.

        Besides, from all frames: NumberOfTemporalPositions, SliceLocation (the lowest), ImagesInAcquisition.

        Args:
            elements: of the top level, changed in place.

        Returns:
            The kinds of frames, the first one first; empty where all are alike.
        """
        self._close()
        top = dict(elements)
        self._any.pop(TEMPORAL, None)
        _fill(elements, {**self._any, **self._shared, **(self._first or {})})
        kinds = [self._kind(elements, top, dict(said), frame) for said, frame in self._kinds.items()]
        if len(self._temporal) > 1:  # one may be a part of more
            elements.setdefault(_TEMPORAL_POSITIONS, ("IS", str(len(self._temporal)).encode("ascii")))
        if self._lowest is not None:
            elements.setdefault(_LOCATION, ("DS", f"{self._lowest:.8g}".encode("ascii")))
        if _FRAMES in elements:
            elements.setdefault(_IN_ACQUISITION, elements[_FRAMES])
        self.varying.update(tag for kind in kinds for tag in kind.other)
        return tuple(kinds) if any(kind.other for kind in kinds) else ()

    def _kind(
        self, elements: dict[int, Stored], top: dict[int, Stored], said: dict[int, Stored], frame: int
    ) -> Kind:
        own = dict(top)
        _fill(own, {**self._shared, **said})
        tags = (self._judged | DERIVED) & _TARGETS & (own.keys() | elements.keys())
        return Kind(frame, {tag: own.get(tag) for tag in tags if own.get(tag) != elements.get(tag)})


def _fill(elements: dict[int, Stored], said: dict[int, Stored]) -> None:
    for tag, stored in said.items():
        elements.setdefault(tag, stored)
    derive(elements)


def _decimals(stored: Stored | None, count: int) -> tuple[float, ...]:
    """So many numbers of a decimal string; nothing if they are not there."""
    if stored is None:
        return ()
    found = [number(part) for part in stored[1].decode("latin-1").strip(" \0").split("\\")]
    numbers = tuple(each for each in found if each is not None)
    return numbers if len(numbers) == len(found) == count else ()
