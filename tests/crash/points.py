"""The named points of a reception: what they mean in system calls, not where they stand in our code."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash import calls
from tests.crash.events import Event, answers

WORKSHOP = r"site/archive/\.incoming/[^/]+/.+"
STUDY_FOLDER = r"site/archive/scp_[0-9.]+"
ARCHIVED = STUDY_FOLDER + r"/[A-Z]+\.[0-9.]+"
JOURNAL = r"site/\.arrived/[^.].* scp_[0-9.]+"
ANNOUNCED = r"ledger/locks/.+\.names"
CONFLICT_FOLDER = r"site/conflicts/[0-9.]+"
CONFLICT = CONFLICT_FOLDER + r"/[^/]+\.dcm"
CONFLICT_REASON = CONFLICT_FOLDER + r"/[^/]+\.json"
QUARANTINED = r"quarantine/[^/.][^/]*\.dcm"
QUARANTINE_REASON = r"quarantine/\.?[^/]+\.json.*"
SUCCESS = 0

Test = Callable[[Event], bool]


@dataclass
class Watch:
    """Counts the events that fit; the last of ``nth`` is the point."""

    test: Test
    nth: int = 1
    count: int = 0

    def seen(self, event: Event) -> bool:
        """Whether this event is the point, or comes after it as one of its kind."""
        if not self.test(event):
            return False
        self.count += 1
        return self.count >= self.nth


def _call(names: frozenset[str] | set[str], at: str, *paths: str, flags: int = 0) -> Test:
    """A call of one of these names whose paths match, entered, or done without an error."""
    patterns = [re.compile(path) for path in paths]

    def test(event: Event) -> bool:
        return (
            event.name in names
            and event.at == at
            and (at == "entry" or event.ok)
            and event.flags & flags == flags
            and len(event.paths) >= len(patterns)
            and all(p.fullmatch(path) for p, path in zip(patterns, event.paths, strict=False))
        )

    return test


_FLUSH = frozenset({"fsync", "fdatasync"})
_LINK = frozenset({"rename", "renameat", "renameat2", "link", "linkat"})
_WRITE = calls.WRITING - {"sendfile"} | {"sendfile"}


def _sent(kind: int, at: str) -> Test:
    return lambda e: (
        e.socket and e.at == at and e.name in calls.SENDING and e.data[:1] == bytes([kind]) and e.result >= 0
    )


def _answer(at: str, good: bool) -> Test:
    def test(event: Event) -> bool:
        if not (event.socket and event.at == at and event.name in calls.SENDING):
            return False
        return any((answer.status == SUCCESS) is good for answer in answers(event.data))

    return test


def _received(number: int) -> Callable[[], Watch]:
    """The ``number``-th piece that was read from a connection; the test's sender waits between its pieces."""
    return lambda: Watch(
        lambda e: e.socket and e.at == "exit" and e.name in calls.READING and e.result > 0, number
    )


class _Half:
    """The entry into the write that would make a file in the workshop at least half as long as the object."""

    WHOLE = 60_000

    def __init__(self) -> None:
        self._sizes: dict[tuple[int, int], int] = {}
        self._done = _call(calls.WRITING, "exit", WORKSHOP)

    def seen(self, event: Event) -> bool:
        if not self._done(event):
            return False
        size = self._sizes[event.inode] = self._sizes.get(event.inode, 0) + event.result
        return size >= self.WHOLE // 2


class _Whole(_Half):
    """The write after which nothing is missing."""

    def seen(self, event: Event) -> bool:
        return super().seen(event) and self._sizes[event.inode] >= self.WHOLE


def _watch(test: Test, nth: int = 1) -> Callable[[], Watch]:
    return lambda: Watch(test, nth)


POINTS: dict[str, Callable[[], object]] = {}
