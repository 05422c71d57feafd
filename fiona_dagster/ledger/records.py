"""A private file for each study from which a lost ledger can be rebuilt: what journals don't tell.

``site/.ledger/<Study>.json`` holds the rows of one study: revision and registration, transfers with
participant, event, generation and mapped UID, packages, what was begun to be sent, proofs, digests, work. It
is written inside each transaction that changes them, before the commit: so it never says less than the
ledger, and what it may say more (the commit failed) is true as well, since proofs are facts. It never leaves
the data root.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing.files import room_errors, sync_directory

FORMAT = 1
COMMON = "consents.json"
_COUNT = "records written"

BY_STUDY = (
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
BY_TRANSFER = {
    "packages": "SELECT * FROM packages WHERE transfer = ?",
    "deliveries": "SELECT * FROM deliveries WHERE transfer = ?",
    "imaging_entries": "SELECT * FROM imaging_entries WHERE transfer = ?",
    "held_back": "SELECT * FROM held_back WHERE transfer = ?",
    # Of a revision that was packaged: what was not is de-identified and verified again.
    "verifications": """SELECT v.transfer, v.revision, v.passed, v.files, '{}' AS report, v.time, v.review
        FROM verifications v JOIN packages p ON p.transfer = v.transfer AND p.revision = v.revision
        WHERE v.transfer = ?""",
}
COMMON_TABLES = (
    "withdrawn_consents",
    "erasures",
    "erased_generations",
    "erased_copies",
    "key_fingerprints",
)
_STALE = "records may be stale"
_LAG = 3
"""Processes that may stand between their commit and writing the count at the same moment."""
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
    ("withdrawals", "DELETE", _BY_STUDY_NEW),
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


def write_record(db: sqlite3.Connection, root: DataRoot, study: str) -> bool:
    """Writes the record of one study as the open transaction sees it; flushed when this returns.

    Returns:
        False: no such study is here; what is known of it belongs to :func:`write_common`.
    """
    document = _record_of(db, study)
    if document is None:
        return False
    folder = records_folder(root)
    with room_errors(folder):
        _write(folder / f"{study}.json", _text(document))
    _count(db)
    return True


def _record_of(db: sqlite3.Connection, study: str) -> dict[str, Any] | None:
    row = db.execute(_STUDY, (study,)).fetchone()
    if row is None or not is_uid(study):
        return None
    document: dict[str, Any] = {"format": FORMAT, "study": study, "row": dict(row)}
    for table in BY_STUDY:
        found = db.execute(f"SELECT * FROM {table} WHERE study = ?", (study,))  # noqa: S608 - names from above
        document[table] = [dict(each) for each in found]
    ids = [transfer["id"] for transfer in document["transfers"]]
    for table, query in BY_TRANSFER.items():
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
    return document


def write_common(db: sqlite3.Connection, root: DataRoot) -> None:
    """Writes what no study's record tells, as the open transaction sees it.

    Withdrawn consents, erasures, keys, and what another system sent of studies that are not here.
    """
    with room_errors(records_folder(root)):
        _write(common_file(root), _text(_common_of(db)))
    _count(db)


def _common_of(db: sqlite3.Connection) -> dict[str, Any]:
    document: dict[str, Any] = {"format": FORMAT}
    for table in COMMON_TABLES:
        document[table] = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]  # noqa: S608
    elsewhere = """FROM transfers t
        WHERE NOT EXISTS (SELECT 1 FROM studies s WHERE s.study = t.study AND s.revision > 0)"""
    document["elsewhere"] = {
        "transfers": [dict(row) for row in db.execute(f"SELECT t.* {elsewhere}")],
        "sendings": [
            dict(row)
            for row in db.execute(
                f"SELECT * FROM sendings WHERE transfer IN (SELECT t.id {elsewhere})"  # noqa: S608
            )
        ],
    }
    return document


# -- those that are missing, or older than the ledger -----------------------------------------------------


def note_stale(db: sqlite3.Connection, root: DataRoot) -> None:
    """Remembers that records may be older than the ledger: ``site/`` was put back from a backup.

    To be called before anything is written, since that brings the count on disk up to date.
    """
    if count_on_disk(root) + _LAG < (count_in(db) or 0):
        db.execute("INSERT OR IGNORE INTO facts (name, value) VALUES (?, '1')", (_STALE,))


def may_be_stale(db: sqlite3.Connection) -> bool:
    """Whether that was noted, and not all of them have been compared since."""
    return bool(db.execute("SELECT 1 FROM facts WHERE name = ?", (_STALE,)).fetchone())


def compared(db: sqlite3.Connection) -> None:
    """All records say what the ledger says."""
    db.execute("DELETE FROM facts WHERE name = ?", (_STALE,))


def without_record(db: sqlite3.Connection, root: DataRoot, *, all_of_them: bool) -> list[str]:
    """Studies whose record is to be written (an older version of FIONA, a restored ``site/``).

    Args:
        db: the ledger.
        root: the data root.
        all_of_them: those that have one, too, whatever it says.
    """
    folder = records_folder(root)
    there = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 - names only
    rows = db.execute("SELECT study FROM studies WHERE revision > 0").fetchall()
    return [row["study"] for row in rows if all_of_them or f"{row['study']}.json" not in there]


def correct_record(db: sqlite3.Connection, root: DataRoot, study: str) -> bool:
    """Writes the record of a study if it says anything else; returns whether it did."""
    document = _record_of(db, study)
    return (
        document is not None
        and not _says(records_folder(root) / f"{study}.json", document)
        and write_record(db, root, study)
    )


def correct_common(db: sqlite3.Connection, root: DataRoot) -> None:
    """Writes what no study's record tells if the file says anything else."""
    document = _common_of(db)
    told = any(document[table] for table in COMMON_TABLES) or document["elsewhere"]["transfers"]
    if told and not _says(common_file(root), document):
        write_common(db, root)


def _says(path: Path, document: dict[str, Any]) -> bool:
    try:
        return path.read_text("ascii") == _text(document)
    except (OSError, ValueError):
        return False


def common_file(root: DataRoot) -> Path:
    """Where what belongs to no study lies."""
    return records_folder(root) / COMMON


def keep_aside(root: DataRoot, study: str) -> Path:
    """Keeps a record that is not sound under another name, since the next change of the study replaces it."""
    record = records_folder(root) / f"{study}.json"
    aside = aside_of(root, study)
    aside.unlink(missing_ok=True)
    os.link(record, aside)
    sync_directory(aside.parent)
    return aside


def aside_of(root: DataRoot, study: str) -> Path:
    """Where :func:`keep_aside` keeps a record."""
    return records_folder(root) / f"unsound-{study}.json"


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


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), sort_keys=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(path.parent)


def has_records(root: DataRoot, *, studies_only: bool = False) -> bool:
    """Whether a ledger of this data root ever wrote a record.

    Args:
        root: the data root.
        studies_only: not counting what belongs to no study (withdrawn consents, erasures).
    """
    try:
        with os.scandir(records_folder(root)) as entries:
            names = (entry.name for entry in entries)
            return any(_is_of_study(name) or (name == COMMON and not studies_only) for name in names)
    except FileNotFoundError:
        return False


def _is_of_study(name: str) -> bool:
    return name.endswith(".json") and is_uid(name.removesuffix(".json"))


# -- how many were written: a ledger that counts less is older than they are ------------------------------


def _count(db: sqlite3.Connection) -> None:
    db.execute(
        """INSERT INTO facts (name, value) VALUES (?, '1')
           ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1""",
        (_COUNT,),
    )


def count_in(db: sqlite3.Connection) -> int | None:
    """How many records a ledger has written so far; None: it has not counted yet."""
    row = db.execute("SELECT value FROM facts WHERE name = ?", (_COUNT,)).fetchone()
    return None if row is None else int(row[0])


def set_count(db: sqlite3.Connection, number: int) -> None:
    """A ledger that took over all records goes on counting where the last one ended."""
    db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (_COUNT, str(number)))


def count_on_disk(root: DataRoot) -> int:
    """The number of the last record that was written and committed; 0: nobody counted yet."""
    try:
        return int(_count_file(root).read_bytes())
    except (FileNotFoundError, ValueError):
        return 0


def put_count_on_disk(root: DataRoot, number: int) -> None:
    """To be called after the commit, so that it never is ahead of the ledger that counts.

    It is written in place and not flushed: one that is behind only makes an older ledger harder to tell.
    """
    with contextlib.suppress(OSError):  # the commit stands whatever becomes of this
        fd = os.open(_count_file(root), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, f"{number:020d}\n".encode("ascii"), 0)
        finally:
            os.close(fd)


def _count_file(root: DataRoot) -> Path:
    return records_folder(root) / ".count"
