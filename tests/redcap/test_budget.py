"""The budget of calls: kept by one process, by several, and across a restart of the machine."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fiona_dagster.errors import RedcapUnavailable
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.budget import LONGEST_PAUSE, CallBudget
from fiona_dagster.redcap.sandbox import Sandbox
from tests.redcap.stub import Stub, stub_server

TOKEN = "0123456789ABCDEF0123456789ABCDEF"
CALLER = """
import sys, time
from pathlib import Path
from fiona_dagster.redcap.budget import CallBudget

class Full(Exception):
    pass

def full(seconds):
    raise Full

budget = CallBudget(20, sleep=full, file=Path(sys.argv[1]))
done = 0
try:
    for _ in range(15):
        budget.take()
        done += 1
except Full:
    pass
print(done)
"""


def test_the_budget_of_calls_is_kept() -> None:
    now = 0.0
    taken: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    budget = CallBudget(3, clock=lambda: now, sleep=sleep)
    for _ in range(10):
        budget.take()
        taken.append(now)
        now += 1.0
    assert all(later - earlier >= 60 for earlier, later in zip(taken, taken[3:], strict=False))
    assert taken[:3] == [0.0, 1.0, 2.0]


def test_who_must_not_wait_long_is_told() -> None:
    now = 0.0
    slept: list[float] = []
    budget = CallBudget(1, clock=lambda: now, sleep=slept.append, longest_wait=30)
    budget.take()
    with pytest.raises(RedcapUnavailable, match="others use the budget"):
        budget.take()
    assert slept == []


def test_processes_share_one_budget(tmp_path: Path) -> None:
    """Three processes want 15 calls each at the same time, and there are 20 a minute."""
    command = [sys.executable, "-c", CALLER, str(tmp_path / "ledger" / "calls")]
    started = time.monotonic()
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    done = [int(process.communicate(timeout=170)[0]) for process in running]
    if time.monotonic() - started < 50:  # a machine that slow could rightly begin a second minute
        assert sum(done) == 20
    assert all(number <= 15 for number in done)


def test_clients_of_one_file_share_it_and_others_do_not(redcap: Sandbox, tmp_path: Path) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise InterruptedError

    def client(file: Path) -> RedcapClient:
        return RedcapClient(
            redcap.url, redcap.tokens["AutoID"], calls_per_minute=3, budget_file=file, sleep=sleep
        )

    for _ in range(3):
        client(tmp_path / "calls").version()
    with pytest.raises(InterruptedError):
        client(tmp_path / "calls").version()
    assert 0 < slept[0] <= 60
    assert client(tmp_path / "others").version()


def test_threads_share_it_too() -> None:
    class Full(Exception):
        pass

    def full(_seconds: float) -> None:
        raise Full

    budget = CallBudget(10, sleep=full)
    done: list[int] = []

    def call() -> None:
        for _ in range(5):
            try:
                budget.take()
            except Full:
                return
            done.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 10


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 4000, b"\x00" * 8])
def test_a_damaged_account_stops_nobody(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "calls"
    file.write_bytes(content)
    CallBudget(2, sleep=lambda _seconds: pytest.fail("waited"), file=file).take()


def test_a_restart_of_the_machine_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    before = CallBudget(1, clock=lambda: 1e6, file=file)
    before.take()
    before.pause(600)
    CallBudget(1, clock=lambda: 20.0, sleep=lambda _seconds: pytest.fail("waited"), file=file).take()


def test_a_pause_holds_everybody_back_and_ends(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    now = 1000.0
    one, other = (CallBudget(10, clock=lambda: now, file=file) for _ in range(2))
    one.pause(300)
    with pytest.raises(RedcapUnavailable, match="for 300 s, by any process here"):
        other.take()
    now += 301
    other.take()
    one.pause(1e9)
    now += LONGEST_PAUSE + 1
    other.take()


@pytest.mark.parametrize("status", [200, 401, 403, 429])
def test_a_ban_is_respected_by_all_processes(tmp_path: Path, status: int) -> None:
    page = b"<!DOCTYPE html><html><body>Your IP address has been banned</body></html>"
    with stub_server(Stub(status=status, body=page)) as stub:
        for _ in range(3):
            client = RedcapClient(stub.url, TOKEN, budget_file=tmp_path / "calls")
            with pytest.raises(RedcapUnavailable):
                client.version()
    assert len(stub.paths) == 1


def test_a_long_retry_after_is_respected_by_all_processes(tmp_path: Path) -> None:
    with stub_server(Stub(status=503, headers={"Retry-After": "120"})) as stub:
        for _ in range(3):
            client = RedcapClient(stub.url, TOKEN, budget_file=tmp_path / "calls")
            with pytest.raises(RedcapUnavailable):
                client.version()
    assert len(stub.paths) == 1
