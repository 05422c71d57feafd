"""Writing many records to REDCap at once, where one of them may be what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fiona_dagster.errors import RedcapRejected

_T = TypeVar("_T")
ALONE = 3
"""So many records that are refused by themselves, and none that is taken: all others would be, too."""


def write_in_halves(items: Sequence[_T], write: Callable[[Sequence[_T]], None]) -> dict[int, RedcapRejected]:
    """Writes all, or halves of them and halves of these, until it is known which ones REDCap does not take.

    A call that is refused whatever it holds (rights, token, dictionary) is made once: thousands of records
    would cost thousands of calls, which the server counts, to learn the same of each.

    Args:
        items: one a record.
        write: writes some of them; what it raises besides RedcapRejected ends it all.

    Returns:
        By its place in ``items``, why a record was refused; ``whole`` where it was not tried by itself.
    """
    refused: dict[int, RedcapRejected] = {}
    parts = [range(len(items))] if items else []
    alone, taken = 0, False
    while parts:
        part = parts.pop()
        try:
            write([items[number] for number in part])
            taken = True
        except RedcapRejected as error:
            if len(part) > 1 and not error.whole and (taken or alone < ALONE):
                half = len(part) // 2
                parts += [part[half:], part[:half]]
                continue
            alone += 1
            refused |= dict.fromkeys(part, error if len(part) == 1 else _of_some(error))
            if error.whole:
                refused |= {number: error for others in parts for number in others}
                break
    return refused


def _of_some(error: RedcapRejected) -> RedcapRejected:
    """Nobody knows which record of several it is, so none of them waits for a person because of it."""
    return RedcapRejected(str(error), error.status, whole=True)
