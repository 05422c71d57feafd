"""The named points of a reception: what they mean in system calls, not where they stand in our code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.crash import calls
from tests.crash.events import Event, answers
from tests.crash.scripts import COMMAND, DATA, OBJECT, REQUEST

WORKSHOP = r"site/archive/\.incoming/[^/]+/.+"
_NAMELESS = r"site/archive/\.incoming/[^/]+"
STUDY_FOLDER = r"site/archive/scp_[0-9.]+"
ARCHIVED = STUDY_FOLDER + r"/[A-Z]+\.[0-9.]+"
JOURNAL = r"site/\.arrived/[^.].* scp_[0-9.]+"
ANNOUNCED = r"ledger/locks/.+\.names"
CONFLICT_FOLDER = r"site/conflicts/[0-9.]+"
CONFLICT = CONFLICT_FOLDER + r"/[^/]+\.dcm"
CONFLICT_REASON = CONFLICT_FOLDER + r"/[^/]+\.json"
_HIDDEN_REASON = CONFLICT_FOLDER + r"/\.[^/]+\.json\.[^/]*"
QUARANTINED = r"quarantine/[^/.][^/]*\.dcm"
QUARANTINE_REASON = r"quarantine/\.?[^/]+\.json.*"

Test = Callable[[Event], bool]


class Point(Protocol):
    """Sees all events and knows the one that it waits for."""

    def seen(self, event: Event) -> bool:
        """Whether this event is the point, or a later one of its kind."""


@dataclass
class Watch:
    """The ``nth`` event that fits."""

    test: Test
    nth: int = 1
    count: int = 0

    def seen(self, event: Event) -> bool:
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
_ANY = r".+"


def _sent(kind: int, at: str) -> Test:
    def test(event: Event) -> bool:
        fits = event.socket and event.at == at and event.name in calls.SENDING
        return fits and event.data[:1] == bytes([kind]) and event.result >= 0

    return test


def _answer(at: str) -> Test:
    def test(event: Event) -> bool:
        fits = event.socket and event.at == at and event.name in calls.SENDING and event.result >= 0
        return fits and bool(answers(event.data))

    return test


class _Counting:
    """Counts bytes of one file or connection until there are enough."""

    def __init__(self, test: Test, enough: int) -> None:
        self._test, self._enough = test, enough
        self._counts: dict[object, int] = {}

    def seen(self, event: Event) -> bool:
        if not self._test(event):
            return False
        which = event.paths[0] if event.socket else event.inode
        self._counts[which] = self._counts.get(which, 0) + event.result
        return self._counts[which] >= self._enough


def _read(enough: int) -> Callable[[], Point]:
    return lambda: _Counting(lambda e: e.socket and e.ok and e.name in calls.READING, enough)


def _written(enough: int) -> Callable[[], Point]:
    return lambda: _Counting(_call(calls.WRITING, "exit", WORKSHOP), enough)


def _watch(test: Test, nth: int = 1) -> Callable[[], Point]:
    return lambda: Watch(test, nth)


class _After:
    """The first event that fits after another one."""

    def __init__(self, first: Test, then: Test) -> None:
        self._first, self._then = first, then
        self._begun = False

    def __call__(self) -> Point:
        return _After(self._first, self._then)

    def seen(self, event: Event) -> bool:
        self._begun = self._begun or self._first(event)
        return self._begun and self._then(event)


def _both(name: str, calls_: frozenset[str], *paths: str, nth: int = 1) -> dict[str, Callable[[], Point]]:
    return {
        f"before {name}": _watch(_call(calls_, "entry", *paths), nth),
        f"after {name}": _watch(_call(calls_, "exit", *paths), nth),
    }


ASSOCIATION: dict[str, Callable[[], Point]] = {
    "connection accepted": _watch(_call({"accept", "accept4"}, "exit")),
    "association request read": _read(len(REQUEST)),
    "before the association is accepted": _watch(_sent(2, "entry")),
    "after the association is accepted": _watch(_sent(2, "exit")),
    "command read": _read(len(REQUEST) + len(COMMAND)),
    "first data read": _read(len(REQUEST) + len(COMMAND) + 1),
    "half the data read": _read(len(REQUEST) + len(COMMAND) + len(OBJECT) // 2),
    "last data read": _read(len(REQUEST) + len(COMMAND) + len(OBJECT)),
    "after the release": _watch(_sent(6, "exit")),
}
FILE: dict[str, Callable[[], Point]] = {
    "before the new file is opened": _watch(_call(calls.OPENING, "entry", _NAMELESS, flags=os.O_TMPFILE)),
    "before the first bytes are written": _watch(_call(calls.WRITING, "entry", WORKSHOP)),
    "new file opened": _watch(_call(calls.OPENING, "exit", WORKSHOP, flags=os.O_WRONLY)),
    "first bytes written": _written(1),
    "half the bytes written": _written(len(DATA) // 2),
    "last bytes written": _written(len(DATA)),
    **_both("the file's flush", _FLUSH, WORKSHOP),
}
FIRST: dict[str, Callable[[], Point]] = {
    "journal opened": _watch(_call(calls.OPENING, "exit", JOURNAL, flags=os.O_CREAT)),
    "journal locked": _watch(_call({"flock"}, "exit", JOURNAL)),
    **_both("the flush of the new journal's name", _FLUSH, r"site/\.arrived"),
    **_both("the study's folder is made", frozenset({"mkdir", "mkdirat"}), STUDY_FOLDER),
    "study's folder flushed into the archive": _watch(_call(_FLUSH, "exit", r"site/archive")),
    "names opened": _watch(_call(calls.OPENING, "exit", ANNOUNCED)),
    **_both("the name is announced", calls.WRITING, ANNOUNCED),
}
FILING: dict[str, Callable[[], Point]] = {
    "names locked": _watch(_call({"flock"}, "exit", ANNOUNCED)),
    **_both("the rename", _LINK, _ANY, ARCHIVED),
    **_both("the folder's flush", _FLUSH, STUDY_FOLDER),
}
LINE: dict[str, Callable[[], Point]] = {
    **_both("the journal line is written", calls.WRITING, JOURNAL),
    **_both("the journal's flush", _FLUSH, JOURNAL),
    "before the answer": _watch(_answer("entry")),
    "after the answer": _watch(_answer("exit")),
}
REPEAT: dict[str, Callable[[], Point]] = {
    "archived file opened to compare": _watch(_call(calls.OPENING, "exit", ARCHIVED)),
    **_both("the second copy is removed", calls.REMOVING, WORKSHOP),
}
CONFLICT_: dict[str, Callable[[], Point]] = {
    **_both("the folder of conflicts is made", frozenset({"mkdir", "mkdirat"}), CONFLICT_FOLDER),
    "folder of conflicts flushed": _watch(_call(_FLUSH, "exit", r"site/conflicts")),
    "before the reason of the conflict is opened": _watch(
        _call(calls.OPENING, "entry", _HIDDEN_REASON, flags=os.O_CREAT)
    ),
    "reason of the conflict opened": _watch(_call(calls.OPENING, "exit", _HIDDEN_REASON, flags=os.O_CREAT)),
    "reason of the conflict written": _watch(_call(calls.WRITING, "exit", _HIDDEN_REASON)),
    **_both("the reason of the conflict gets its name", _LINK, _ANY, CONFLICT_REASON),
    **_both("the conflict gets its name", _LINK, _ANY, CONFLICT),
    "name of the conflict flushed": _After(
        _call(_LINK, "exit", _ANY, CONFLICT), _call(_FLUSH, "exit", CONFLICT_FOLDER)
    ),
}
REFUSAL: dict[str, Callable[[], Point]] = {
    "before the reason of the refusal is opened": _watch(
        _call(calls.OPENING, "entry", QUARANTINE_REASON, flags=os.O_CREAT)
    ),
    "reason of the refusal opened": _watch(_call(calls.OPENING, "exit", QUARANTINE_REASON, flags=os.O_CREAT)),
    "reason of the refusal written": _watch(_call(calls.WRITING, "exit", QUARANTINE_REASON)),
    **_both("the reason of the refusal gets its name", _LINK, _ANY, QUARANTINE_REASON),
    **_both("the refused bytes get their name", _LINK, _ANY, QUARANTINED),
    "name of the refused bytes flushed": _After(
        _call(_LINK, "exit", _ANY, QUARANTINED), _call(_FLUSH, "exit", "quarantine")
    ),
    "before the refusal is answered": _watch(_answer("entry")),
    "after the refusal is answered": _watch(_answer("exit")),
}


def _second(points: dict[str, Callable[[], Point]]) -> dict[str, Callable[[], Point]]:
    """The same points of the second object of an association."""

    def make(point: Callable[[], Point]) -> Callable[[], Point]:
        def second() -> Point:
            watch = point()
            return Watch(watch.test, 2) if isinstance(watch, Watch) else watch

        return second

    return {name: make(point) for name, point in points.items()}


MATRIX: dict[str, dict[str, Callable[[], Point]]] = {
    "the first object of a study": {**ASSOCIATION, **FILE, **FIRST, **FILING, **LINE},
    "a second object": _second({"new file opened": FILE["new file opened"], **FILING, **LINE}),
    "a repeat": {**REPEAT, **LINE},
    "a conflict": {**CONFLICT_, **LINE},
    "a refusal": {"after the file's flush": FILE["after the file's flush"], **REFUSAL},
}
"""Scenario -> name of a point -> how to know it."""

POINTS = {
    f"{scenario}: {name}": point for scenario, points in MATRIX.items() for name, point in points.items()
}
