"""Whether the ledger that is there is the one that wrote the records; judged before anything is written.

An empty ledger, or one that was put back from a backup, would write over records (``ledger.records``) that
know more: what was sent, which participant it was sent under, what was withdrawn. Such a ledger is *lost*; it
is never written to, and built anew from the records.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import LedgerLost
from fiona_dagster.ledger import records

GONE = "the ledger is gone"
EMPTY = "the ledger is empty, and was not"
OLDER = "the ledger is older than the records in site/.ledger (was a backup put back?)"
DAMAGED = "the ledger is damaged"
WHAT_TO_DO = "run `fiona rebuild`, nothing that was received is lost"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_damage(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is broken (result codes SQLITE_CORRUPT, SQLITE_NOTADB)."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def missing_or_empty(root: DataRoot) -> str:
    """Why the ledger's file is lost, as far as the folder tells; ``""``: it has bytes, or never had any.

    To be asked before SQLite opens it: that makes an empty file of one that is missing, and throws away the
    write-ahead log of one that is empty.
    """
    # Twice: another process may have made the first ledger, and its first records, between the two questions.
    return _missing_or_empty(root) and _missing_or_empty(root)


def _missing_or_empty(root: DataRoot) -> str:
    try:
        size = root.ledger_file.stat().st_size
    except FileNotFoundError:
        return GONE if records.has_records(root) else ""
    return EMPTY if size == 0 and records.has_records(root) else ""


def unlike_records(connection: sqlite3.Connection, root: DataRoot) -> str:
    """Why the open ledger is lost, as far as the records tell; ``""``: it is the one that wrote them.

    Raises:
        sqlite3.DatabaseError: it is damaged, or its disk fails.
    """
    return _unlike_records(connection, root) and _unlike_records(connection, root)


def _unlike_records(connection: sqlite3.Connection, root: DataRoot) -> str:
    if not connection.execute("PRAGMA user_version").fetchone()[0]:
        return EMPTY if records.has_records(root) else ""
    on_disk = records.count_on_disk(root)  # first: it never is ahead of the ledger that counts
    written = records.count_in(connection)
    if written is None:  # nothing was recorded since it was made, or by a version that did not count
        known = connection.execute("SELECT EXISTS (SELECT 1 FROM studies)").fetchone()[0]
        if not known and records.has_records(root, studies_only=True):
            return EMPTY
    return OLDER if (written or 0) < on_disk else ""


def require_like_records(connection: sqlite3.Connection, root: DataRoot) -> None:
    """Makes sure that the open ledger may be written to.

    Raises:
        LedgerLost: it is.
        sqlite3.DatabaseError: it is damaged, or its disk fails.
    """
    why = unlike_records(connection, root)
    if why:
        raise LedgerLost(said_of(root.ledger_file, why))


def why_lost(root: DataRoot, *, thorough: bool = False, glance: bool = False) -> str:
    """Why the ledger can't be used and has to be built anew; ``""`` when it can.

    Args:
        root: the data root.
        thorough: have SQLite look at every page (``PRAGMA quick_check``), too: seconds for a large ledger.
        glance: wait for nobody who holds it, and write nothing, not even what its log still has.

    Raises:
        sqlite3.DatabaseError: it can't be read for another reason: it is locked, or its disk fails.
    """
    why = missing_or_empty(root)
    if why or not root.ledger_file.exists():
        return why
    place = f"file:{quote(str(root.ledger_file))}?mode={'ro' if glance else 'rw'}"
    patience = 0.0 if glance else 30.0
    try:
        with closing(sqlite3.connect(place, timeout=patience, isolation_level=None, uri=True)) as connection:
            why = unlike_records(connection, root)
            return why or ("" if not thorough or is_sound(connection) else DAMAGED)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return DAMAGED
        raise


def is_sound(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds nothing wrong with any page."""
    found = connection.execute("PRAGMA quick_check(1)").fetchall()
    return [str(row[0]) for row in found] == ["ok"]


def said_of(file: Path, why: str) -> str:
    """What is said to a person about a ledger that is lost."""
    return f"{file}: {why}; {WHAT_TO_DO}"
