"""A private file for each study from which a lost ledger can be rebuilt: what journals don't tell.

``site/.ledger/<Study>.json`` holds the rows of one study: revision and registration, transfers with
participant, event, generation and mapped UID, packages, what was begun to be sent, proofs, digests, work. It
is written inside each transaction that changes them, before the commit: so it never says less than the
ledger, and what it may say more (the commit failed) is true as well, since proofs are facts. It never leaves
the data root.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing.files import room_errors, sync_directory

FORMAT = 1

_BY_STUDY = (
    "revisions",
    "completion",
    "transfers",
    "sendings",
    "work",
    "history",
    "withdrawals",
    "releases",
    "derived_studies",
    "routed",
)
_BY_TRANSFER = {
    "packages": "SELECT * FROM packages WHERE transfer = ?",
    "deliveries": "SELECT * FROM deliveries WHERE transfer = ?",
    "imaging_entries": "SELECT * FROM imaging_entries WHERE transfer = ?",
    "held_back": "SELECT * FROM held_back WHERE transfer = ?",
    # Of a revision that was packaged: what was not is de-identified and verified again.
    "verifications": """SELECT v.transfer, v.revision, v.passed, v.files, '{}' AS report, v.time, v.review
        FROM verifications v JOIN packages p ON p.transfer = v.transfer AND p.revision = v.revision
        WHERE v.transfer = ?""",
}
_COMMON = ("withdrawn_consents", "erasures", "erased_generations", "erased_copies")
_STUDY = "SELECT revision, revision_digest, registered, flags, summary, retired FROM studies WHERE study = ?"


_TOUCHED = "SELECT DISTINCT study FROM temp.touched"
_BY_STUDY_NEW = "INSERT INTO touched VALUES ({row}.study)"
_BY_TRANSFER_NEW = "INSERT INTO touched SELECT t.study FROM main.transfers t WHERE t.id = {row}.transfer"
_WATCHED: tuple[tuple[str, str, str], ...] = (
    ("studies", "UPDATE OF revision, registered, flags, summary, retired", _BY_STUDY_NEW),
    ("site_instances", "UPDATE OF digest, altered", _BY_STUDY_NEW),
    ("completion", "INSERT", _BY_STUDY_NEW),
    ("transfers", "INSERT", _BY_STUDY_NEW),
    ("transfers", "UPDATE", _BY_STUDY_NEW),
    ("sendings", "INSERT", _BY_STUDY_NEW),
    ("sendings", "UPDATE", _BY_STUDY_NEW),
    ("withdrawals", "INSERT", _BY_STUDY_NEW),
    ("withdrawals", "UPDATE", _BY_STUDY_NEW),
    ("derived_studies", "INSERT", _BY_STUDY_NEW),
    ("routed", "INSERT", _BY_STUDY_NEW),
    ("releases", "INSERT", _BY_STUDY_NEW),
    ("work", "INSERT", _BY_STUDY_NEW),
    ("work", "UPDATE OF revision, blocked", _BY_STUDY_NEW),
    ("work", "DELETE", _BY_STUDY_NEW),
    ("verifications", "INSERT", _BY_TRANSFER_NEW),
    ("packages", "INSERT", _BY_TRANSFER_NEW),
    ("packages", "UPDATE", _BY_TRANSFER_NEW),
    ("deliveries", "INSERT", _BY_TRANSFER_NEW),
    ("held_back", "INSERT", _BY_TRANSFER_NEW),
    ("imaging_entries", "INSERT", _BY_TRANSFER_NEW),
)


def watch(connection: sqlite3.Connection) -> None:
    """Has SQLite note, for this connection, which studies a transaction touches."""
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("CREATE TEMP TABLE touched (study TEXT)")
    for number, (table, change, note) in enumerate(_WATCHED):
        row = "OLD" if change == "DELETE" else "NEW"
        connection.execute(
            f"CREATE TEMP TRIGGER touched_{number} AFTER {change} ON main.{table} "
            f"BEGIN {note.format(row=row)}; END"
        )


def touched(connection: sqlite3.Connection) -> list[str]:
    """The studies that the open transaction touched; forgets them."""
    found = [row["study"] for row in connection.execute(_TOUCHED)]
    if found:
        connection.execute("DELETE FROM temp.touched")
    return found


def records_folder(root: DataRoot) -> Path:
    """Where the records lie."""
    return root.of_site("").site / ".ledger"


def write_record(db: sqlite3.Connection, root: DataRoot, study: str) -> None:
    """Writes the record of one study as the open transaction sees it; flushed when this returns."""
    row = db.execute(_STUDY, (study,)).fetchone()
    if row is None or not is_uid(study):
        return
    document: dict[str, Any] = {"format": FORMAT, "study": study, "row": dict(row)}
    for table in _BY_STUDY:
        found = db.execute(f"SELECT * FROM {table} WHERE study = ?", (study,))  # noqa: S608 - names from above
        document[table] = [dict(each) for each in found]
    ids = [transfer["id"] for transfer in document["transfers"]]
    for table, query in _BY_TRANSFER.items():
        document[table] = [dict(each) for number in ids for each in db.execute(query, (number,))]
    found = db.execute(
        """SELECT site, sop_instance, digest, altered FROM site_instances
           WHERE study = ? AND digest != ''""",
        (study,),
    )
    document["digests"] = [list(each) for each in found]
    projects = {transfer["project"] for transfer in document["transfers"]}
    keys = db.execute("SELECT * FROM key_fingerprints")
    document["keys"] = [dict(each) for each in keys if each["project"] in projects]
    folder = records_folder(root)
    with room_errors(folder):
        _write(folder / f"{study}.json", document)


def write_missing(connection: sqlite3.Connection, root: DataRoot) -> int:
    """Writes the records of studies that have none (an older version of FIONA, a restored ``site/``).

    To be called inside a transaction; returns how many were written.
    """
    folder = records_folder(root)
    there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names only
    rows = connection.execute("SELECT study FROM studies WHERE revision > 0").fetchall()
    missing = [row["study"] for row in rows if f"{row['study']}.json" not in there]
    for study in missing:
        write_record(connection, root, study)
    return len(missing)


def write_common(db: sqlite3.Connection, root: DataRoot) -> None:
    """Writes what no study's record tells, as the open transaction sees it: withdrawn consents, erasures."""
    document: dict[str, Any] = {"format": FORMAT}
    for table in _COMMON:
        document[table] = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]  # noqa: S608
    with room_errors(records_folder(root)):
        _write(_common_file(root), document)


def restore_common(db: sqlite3.Connection, root: DataRoot) -> bool:
    """Books what no study's record tells into a new ledger; False: the file is there and can't be read."""
    file = _common_file(root)
    if not file.exists():
        return True
    try:
        document = json.loads(file.read_bytes())
        _insert(db, "withdrawn_consents", document["withdrawn_consents"])
        for table in _COMMON[1:]:  # older versions wrote consents only
            _insert(db, table, document.get(table, []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _common_file(root: DataRoot) -> Path:
    return records_folder(root) / "consents.json"


def remove_parts(root: DataRoot, older_than_seconds: float) -> int:
    """Removes unfinished records of processes that were killed; returns how many."""
    removed = 0
    for path in records_folder(root).glob(".*.part"):
        try:
            stale = time.time() - path.stat().st_mtime > older_than_seconds
        except FileNotFoundError:
            continue
        if stale:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(document, file, separators=(",", ":"), sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def has_records(root: DataRoot) -> bool:
    """Whether a ledger of this data root ever wrote a record."""
    folder = records_folder(root)
    return folder.is_dir() and any(is_uid(path.stem) for path in folder.glob("*.json"))


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


def restore_record(db: sqlite3.Connection, study: str, record: dict[str, Any]) -> None:
    """Books a record into a ledger that has taken over the journals; unknown columns are left out.

    Work gets new tokens: Dagster may have seen the old run keys and would drop them in silence.
    """
    row = record["row"]
    db.execute(
        """UPDATE studies SET revision = ?, revision_digest = ?, registered = ?, flags = ?, summary = ?,
           retired = ? WHERE study = ?""",
        (
            row["revision"],
            row["revision_digest"],
            row["registered"],
            row["flags"],
            row["summary"],
            row["retired"],
            study,
        ),
    )
    for table in (*_BY_STUDY, *_BY_TRANSFER):
        _insert(db, table, record.get(table, []))
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


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    known = {column["name"] for column in db.execute(f"PRAGMA table_info({table})")}
    for row in rows:
        values = {name: value for name, value in row.items() if name in known}
        if table == "history":
            values.pop("id", None)
        if table == "work":
            values.update(token=secrets.token_hex(4), requested=None)
        names, marks = ", ".join(values), ", ".join("?" for _ in values)
        db.execute(
            f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})",  # noqa: S608 - our columns
            tuple(values.values()),
        )
