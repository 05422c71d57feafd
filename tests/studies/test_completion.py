"""When a study is complete."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fiona_dagster.studies import Arrival, due

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def ask(*silences: float, connected: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    arrivals = [Arrival(str(i), NOW - timedelta(seconds=each)) for i, each in enumerate(silences)]
    return due(
        NOW, arrivals, quiet_seconds=16, quiet_seconds_open=600, is_open=lambda study: study in connected
    )


@pytest.mark.parametrize(
    ("silence", "connected", "expected"),
    [
        (0, False, False),
        (15.9, False, False),
        (16, False, True),
        (16, True, False),
        (599, True, False),
        (600, True, True),
        (-5, False, False),
        (-599, False, False),
        (-100_000, True, True),
    ],
)
def test_silence_and_open_associations_decide(silence: float, connected: bool, expected: bool) -> None:
    assert ask(silence, connected={"0"} if connected else set()) == (["0"] if expected else [])


def test_the_longest_silence_comes_first() -> None:
    assert ask(20, 5, 300, 16) == ["2", "0", "3"]


def test_associations_are_only_looked_at_where_it_matters() -> None:
    asked = []

    def is_open(study: str) -> bool:
        asked.append(study)
        return False

    arrivals = [Arrival(str(s), NOW - timedelta(seconds=s)) for s in (1, 20, 700)]
    due(NOW, arrivals, quiet_seconds=16, quiet_seconds_open=600, is_open=is_open)

    assert asked == ["20"]
