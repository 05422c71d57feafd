"""Stretches of a header that stand byte by byte in one object after the other, and what became of them.

Most elements of a series are the same in every slice. What the pass (``passage``) makes of consecutive
elements at the top level follows from these alone:

- their bytes, compared as a whole;
- the person and its rows, to whom what is remembered belongs (IOD, VR encoding, study, character set, told
  values, assigned elements, character of every place);
- how many of the assigned elements were written before them;
- that their first tag is greater than the one before, which the pass looks at itself;
- where private groups are treated as a whole: that no more of their last group follows.

All of that is looked at before an outcome is used again. Belongs here: which stretches, and when to look for
new ones. Stays out: the walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from fiona_dagster.deid.rows import Counted

Hint = tuple[int, str, bytes]
"""Tag, VR and value that tell whose an object is, in the character set of the object."""
Suspect = tuple[bool, bytes]
"""Whether it is text, and a value with something like a UID."""

LONGEST_HEADER = 1 << 16
"""Bytes before the pixel data; longer headers are mostly one sequence, whose elements are remembered."""
_LONGEST = 1 << 14
"""Bytes of a stretch."""
_FEWEST = 2
"""Elements of a stretch."""
_VARIANTS = 6
"""Stretches that begin with the same tag."""
_ROOM = 1 << 20
"""Bytes that may be remembered; about."""
_PRICE, _SAVINGS = 3, 12
"""Looking for stretches takes about so many passes, and they are saved up; at most so many."""


class Stretch(NamedTuple):
    """Consecutive elements and what became of them.

    Attributes:
        data: all their bytes.
        before, after: how many of the assigned elements are written before and after them.
        last: the last tag.
        group: first two bytes of an element that must not follow; b"" if any may.
        tags, offsets: where each begins, from the first on.
        charset: Specific Character Set if it is among them; b"" if not.
        written: new bytes, assigned elements among them.
        counted, told, suspects, originals, uids: as ``notes.Notes`` has them.
    """

    data: bytes
    before: int
    after: int
    last: int
    group: bytes
    tags: tuple[int, ...]
    offsets: tuple[int, ...]
    charset: bytes
    written: bytes
    counted: list[Counted]
    told: list[Hint]
    suspects: list[Suspect]
    originals: set[str]
    uids: dict[int, str]

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.data) + len(self.written) + 100 * (len(self.tags) + len(self.counted)) + 1000


class Passed(NamedTuple):
    """A header that was passed: its bytes, where the elements of the top level begin, and where they end."""

    data: bytes
    places: dict[int, int]
    end: int


Make = Callable[[int, int, int], Stretch]
"""What becomes of elements: where they begin, where they stop, and the tag before them."""


@dataclass
class Stretches:
    """The stretches of one person's objects.

    Attributes:
        found: by first tag, the latest first.
    """

    found: dict[int, tuple[Stretch, ...]] = field(default_factory=dict)
    _previous: Passed | None = None
    _alone: int = 0
    _saved: int = _PRICE

    def forget(self) -> None:
        """Starts again."""
        self.found.clear()
        self._previous, self._alone = None, 0

    def learn(self, passed: Passed, alone: int, whole_groups: bool, make: Make) -> None:
        """Looks for stretches that this header has in common with the one before, if that seems worth it.

        Args:
            passed: a header whose copy is fit to be made.
            alone: elements of it that are in no stretch that is known.
            whole_groups: private groups are treated as a whole.
            make: see :data:`Make`.
        """
        if passed.end > LONGEST_HEADER:
            return
        previous, self._previous = self._previous, passed
        self._saved = min(self._saved + 1, _SAVINGS)
        if previous is None or (self.found and alone <= self._alone + 1) or self._saved < _PRICE:
            return
        self._saved -= _PRICE
        self._alone = len(passed.places)
        for begin, stop, before in _common(passed, previous, whole_groups):
            made = make(begin, stop, before)
            self._alone -= len(made.tags)
            first = made.tags[0]
            others = [each for each in self.found.get(first, ()) if each.data != made.data]
            self.found[first] = (made, *others[: _VARIANTS - 1])
        if sum(each.size for several in self.found.values() for each in several) > _ROOM:
            self.forget()


def _units(passed: Passed, whole_groups: bool) -> Iterator[tuple[int, int, int, int]]:
    """First tag, last tag, begin and end of what must not be divided."""
    tags = list(passed.places)
    ends = [*list(passed.places.values())[1:], passed.end]
    at = 0
    while at < len(tags):
        first = tags[at]
        while whole_groups and first >> 16 & 1 and at + 1 < len(tags) and tags[at + 1] >> 16 == first >> 16:
            at += 1
        yield first, tags[at], passed.places[first], ends[at]
        at += 1


def _common(passed: Passed, previous: Passed, whole_groups: bool) -> Iterator[tuple[int, int, int]]:
    """Where the longest stretches that are in both headers begin and stop in the first; the tag before."""
    there = {first: previous.data[begin:end] for first, _, begin, end in _units(previous, whole_groups)}
    start = stop = number = before = 0
    latest = -1
    for first, last, begin, end in _units(passed, whole_groups):
        same = end - begin <= _LONGEST and there.get(first) == passed.data[begin:end]
        if number >= _FEWEST and (not same or end - start > _LONGEST):
            yield start, stop, before
        if not same or end - start > _LONGEST:
            number = 0
        if same:
            start, before = (start, before) if number else (begin, latest)
            stop, number = end, number + 1
        latest = last
    if number >= _FEWEST:
        yield start, stop, before
