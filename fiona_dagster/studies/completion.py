"""When a study is complete: quiet for a while, and nobody who sent to it still connected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Arrival:
    """The last receipt of a study, from the journal."""

    study: str
    last_arrival: datetime


def due(
    now: datetime,
    studies: Iterable[Arrival],
    *,
    quiet_seconds: float,
    quiet_seconds_open: float,
    is_open: Callable[[str], bool],
) -> list[str]:
    """The studies that are complete, longest silence first.

    Args:
        now: the present time, with zone.
        studies: last arrivals.
        quiet_seconds: silence that is enough when no association that sent to the study is open.
        quiet_seconds_open: silence that is enough in any case.
        is_open: whether such an association is open; asked only where it matters.
    """
    found = []
    for arrival in sorted(studies, key=lambda each: (each.last_arrival, each.study)):
        silence = (now - arrival.last_arrival).total_seconds()
        if silence < -quiet_seconds_open:
            silence = -silence  # the clock was set back by that much: waiting for it would take for ever
        if silence >= quiet_seconds_open or (silence >= quiet_seconds and not is_open(arrival.study)):
            found.append(arrival.study)
    return found
