"""Books records (``ledger.records``) into a new ledger; one that is not sound is told, never half taken."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.ledger.records import (
    BY_STUDY,
    BY_TRANSFER,
    COMMON_TABLES,
    FORMAT,
    common_file,
    records_folder,
)

_KNOWN_ALREADY = frozenset({"work", "key_fingerprints"})
"""Rows that journals or another study's record may have brought before."""
_SENT = ("transfers", "sendings", "packages", "deliveries", "withdrawals", "releases", "routed")
_LIVING = ("accepted", "packaged", "failed")
_NOT_HERE = "stopped: its study is not here any more"
_UNSOUND = (KeyError, TypeError, ValueError, AttributeError, sqlite3.IntegrityError, sqlite3.InterfaceError)


def read_records(root: DataRoot) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(StudyInstanceUID, record) of every study that has one; None for a record that can't be read."""
    folder = records_folder(root)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        if path.name.startswith(".") or not is_uid(path.stem):
            continue
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            document = None
        sound = isinstance(document, dict) and document.get("format") == FORMAT
        yield path.stem, document if sound and document.get("study") == path.stem else None


def restore_record(db: sqlite3.Connection, study: str, record: dict[str, Any]) -> bool:
    """Books a record into a ledger that has taken over the journals; unknown columns are left out.

    Work gets new tokens: Dagster may have seen the old run keys and would drop them in silence. Numbers of
    transfers and sendings that another study's record claims too (a record is written before the commit, and
    the commit may have failed) are given anew.

    Args:
        db: inside a transaction.
        study: its StudyInstanceUID.
        record: as :func:`read_records` gives it.

    Returns:
        False: it is not sound (a key or a value is missing or of the wrong kind); nothing of it was booked.
    """
    return _whole_or_not_at_all(db, lambda: _restore(db, study, record))


def restore_sent(db: sqlite3.Connection, record: dict[str, Any]) -> bool:
    """Books what was sent of a study that is not here any more, as whose, and what was withdrawn.

    If it comes again, it must not go to the same project as somebody else's without a person's word.

    Args:
        db: inside a transaction.
        record: as :func:`read_records` gives it.

    Returns:
        False: it is not sound; nothing of it was booked.
    """

    def restore() -> None:
        tables = {table: record.get(table, []) for table in _SENT}
        tables["transfers"] = [
            {**row, "state": "stopped", "reason": _NOT_HERE} if row["state"] in _LIVING else row
            for row in tables["transfers"]
        ]
        for table, rows in _numbered(db, tables).items():
            _insert(db, table, rows)

    return _whole_or_not_at_all(db, restore)


def _whole_or_not_at_all(db: sqlite3.Connection, restore: Callable[[], None]) -> bool:
    db.execute("SAVEPOINT record")
    try:
        restore()
    except _UNSOUND:
        db.execute("ROLLBACK TO record")
        return False
    finally:
        db.execute("RELEASE record")
    return True


def _restore(db: sqlite3.Connection, study: str, record: dict[str, Any]) -> None:
    row = record["row"]
    if not isinstance(json.loads(row["flags"]), list) or not isinstance(json.loads(row["summary"]), dict):
        raise TypeError("flags or summary")
    db.execute(
        """UPDATE studies SET revision = ?, revision_digest = ?, registered = ?, flags = ?, summary = ?,
           retired = ? WHERE study = ?""",
        (
            int(row["revision"]),
            row["revision_digest"],
            int(row["registered"]),
            row["flags"],
            row["summary"],
            row["retired"],
            study,
        ),
    )
    tables = _numbered(db, {table: record.get(table, []) for table in (*BY_STUDY, *BY_TRANSFER)})
    for table, rows in tables.items():
        _insert(db, table, rows)
    _insert(db, "key_fingerprints", record.get("keys", []))
    db.executemany(
        """UPDATE site_instances SET digest = ?, altered = ?
           WHERE study = ? AND site = ? AND sop_instance = ?""",
        [(digest, altered, study, site, uid) for site, uid, digest, altered in record.get("digests", [])],
    )
    # An instance counts since the first revision that was closed after its bytes were filed.
    db.execute(
        """UPDATE site_instances SET revision = coalesce((SELECT min(r.revision) FROM revisions r
               WHERE r.study = site_instances.study AND r.time >= site_instances.filed), 0)
           WHERE study = ?""",
        (study,),
    )


def _numbered(
    db: sqlite3.Connection, tables: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """The rows with numbers of transfers and sendings that are free, in the order that they had."""
    numbers = {row["id"]: _free(db, "transfers", row["id"]) for row in tables["transfers"]}
    if any(old != new for old, new in numbers.items()):
        first = _highest(db, "transfers", numbers) + 1
        numbers = {old: first + place for place, old in enumerate(sorted(numbers))}
        tables = {
            table: [
                {**row, "transfer": numbers[row["transfer"]]}
                if "transfer" in row and table in (*BY_TRANSFER, "sendings")
                else {**row, "id": numbers[row["id"]]}
                if table == "transfers"
                else row
                for row in rows
            ]
            for table, rows in tables.items()
        }
    sent = sorted(row["id"] for row in tables["sendings"])
    if any(_free(db, "sendings", number) != number for number in sent):
        first = _highest(db, "sendings", sent) + 1
        anew = {old: first + place for place, old in enumerate(sent)}
        tables = {**tables, "sendings": [{**row, "id": anew[row["id"]]} for row in tables["sendings"]]}
    return tables


def _free(db: sqlite3.Connection, table: str, number: int) -> int | None:
    """The number, if no row has it."""
    query = f"SELECT 1 FROM {table} WHERE id = ?"  # noqa: S608 - our tables
    return None if db.execute(query, (number,)).fetchone() else number


def _highest(db: sqlite3.Connection, table: str, numbers: Iterable[int]) -> int:
    found = db.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608 - our tables
    return max([*numbers, int(found or 0)])


def restore_common(db: sqlite3.Connection, root: DataRoot) -> bool:
    """Books what no study's record tells into a new ledger that has taken over the records.

    Returns:
        False: the file is there and can't be read.
    """
    file = common_file(root)
    if not file.exists():
        return True
    try:
        document = json.loads(file.read_bytes())
        _insert(db, "withdrawn_consents", document["withdrawn_consents"])
        for table in COMMON_TABLES[1:]:  # older versions wrote consents only
            _insert(db, table, document.get(table, []))
        _restore_elsewhere(db, document.get("elsewhere", {}))
    except (OSError, RecursionError, *_UNSOUND):
        return False
    return True


def _restore_elsewhere(db: sqlite3.Connection, tables: dict[str, list[dict[str, Any]]]) -> None:
    """Of studies that are not here; the record of one that came meanwhile says all of it."""
    come = {row["study"] for row in db.execute("SELECT DISTINCT study FROM transfers").fetchall()}
    left = {
        table: [row for row in tables.get(table, []) if row["study"] not in come]
        for table in ("transfers", "sendings")
    }
    for table, rows in _numbered(db, left).items():
        _insert(db, table, rows)


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    """Every row, or an error: one that is left out in silence may be what was sent."""
    known = {column["name"] for column in db.execute(f"PRAGMA table_info({table})")}
    twice = "ON CONFLICT DO NOTHING" if table in _KNOWN_ALREADY else ""
    for row in rows:
        values = {name: value for name, value in row.items() if name in known}
        if not values:
            raise ValueError("an empty row")
        if table == "history":
            values.pop("id", None)
        if table == "work":
            values.update(token=secrets.token_hex(4), requested=None)
        names, marks = ", ".join(values), ", ".join("?" for _ in values)
        db.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) {twice}",  # noqa: S608 - our columns
            tuple(values.values()),
        )
