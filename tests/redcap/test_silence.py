"""A REDCap that takes calls and does not answer: one call at a time waits for it, the others know."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fiona_dagster.errors import RedcapSilent, RedcapUnavailable
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox
from fiona_dagster.redcap.silence import FIRST_PAUSE, LONGEST_PAUSE, Silence

URL = "https://redcap.example/api/"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "silence"


def silence(file: Path, clock: Clock, url: str = URL) -> Silence:
    """As another process has it."""
    return Silence(url, file, probe_seconds=60, clock=clock)


def test_after_one_time_out_one_call_at_a_time_tries(file: Path, clock: Clock) -> None:
    first = silence(file, clock)
    first.require_heard()
    first.unanswered()
    first.require_heard()  # its own next try
    with pytest.raises(RedcapSilent, match="one call at a time"):
        silence(file, clock).require_heard()
    silence(file, clock, "https://other.example/api/").require_heard()

    clock.now += 1.3 * FIRST_PAUSE
    silence(file, clock).require_heard()
    with pytest.raises(RedcapUnavailable):  # that one is at it
        silence(file, clock).require_heard()

    clock.now += 61  # it was killed
    last = silence(file, clock)
    last.require_heard()
    last.answered()
    silence(file, clock).require_heard()


def test_it_is_tried_later_and_later_and_never_later_than_the_longest_pause(file: Path, clock: Clock) -> None:
    waits = []
    for _ in range(8):
        silence(file, clock).unanswered()
        waited = 0.0
        while True:
            try:
                silence(file, clock).require_heard()
            except RedcapUnavailable:
                clock.now += 1
                waited += 1
            else:
                break
        waits.append(waited)
    assert waits[0] <= 1.3 * FIRST_PAUSE < waits[3]
    assert 0.7 * LONGEST_PAUSE < waits[-1] <= 1.3 * LONGEST_PAUSE


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}', "\0\0"])
def test_a_damaged_file_keeps_nobody_from_calling(file: Path, clock: Clock, content: str) -> None:
    file.write_text(content)
    silence(file, clock).require_heard()
    silence(file, clock).unanswered()
    with pytest.raises(RedcapUnavailable):
        silence(file, clock).require_heard()


def test_times_of_before_a_restart_of_the_machine_count_for_nothing(file: Path, clock: Clock) -> None:
    clock.now = 1e6
    silence(file, clock).unanswered()
    clock.now = 5.0
    silence(file, clock).require_heard()


def test_a_server_that_hangs_costs_one_time_out(redcap: Sandbox, tmp_path: Path) -> None:
    def client() -> RedcapClient:
        return RedcapClient(
            redcap.url, redcap.tokens["Incoming"], timeout=0.3, tries=1, budget_file=tmp_path / "calls"
        )

    def not_slept(_seconds: float) -> None:
        raise AssertionError("whose turn it is not does not wait either")

    redcap.faults.delay(1.0, calls=1)
    redcap.calls.clear()
    with pytest.raises(RedcapUnavailable, match="did not answer within"):
        client().version()
    for _ in range(20):
        other = RedcapClient(
            redcap.url, redcap.tokens["Incoming"], budget_file=tmp_path / "calls", sleep=not_slept
        )
        with pytest.raises(RedcapSilent, match="does not answer since"):
            other.version()
    time.sleep(1.2)
    assert len(redcap.calls) == 1

    (tmp_path / "redcap-silence").write_text("")  # its time has come
    assert client().version()
