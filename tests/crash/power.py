"""Every moment of a recorded reception at which the power may fail, and what is then missing."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fiona_dagster.config import DataRoot
from tests.crash import calls
from tests.crash.disk import Change, Disk, Fate, Node
from tests.crash.events import Event, answers
from tests.crash.promises import Promised, broken_after_restart, broken_promises

_FATES: tuple[Fate, ...] = ("kept", "dropped", "zeroed", "cut")
_REFUSALS = range(0xA900, 0xD000)


def drops_all(_: Change) -> bool:
    """The disk kept no name that it was not told to keep."""
    return False


def keeps_all(_: Change) -> bool:
    """The disk kept every name."""
    return True


def dropped(_: Node, __: int) -> Fate:
    return "dropped"


def zeroed(_: Node, __: int) -> Fate:
    return "zeroed"


def kept(_: Node, __: int) -> Fate:
    return "kept"


_EXTREMES: list[tuple[str, Callable[[Change], bool], Callable[[Node, int], Fate]]] = [
    ("nothing unflushed kept", drops_all, dropped),
    ("names kept, bytes zero", keeps_all, zeroed),
    ("names kept, bytes missing", keeps_all, dropped),
    ("bytes kept, names missing", drops_all, kept),
    ("everything kept", keeps_all, kept),
]


def _mixture(seed: str) -> tuple[Callable[[Change], bool], Callable[[Node, int], Fate]]:
    """Chance decides, but always the same for the same change and the same seed."""
    return (
        lambda change: random.Random(f"{seed} {change.number}").random() < 0.5,
        lambda node, number: random.Random(f"{seed} {node.number} {number}").choice(_FATES),
    )


def losses(
    start: Path,
    events: Sequence[Event],
    sent: dict[str, list[bytes]],
    work: Path,
    *,
    seed: int = 0,
    without: Callable[[Event], bool] = lambda _: False,
    only_first: bool = False,
    log: bool = False,
) -> list[str]:
    """Lets the power fail after every event and looks what was promised and is not there.

    Args:
        start: what was on the disk before.
        events: the record.
        sent: data sets by SOP Instance UID, in the order in which they were sent.
        work: an empty folder for the disk's remains; best on a file system in memory.
        seed: of the random mixtures.
        without: flushes to leave out of the record.
        only_first: stop at the first fault.
        log: the file system has one log for all changes of names, as ext4 and XFS have.

    Returns:
        A line for each fault; empty is good.
    """
    disk = Disk(start, log=log)
    promised = Promised(sent={uid: list(data) for uid, data in sent.items()})
    faults: list[str] = []
    seen: set[int] = set()
    for number, event in enumerate(_but(events, without)):
        changed = disk.apply(event)
        if not (_told(event, promised) or changed):
            continue
        told = sum(map(len, promised.success.values())), len(promised.refused)
        # With one log the length of a file can't be newer than the names: it stands in the same log.
        moments = [*_EXTREMES, (f"mixture {seed}", *_mixture(f"{seed} {number}"))]
        for name, keeps, fate in [m for m in moments if not log or m[1] is keeps_all or m[2] is dropped]:
            state = disk.after_power_loss(keeps, fate)
            key = hash((told, frozenset(state.items())))
            if key in seen:
                continue
            seen.add(key)
            found = _look(state, promised, work, early_lines=not log)
            faults += [f"after event {number} ({event}), {name}: {fault}" for fault in found]
            if faults and only_first:
                return faults
    return faults


def _but(events: Iterable[Event], without: Callable[[Event], bool]) -> Iterator[Event]:
    """The events without some flushes: neither their entry nor their exit."""
    skipped: set[int] = set()
    for event in events:
        if event.name in calls.FLUSHING:
            if event.at == "entry" and without(event):
                skipped.add(event.thread)
                continue
            if event.at == "exit" and event.thread in skipped:
                skipped.discard(event.thread)
                continue
        yield event


def _told(event: Event, promised: Promised) -> bool:
    """Notes what a sender is told from this moment on; whether it is told anything."""
    if not (event.socket and event.at == "entry" and event.name in calls.SENDING):
        return False
    found = answers(event.data)
    for answer in found:
        data = promised.next_of(answer.instance)
        if answer.status == 0:
            promised.acknowledge(answer.instance, data)
        elif answer.status in _REFUSALS:
            promised.refused.append(data)
    return bool(found)


def _look(state: dict[str, bytes | None], promised: Promised, work: Path, *, early_lines: bool) -> list[str]:
    root = DataRoot(work / "after")
    try:
        for path, content in state.items():
            target = root.path / path
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        root.path.mkdir(exist_ok=True)
        root.make()
        return broken_promises(root, promised) or broken_after_restart(
            root, promised, early_lines=early_lines
        )
    finally:
        shutil.rmtree(root.path)


def flushes(events: Iterable[Event]) -> list[Event]:
    """The flushes of a record, at their entry."""
    return [event for event in events if event.name in calls.FLUSHING and event.at == "entry"]
