"""The sandbox's SQLite file: its tables, transactions, and older states of everything."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS project(
    name TEXT PRIMARY KEY, title TEXT NOT NULL, dictionary TEXT NOT NULL, repeating TEXT NOT NULL,
    created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS setup(project TEXT PRIMARY KEY, setup TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS token(
    token TEXT PRIMARY KEY, project TEXT NOT NULL, user TEXT NOT NULL, rights TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record(
    project TEXT NOT NULL, record TEXT NOT NULL, modified TEXT NOT NULL,
    PRIMARY KEY(project, record)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS item(
    project TEXT NOT NULL, record TEXT NOT NULL, event TEXT NOT NULL, form TEXT NOT NULL,
    instance INTEGER NOT NULL, field TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY(project, record, event, form, instance, field)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS item_by_field ON item(project, field, record, event, form, instance, value);
CREATE TABLE IF NOT EXISTS file(
    project TEXT NOT NULL, record TEXT NOT NULL, event TEXT NOT NULL, form TEXT NOT NULL,
    instance INTEGER NOT NULL, field TEXT NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY(project, record, event, form, instance, field));
CREATE TABLE IF NOT EXISTS member(
    project TEXT NOT NULL, record TEXT NOT NULL, dag TEXT NOT NULL, PRIMARY KEY(project, record));
CREATE TABLE IF NOT EXISTS document(
    id INTEGER PRIMARY KEY, project TEXT NOT NULL, folder INTEGER, name TEXT NOT NULL, content BLOB);
CREATE TABLE IF NOT EXISTS log(
    id INTEGER PRIMARY KEY, project TEXT NOT NULL, time TEXT NOT NULL, user TEXT NOT NULL,
    kind TEXT NOT NULL, action TEXT NOT NULL, details TEXT NOT NULL, record TEXT NOT NULL);
"""

_OLDER = """
INSERT OR IGNORE INTO item SELECT project, record, '', form, instance, field, value FROM value;
DROP TABLE value;
UPDATE token SET rights = '["api", "export", "import", "delete", "design"]'
    WHERE rights = '["api", "export", "import", "delete"]';
"""
"""Files of versions without events."""


class Database:
    """One connection behind a lock: thread-safe."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        with self._lock:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'value'").fetchone():
                self._db.executescript(_OLDER)
            if "dag" not in {row[1] for row in self._db.execute("PRAGMA table_info(token)")}:
                self._db.execute("ALTER TABLE token ADD COLUMN dag TEXT NOT NULL DEFAULT ''")

    def backup(self) -> bytes:
        """Everything, as bytes."""
        with self._lock, closing(sqlite3.connect(":memory:")) as copy:
            self._db.backup(copy)
            image = bytearray(copy.serialize())
        image[18:20] = b"\x01\x01"  # no longer in WAL mode: memory has no such thing
        return bytes(image)

    def restore(self, backup: bytes) -> None:
        """Everything as in a backup."""
        with self._lock, closing(sqlite3.connect(":memory:")) as copy:
            copy.deserialize(backup)
            copy.backup(self._db)
            self.forget()

    def forget(self) -> None:
        """What was kept in memory may be wrong now."""

    def close(self) -> None:
        """Ends the use of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else meanwhile."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def now() -> str:
    """Server time as REDCap writes it: local, without zone, ``YYYY-MM-DD HH:MM:SS``."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
