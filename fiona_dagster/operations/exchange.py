"""Puts a ledger that was built beside the old one in its place, once it is sure that it is whole on disk."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import PermanentError, StorageFull, TransientError
from fiona_dagster.landing.files import room_errors, sync_directory
from fiona_dagster.ledger.condition import is_sound
from fiona_dagster.ledger.migrations import schema_version
from fiona_dagster.ledger.store import unusable

_SIDES = ("-wal", "-shm", "-journal")


def settle(file: Path) -> None:
    """Brings all of a new ledger into its one file, flushed, and makes sure of it.

    SQLite says nothing when a connection ends and its write-ahead log can't be copied into the file: on a
    full disk half of it stays there, and the file alone is an older or a broken database.

    Args:
        file: a ledger that nobody has open.

    Raises:
        StorageFull: there is no room for it.
        TransientError: its disk fails, or somebody reads it.
        PermanentError: what is on disk is not sound.
    """
    with room_errors(file), closing(sqlite3.connect(file, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA synchronous=FULL")
            busy, in_log, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            sound = is_sound(connection)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise (unusable(file, error) or error) from None
    if busy:
        raise TransientError(f"{file}: somebody reads it; try again")
    if not sound or version != schema_version():
        raise PermanentError(f"{file}: is not what was written; look at the disk")
    log = Path(f"{file}-wal")
    if in_log or (log.exists() and log.stat().st_size):
        raise StorageFull(f"{log}: could not be taken over; make room")
    with room_errors(file):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def exchange(root: DataRoot, new: Path) -> str:
    """Keeps the old ledger under another name and puts the new one in its place, in one step.

    Args:
        root: the data root.
        new: a ledger that :func:`settle` was content with.

    Returns:
        Where the old one is now, below the data root; "" if there was none.
    """
    file = root.ledger_file
    kept = ""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S.%fZ")  # two rebuilds may share a second
    aside = file.with_name(f"ledger-{stamp}.sqlite")
    if file.exists():
        if file.stat().st_size:  # of an empty one SQLite would throw the log away
            _checkpoint(file)
        os.link(file, aside)
        kept = aside.relative_to(root.path).as_posix()
    for ending in _SIDES:  # a broken one keeps them; they must not meet the new file
        side = Path(f"{file}{ending}")
        if side.exists():
            side.replace(f"{aside}{ending}")
    sync_directory(file.parent)
    new.replace(file)
    sync_directory(file.parent)
    return kept


def _checkpoint(file: Path) -> None:
    """Brings everything into the one file, as far as the old ledger can be read at all."""
    connection = sqlite3.connect(file)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError:
        return  # that is why it is rebuilt
    finally:
        connection.close()


def remove(file: Path) -> None:
    """Removes a ledger with its log."""
    for ending in ("", *_SIDES):
        Path(f"{file}{ending}").unlink(missing_ok=True)
