"""When services that need the ledger may run; the process that mends it is a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger
from fiona_dagster.ledger.records import put_count_on_disk
from fiona_dagster.operations import gate as module
from fiona_dagster.operations import initialise
from fiona_dagster.operations.gate import LedgerGate
from fiona_dagster.operations.process import Process
from fiona_dagster.operations.reconciler import SET_ASIDE, Reconciler
from tests.operations.processes import wait_until


class Mending:
    """Runs a process that says ``words`` and ends with ``code``; None: the machine can't have one."""

    def __init__(self, root: DataRoot) -> None:
        self.root, self.begun = root, 0
        self.words: str | None = "said"
        self.code = 0

    def begin(self) -> Process | None:
        self.begun += 1
        if self.words is None:
            return None
        program = f"print({self.words!r}); raise SystemExit({self.code})"
        return Process((sys.executable, "-c", program), {}, self.root.logs / "ledger.log")


@pytest.fixture
def mending(root: DataRoot) -> Mending:
    initialise(root)
    return Mending(root)


@pytest.fixture
def gate(mending: Mending, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerGate]:
    monkeypatch.setattr(module, "LOOK", 0.0)
    monkeypatch.setattr(module, "LOOK_INSIDE", 0.0)
    made = LedgerGate(mending.root, mending.begin, lambda process: process.kill_group())
    yield made
    made.stop()


def run(gate: LedgerGate, mending: Mending) -> None:
    begun = mending.begun
    gate.step(idle=True)
    assert mending.begun == begun + 1
    wait_until(lambda: gate.step(idle=False) or gate.open or gate.problem == mending.words)


def test_it_opens_when_the_ledger_is_sound_and_says_what_was_done(
    gate: LedgerGate, mending: Mending, caplog: pytest.LogCaptureFixture
) -> None:
    gate.step(idle=False)
    assert mending.begun == 0, "somebody still has it open"
    run(gate, mending)
    assert gate.open
    assert "said" in caplog.text
    assert not gate.step(idle=True)


def test_what_cannot_be_mended_is_said_once_and_tried_again_when_its_file_changes(
    gate: LedgerGate, mending: Mending, caplog: pytest.LogCaptureFixture
) -> None:
    mending.code, mending.words = 1, "no room"
    run(gate, mending)
    gate.step(idle=True)
    assert (gate.open, gate.problem, mending.begun) == (False, "no room", 1), "not at once"
    assert caplog.text.count("no room; images are received, nothing is processed") == 1

    mending.code, mending.words = 0, "ok"
    Ledger(mending.root).close()  # `fiona rebuild` made one
    run(gate, mending)
    assert (gate.open, gate.problem) == (True, "")


def test_a_machine_without_another_process_is_asked_again(gate: LedgerGate, mending: Mending) -> None:
    mending.words = None
    gate.step(idle=True)
    gate.step(idle=True)
    assert (gate.open, mending.begun) == (False, 1), "not at each look"
    mending.words = "ok"
    gate._next_try = 0.0
    run(gate, mending)
    assert gate.open


@pytest.mark.parametrize("loss", ["gone", "garbage", "older"])
def test_it_closes_when_the_ledger_is_lost_under_running_services(
    gate: LedgerGate, mending: Mending, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = mending.root
    with Ledger(root) as ledger:
        ledger.withdrawals.withdraw_consent("P", "X1", "me")
    run(gate, mending)
    assert not gate.step(idle=False)
    assert gate.open
    if loss == "gone":
        root.ledger_file.unlink()
    elif loss == "garbage":
        root.ledger_file.write_bytes(b"no database" * 1000)
    else:
        put_count_on_disk(root, 100)
    assert (gate.step(idle=False), gate.open) == (True, False)
    assert "what needs it is stopped, images are received" in caplog.text
    gate.step(idle=False)
    assert mending.begun == 1
    run(gate, mending)
    assert gate.open


def test_the_reconciliation_is_repeated_until_it_succeeds_and_whenever_it_is_needed(
    mending: Mending, caplog: pytest.LogCaptureFixture
) -> None:
    reconciler = Reconciler(mending.begin, lambda process: process.kill_group())
    mending.code = 3
    assert not reconciler.step()
    wait_until(lambda: reconciler.step() or "failed (exit code 3); images are received" in caplog.text)
    assert (mending.begun, reconciler.step()) == (1, False), "not at once"
    mending.code, mending.words = 0, f"{SET_ASIDE}; it is kept"
    wait_until(reconciler.step)
    assert (mending.begun, reconciler.step()) == (2, True)
    assert caplog.text.count(f"{SET_ASIDE}; it is kept") == 1
    mending.words = None
    reconciler.needed()
    for _ in range(3):
        assert not reconciler.step()
    assert mending.begun == 3, "the machine can't have another process: not at each look"
    reconciler.stop()
