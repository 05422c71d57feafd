"""A ledger whose disk fails says what to do, and goes on as soon as it can."""

from __future__ import annotations

import sqlite3

import pytest

from fiona_dagster.errors import StorageFull, TransientError
from fiona_dagster.ledger import Ledger
from fiona_dagster.ledger.store import Store, unusable


def fill(store: Store) -> None:
    with store.writing():
        for number in range(1000):
            store.remember(f"fact {number}", "x" * 1000)


def test_a_full_disk_is_told_and_leaves_no_transaction(ledger: Ledger) -> None:
    store = ledger.store
    with store.writing() as db:
        db.execute(f"PRAGMA max_page_count = {store.rows('PRAGMA page_count')[0][0]}")
    with pytest.raises(StorageFull, match="its disk is full; make room"):
        fill(store)
    assert store.fact("fact 0") is None
    with store.writing() as db:
        db.execute("PRAGMA max_page_count = 1000000")
    store.remember("fact 0", "there is room")
    with Ledger(store.root) as another:
        assert another.store.fact("fact 0") == "there is room", "the transaction was not left open"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_BUSY, "another program has held it for 30 s; try again"),
        (sqlite3.SQLITE_IOERR_WRITE, "look at the disk"),
        (sqlite3.SQLITE_CANTOPEN, "look at the disk"),
    ],
)
def test_what_may_pass_is_no_defect(ledger: Ledger, code: int, said: str) -> None:
    error = sqlite3.OperationalError("in SQLite's words")
    error.sqlite_errorcode = code
    plain = unusable(ledger.store.root.ledger_file, error)
    assert isinstance(plain, TransientError)
    assert said in str(plain)
    assert unusable(ledger.store.root.ledger_file, sqlite3.ProgrammingError("no such table")) is None
