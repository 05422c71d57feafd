"""The sandbox's memory: projects, tokens, records, values and log in one SQLite file."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fiona_dagster.redcap.dictionary import Dictionary, ShippedProject

ALL_RIGHTS = ("api", "export", "import", "delete")
"""What a token may do; ``api`` is needed for anything."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS project(
    name TEXT PRIMARY KEY, title TEXT NOT NULL, dictionary TEXT NOT NULL, repeating TEXT NOT NULL,
    created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS token(
    token TEXT PRIMARY KEY, project TEXT NOT NULL, user TEXT NOT NULL, rights TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record(
    project TEXT NOT NULL, record TEXT NOT NULL, modified TEXT NOT NULL,
    PRIMARY KEY(project, record)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS value(
    project TEXT NOT NULL, record TEXT NOT NULL, form TEXT NOT NULL, instance INTEGER NOT NULL,
    field TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY(project, record, form, instance, field)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS value_by_field ON value(project, field, record, form, instance, value);
CREATE TABLE IF NOT EXISTS log(
    id INTEGER PRIMARY KEY, project TEXT NOT NULL, time TEXT NOT NULL, user TEXT NOT NULL,
    kind TEXT NOT NULL, action TEXT NOT NULL, details TEXT NOT NULL, record TEXT NOT NULL);
"""

_VALUES = "SELECT record, form, instance, field, value FROM value WHERE project = ? {} AND field IN ({})"
_ERASE = "DELETE FROM value WHERE (project, record, form, instance, field) = (?, ?, ?, ?, ?)"

Place = tuple[str, str, int]
"""Record, repeating form (empty: base), instance (0: base)."""


@dataclass(frozen=True)
class Project:
    """One project as it is now."""

    name: str
    title: str
    dictionary: Dictionary
    repeating: tuple[str, ...]
    created: str


@dataclass(frozen=True)
class Access:
    """What a token stands for."""

    project: str
    user: str
    rights: frozenset[str]


@dataclass(frozen=True)
class LogEntry:
    """A line of REDCap's log."""

    timestamp: str
    username: str
    kind: str
    action: str
    details: str
    record: str


class Store:
    """All state of a sandbox. Thread-safe: one connection behind a lock."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.RLock()
        self._projects: dict[str, Project] = {}
        with self._lock:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)

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

    def add_missing(self, projects: Iterable[ShippedProject]) -> None:
        """Makes projects that aren't there yet, each with a token of all rights."""
        with self.transaction():
            known = {row[0] for row in self._db.execute("SELECT name FROM project")}
            for project in projects:
                if project.name in known:
                    continue
                self._db.execute(
                    "INSERT INTO project VALUES (?, ?, ?, ?, ?)",
                    (
                        project.name,
                        project.title,
                        json.dumps(project.dictionary.rows()),
                        json.dumps(project.repeating),
                        now(),
                    ),
                )
                self.add_token(project.name, "site_admin", ALL_RIGHTS)

    def add_token(self, project: str, user: str, rights: Collection[str]) -> str:
        """Makes a token: 32 hexadecimal characters for one user and one project."""
        token = secrets.token_hex(16).upper()
        with self.transaction():
            self._db.execute(
                "INSERT INTO token VALUES (?, ?, ?, ?)", (token, project, user, json.dumps(list(rights)))
            )
        return token

    def tokens(self) -> dict[str, str]:
        """The first token of each project."""
        first: dict[str, str] = {}
        with self._lock:
            for project, token in self._db.execute("SELECT project, token FROM token ORDER BY rowid"):
                first.setdefault(project, token)
        return first

    def access(self, token: str) -> Access | None:
        """Who has this token, if anybody."""
        with self._lock:
            row = self._db.execute(
                "SELECT project, user, rights FROM token WHERE token = ?", (token,)
            ).fetchone()
        return Access(row[0], row[1], frozenset(json.loads(row[2]))) if row else None

    def project(self, name: str) -> Project:
        """A project; its dictionary is parsed once."""
        with self._lock:
            if name not in self._projects:
                row = self._db.execute("SELECT * FROM project WHERE name = ?", (name,)).fetchone()
                dictionary = Dictionary.from_rows(json.loads(row[2]))
                self._projects[name] = Project(row[0], row[1], dictionary, tuple(json.loads(row[3])), row[4])
            return self._projects[name]

    def change_project(self, name: str, dictionary: Dictionary, repeating: Sequence[str]) -> None:
        """Replaces dictionary and repeating instruments; stored values stay."""
        with self.transaction():
            self._db.execute(
                "UPDATE project SET dictionary = ?, repeating = ? WHERE name = ?",
                (json.dumps(dictionary.rows()), json.dumps(list(repeating)), name),
            )
            self._projects.pop(name, None)

    def records(self, project: str, since: str = "", until: str = "") -> list[str]:
        """Names of records, optionally those modified between two local times (inclusive)."""
        with self._lock:
            rows = self._db.execute(
                "SELECT record FROM record WHERE project = ? AND modified >= ? AND (? = '' OR modified <= ?)",
                (project, since, until, until),
            ).fetchall()
        return [row[0] for row in rows]

    def values(
        self, project: str, fields: Collection[str], records: Collection[str] | None = None
    ) -> dict[Place, dict[str, str]]:
        """Stored values of some fields, by place; ``records`` None means all."""
        found: dict[Place, dict[str, str]] = {}
        with self._lock:
            if records is None:
                chunks = [(_VALUES.format("", _marks(fields)), (project, *fields))]
            else:
                query = _VALUES.format("AND record = ?", _marks(fields))
                chunks = [(query, (project, record, *fields)) for record in records]
            for sql, arguments in chunks:
                for record, form, instance, field, value in self._db.execute(sql, arguments):
                    found.setdefault((record, form, instance), {})[field] = value
        return found

    def last_instance(self, project: str, record: str, form: str) -> int:
        """Highest instance number of a repeating form in a record; 0 for none."""
        with self._lock:
            row = self._db.execute(
                "SELECT max(instance) FROM value WHERE project = ? AND record = ? AND form = ?",
                (project, record, form),
            ).fetchone()
        return row[0] or 0

    def put(self, project: str, place: Place, values: Mapping[str, str]) -> dict[str, str]:
        """Stores values in one place (an empty one erases); returns those that changed anything."""
        record, form, instance = place
        with self.transaction():
            old = self.values(project, list(values), [record]).get(place, {})
            changed = {field: value for field, value in values.items() if old.get(field, "") != value}
            for field, value in changed.items():
                key = (project, record, form, instance, field)
                if value:
                    self._db.execute("INSERT OR REPLACE INTO value VALUES (?, ?, ?, ?, ?, ?)", (*key, value))
                else:
                    self._db.execute(_ERASE, key)
            return changed

    def touch(self, project: str, record: str) -> bool:
        """Marks a record as modified now, making it if need be; returns whether it was made."""
        with self.transaction():
            made = not self.has_record(project, record)
            self._db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (project, record, now()))
        return made

    def has_record(self, project: str, record: str) -> bool:
        """Whether there is such a record."""
        with self._lock:
            query = "SELECT 1 FROM record WHERE project = ? AND record = ?"
            return self._db.execute(query, (project, record)).fetchone() is not None

    def delete(self, project: str, record: str, form: str | None = None, instance: int | None = None) -> None:
        """Deletes a record, or one repeating instance of it."""
        with self.transaction():
            if form is None:
                self._db.execute("DELETE FROM record WHERE project = ? AND record = ?", (project, record))
                self._db.execute("DELETE FROM value WHERE project = ? AND record = ?", (project, record))
                return
            self.touch(project, record)
            self._db.execute(
                "DELETE FROM value WHERE project = ? AND record = ? AND form = ? AND instance = ?",
                (project, record, form, instance or 0),
            )

    def rename(self, project: str, old: str, new: str) -> None:
        """Gives a record another name."""
        with self.transaction():
            self._db.execute(
                "UPDATE record SET record = ? WHERE project = ? AND record = ?", (new, project, old)
            )
            self._db.execute(
                "UPDATE value SET record = ? WHERE project = ? AND record = ?", (new, project, old)
            )

    def write_log(
        self, project: str, user: str, kind: str, action: str, *, details: str = "", record: str = ""
    ) -> None:
        """Adds a line to the log."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO log VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                (project, now(), user, kind, action, details, record),
            )

    def log(self, project: str) -> list[LogEntry]:
        """The project's log, newest first."""
        query = "SELECT time, user, kind, action, details, record FROM log WHERE project = ? ORDER BY id DESC"
        with self._lock:
            return [LogEntry(*row) for row in self._db.execute(query, (project,))]


def now() -> str:
    """Server time as REDCap writes it: local, without zone, ``YYYY-MM-DD HH:MM:SS``."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _marks(items: Collection[str]) -> str:
    return ", ".join("?" * len(items))
