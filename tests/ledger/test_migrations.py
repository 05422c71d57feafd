"""A ledger of any older version is upgraded in place."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import PermanentError
from fiona_dagster.ledger import Ledger, Request, migrations


def at_version(path: Path, version: int) -> sqlite3.Connection:
    """A ledger's file as an older FIONA left it."""
    connection = sqlite3.connect(path, isolation_level=None)
    for number in range(1, version + 1):
        connection.executescript(migrations.scripts()[number])
    connection.execute(f"PRAGMA user_version={version}")
    return connection


def fill_version_1(connection: sqlite3.Connection) -> None:
    for study, is_open, conflicts in (("1.2", 0, 0), ("1.3", 1, 0), ("1.4", 0, 1)):
        connection.execute(
            """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip,
               revision, open) VALUES (?, 't', 't', 'a', 'b', 'c', 3, ?)""",
            (study, is_open),
        )
        connection.execute(
            "INSERT INTO instances VALUES (?, '1.9', '1.8', '1.7', '1.6', 'path', 10, 'then', 0, ?)",
            (study, conflicts),
        )
        connection.execute("INSERT INTO journals VALUES (?, 100)", (f"A B C scp_{study}",))


def tables(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return [
        (name, *(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))) for (name,) in names
    ]


@pytest.mark.parametrize("version", range(1, migrations.schema_version() + 1))
def test_every_version_ends_in_the_same_schema(root: DataRoot, tmp_path: Path, version: int) -> None:
    fresh = DataRoot(tmp_path / "fresh")
    Ledger(fresh).close()
    at_version(root.ledger_file, version).close()
    Ledger(root).close()

    with sqlite3.connect(root.ledger_file) as old, sqlite3.connect(fresh.ledger_file) as new:
        assert tables(old) == tables(new)
        assert old.execute("PRAGMA user_version").fetchone() == (migrations.schema_version(),)
    old.close()
    new.close()


def test_version_1_keeps_its_rows_and_learns_revisions(root: DataRoot) -> None:
    old = at_version(root.ledger_file, 1)
    fill_version_1(old)
    old.close()

    with Ledger(root) as ledger:
        rows = ledger.store.rows("SELECT study, revision, filed FROM instances ORDER BY study")
        assert [tuple(row) for row in rows] == [("1.2", 3, "then"), ("1.3", 0, "then"), ("1.4", 3, "then")]
        sender = ledger.receipts.senders("1.2")["1.2", "1.8"]
        assert (sender.calling_ae, sender.called_ae, sender.first_arrival) == ("a", "b", "then")
        read = [row["name"] for row in ledger.store.rows("SELECT name FROM journals ORDER BY name")]
        assert read == ["A B C scp_1.2", "A B C scp_1.3"]  # the conflict's journal is read once more


def test_two_at_once_upgrade_once(root: DataRoot) -> None:
    old = at_version(root.ledger_file, 1)
    fill_version_1(old)
    old.close()
    failures: list[BaseException] = []

    def open_ledger() -> None:
        try:
            Ledger(root).close()
        except BaseException as error:  # noqa: BLE001 - reported by the assertion
            failures.append(error)

    threads = [threading.Thread(target=open_ledger) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_failed_step_changes_nothing(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(root).close()
    broken = {**migrations.scripts(), migrations.schema_version() + 1: "CREATE TABLE new (x);\nNONSENSE;\n"}
    monkeypatch.setattr(migrations, "scripts", lambda: broken)
    with pytest.raises(sqlite3.OperationalError):
        Ledger(root)
    monkeypatch.undo()

    with Ledger(root) as ledger:
        assert ledger.store.rows("SELECT 1 FROM sqlite_master WHERE name = 'new'") == []


def test_a_newer_ledger_is_refused(root: DataRoot) -> None:
    Ledger(root).close()
    connection = sqlite3.connect(root.ledger_file)
    connection.execute("PRAGMA user_version=999")
    connection.close()

    with pytest.raises(PermanentError, match="newer version"):
        Ledger(root)


def test_version_3_learns_what_was_sent(root: DataRoot) -> None:
    old = at_version(root.ledger_file, 3)
    for number, state in ((1, "delivered"), (2, "packaged"), (3, "packaged")):
        old.execute(
            """INSERT INTO transfers (study, project, request, requested_date, participant, event, revision,
               state, mapped_uid, created, changed)
               VALUES (?, 'P', 1, 'd', ?, 'E', 1, ?, '2.25.1', 't', 't')""",
            (f"1.{number}", f"X{number}", state),
        )
        old.execute(
            "INSERT INTO verifications VALUES (?, 1, 1, ?, '{}', 't')", (number, '{"2.25.7.dcm": "abc"}')
        )
        old.execute("INSERT INTO packages VALUES (?, 1, 'p', 1, 'm', 's', 1, 't')", (number,))
    old.execute("INSERT INTO deliveries VALUES (1, 1, 'pacs', 's', '{\"kind\": \"dicom-find\"}', 't')")
    old.execute("INSERT INTO held_back VALUES (2, 1, '1.2.3', 'ultrasound')")
    for number, attempt in ((2, 2), (3, 1)):  # the second was tried, the third never asked for
        old.execute(
            """INSERT INTO work (key, kind, study, project, target, revision, token, attempt)
               VALUES (?, 'deliver', ?, 'P', 'pacs', 1, 't', ?)""",
            (f"deliver:1.{number}:P:pacs", f"1.{number}", attempt),
        )
    old.close()

    with Ledger(root) as ledger:
        found = {study: ledger.sendings.of(study, "P") for study in ("1.1", "1.2", "1.3")}
        assert [[sending.state for sending in sendings] for sendings in found.values()] == [
            ["proven"],
            ["begun"],
            [],
        ]
        assert found["1.1"][0].instances == found["1.2"][0].instances == {"2.25.7": "abc"}
        (delivered,) = ledger.transfers.all("1.1")
        assert ledger.transfers.deliveries(delivered)["pacs"].proof == {"kind": "dicom-find"}
        assert len(ledger.store.rows("SELECT * FROM held_back")) == 1
        assert ledger.store.rows("PRAGMA foreign_key_check") == []
        new = ledger.transfers.accept(Request("1.3", "P", 2, "d", "X3", "E"), 1)
        assert new.id == 4


def test_version_15_learns_what_was_routed(root: DataRoot) -> None:
    """The history tells which requests a routing rule wrote; what a person asked for later is none."""
    old = at_version(root.ledger_file, 15)
    for study, request, project in (("1.1", 1, "P"), ("1.1", 2, "P"), ("1.2", 1, "P"), ("1.1", 3, "Q")):
        old.execute(
            """INSERT INTO transfers (study, project, request, requested_date, participant, event, revision,
               state, created, changed) VALUES (?, ?, ?, ?, 'X1', 'E', 1, 'delivered', 't', 't')""",
            (study, project, request, f"d{request}"),
        )
    told = [("1.1", "request for project P written by a routing rule"), ("1.2", "another thing")]
    old.executemany("INSERT INTO history (study, time, what) VALUES (?, 't', ?)", told)
    old.close()

    with Ledger(root) as ledger:
        found = ledger.store.rows("SELECT * FROM routed")
        assert [tuple(row) for row in found] == [("1.1", "P", "d1")]
        assert [ledger.transfers.was_routed(each) for each in ledger.transfers.all("1.1")] == [
            True,
            False,
            False,
        ]
