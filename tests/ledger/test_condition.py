"""A ledger that is not the one that wrote the records is never written to."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import LedgerLost, is_permanent
from fiona_dagster.ledger import Ledger, Request, records_folder
from fiona_dagster.ledger.condition import DAMAGED, EMPTY, GONE, OLDER, why_lost
from fiona_dagster.ledger.migrations import migrate
from tests.ledger.conftest import Arrive

STUDY = "1.2"


def sides(root: DataRoot) -> list[Path]:
    return [Path(f"{root.ledger_file}{ending}") for ending in ("", "-wal", "-shm")]


def gone(root: DataRoot) -> None:
    for path in sides(root):
        path.unlink(missing_ok=True)


def empty(root: DataRoot) -> None:
    """After a power loss, a failed restore, a `touch`."""
    gone(root)
    root.ledger_file.touch()


def without_tables(root: DataRoot) -> None:
    gone(root)
    connection = sqlite3.connect(root.ledger_file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE x (y)")
    connection.close()


def knows_nothing(root: DataRoot) -> None:
    """As an older version of FIONA left it, that migrated whatever it found."""
    gone(root)
    connection = sqlite3.connect(root.ledger_file, isolation_level=None)
    migrate(connection, root.ledger_file)
    connection.close()


def garbage(root: DataRoot) -> None:
    gone(root)
    root.ledger_file.write_bytes(b"no database" * 1000)


def cut_short(root: DataRoot) -> None:
    whole = root.ledger_file.read_bytes()
    gone(root)
    root.ledger_file.write_bytes(whole[: len(whole) // 2])


def backup(root: DataRoot) -> None:
    """Of the moment before the last change."""
    gone(root)
    shutil.copy(root.path / "backup.sqlite", root.ledger_file)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (gone, GONE),
        (empty, EMPTY),
        (without_tables, EMPTY),
        (knows_nothing, EMPTY),
        (garbage, DAMAGED),
        (cut_short, DAMAGED),
        (backup, OLDER),
    ],
)
def test_it_is_said_and_nothing_is_written(
    root: DataRoot, ledger: Ledger, arrive: Arrive, loss: Callable[[DataRoot], None], why: str
) -> None:
    arrive()
    ledger.receipts.close_revision(STUDY)
    with sqlite3.connect(root.path / "backup.sqlite") as copy:
        ledger.store._connection.backup(copy)
    copy.close()
    ledger.transfers.accept(Request(STUDY, "P", 1, "2026-11-25", "X1", "E1"), 1)
    ledger.close()
    assert why_lost(root, thorough=True) == ""
    loss(root)
    before = {path: path.read_bytes() for path in (*records_folder(root).iterdir(), *sides(root)[:1])
              if path.exists()}  # fmt: skip

    assert why_lost(root) == why
    with pytest.raises(LedgerLost, match="run `fiona rebuild`") as told:
        Ledger(root)
    assert not is_permanent(told.value), "no study fails for it"
    assert {path: path.read_bytes() for path in before} == before
    assert root.ledger_file.exists() == (loss is not gone)


def test_a_page_that_is_no_page_is_found_by_a_thorough_look(root: DataRoot, ledger: Ledger) -> None:
    for number in range(300):
        ledger.store.note(STUDY, f"{number} " * 50)
    ledger.close()
    with root.ledger_file.open("r+b") as file:
        file.seek(-3 * 4096, 2)
        file.write(b"\xff" * 3 * 4096)
    assert why_lost(root) == ""
    assert why_lost(root, thorough=True) == DAMAGED


def test_a_withdrawn_consent_alone_is_something_to_lose(root: DataRoot, ledger: Ledger) -> None:
    ledger.withdrawals.withdraw_consent("P", "X1", "me")
    ledger.close()
    assert why_lost(root) == ""
    gone(root)
    assert why_lost(root) == GONE
    with pytest.raises(LedgerLost, match="the ledger is gone"):
        Ledger(root)


def test_a_ledger_that_never_was_is_made(root: DataRoot) -> None:
    assert why_lost(root) == ""
    Ledger(root).close()
    assert why_lost(root) == ""


def test_a_count_that_cannot_be_read_stops_nothing(root: DataRoot, ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    ledger.receipts.close_revision(STUDY)
    (records_folder(root) / ".count").write_text("?")
    Ledger(root).close()
    ledger.receipts.retire(STUDY, "2026-11-25T10:00:00.000000Z")
    assert int((records_folder(root) / ".count").read_text()) == 2
