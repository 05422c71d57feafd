"""The sandbox's memory: projects, tokens, records, values and log in one SQLite file."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from fiona_dagster.redcap.dictionary import Dictionary, Field, ShippedProject, checkbox_column
from fiona_dagster.redcap.sandbox.setup import Setup

ALL_RIGHTS = ("api", "export", "import", "delete", "design")
"""What a token may do; ``api`` is needed for anything, ``design`` for a project's set-up."""

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

_VALUES = (
    "SELECT record, event, form, instance, field, value FROM item WHERE project = ? {} AND field IN ({})"
)
_AT = "WHERE (project, record, event, form, instance, field) = (?, ?, ?, ?, ?, ?)"
_OLDER = """
INSERT OR IGNORE INTO item SELECT project, record, '', form, instance, field, value FROM value;
DROP TABLE value;
UPDATE token SET rights = '["api", "export", "import", "delete", "design"]'
    WHERE rights = '["api", "export", "import", "delete"]';
"""
"""Files of versions without events."""


_BY_RECORD = ("record", "item", "file", "member")


class Place(NamedTuple):
    """Where values stand."""

    record: str
    event: str = ""
    """Unique event name; empty in classic projects."""
    form: str = ""
    """Repeating instrument; empty for everything else."""
    instance: int = 0
    """0 unless something repeats."""


@dataclass(frozen=True)
class Project:
    """One project as it is now."""

    name: str
    title: str
    dictionary: Dictionary
    setup: Setup
    created: str

    @property
    def repeating(self) -> tuple[str, ...]:
        """Instruments that repeat in any event."""
        return self.setup.repeating_forms

    def columns(self, field: Field) -> tuple[tuple[str, str], ...]:
        """(export name, choice) of a field; missing-data codes are choices of every checkbox."""
        if field.type != "checkbox":
            return field.columns
        codes = ((checkbox_column(field.name, code), code) for code, _ in self.setup.missing_codes)
        return (*field.columns, *codes)

    @cached_property
    def column_fields(self) -> dict[str, Field]:
        """Field of each export column (without ``FORM_complete``)."""
        fields = (field for field in self.dictionary.fields if field.exported)
        return {column: field for field in fields for column, _ in self.columns(field)}


@dataclass(frozen=True)
class Access:
    """What a token stands for."""

    project: str
    user: str
    rights: frozenset[str]
    dag: str = ""
    """Data access group that the user is in; empty: sees all."""


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
            self._projects.clear()

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
                setup = Setup.of(project)
                self._db.execute("INSERT INTO setup VALUES (?, ?)", (project.name, setup.to_json()))
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

    def add_token(self, project: str, user: str, rights: Collection[str], dag: str = "") -> str:
        """Makes a token: 32 hexadecimal characters for one user and one project."""
        token = secrets.token_hex(16).upper()
        with self.transaction():
            self._db.execute(
                "INSERT INTO token VALUES (?, ?, ?, ?, ?)",
                (token, project, user, json.dumps(list(rights)), dag),
            )
        return token

    def users(self, project: str) -> list[Access]:
        """Everybody who has a token of a project."""
        query = "SELECT project, user, rights, dag FROM token WHERE project = ? ORDER BY rowid"
        with self._lock:
            return [
                Access(row[0], row[1], frozenset(json.loads(row[2])), row[3])
                for row in self._db.execute(query, (project,))
            ]

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
                "SELECT project, user, rights, dag FROM token WHERE token = ?", (token,)
            ).fetchone()
        return Access(row[0], row[1], frozenset(json.loads(row[2])), row[3]) if row else None

    def project(self, name: str) -> Project:
        """A project; its dictionary is parsed once."""
        with self._lock:
            if name not in self._projects:
                row = self._db.execute("SELECT * FROM project WHERE name = ?", (name,)).fetchone()
                dictionary = Dictionary.from_rows(json.loads(row[2]))
                stored = self._db.execute("SELECT setup FROM setup WHERE project = ?", (name,)).fetchone()
                setup = Setup.from_json(stored[0]) if stored else Setup.classic(json.loads(row[3]))
                self._projects[name] = Project(row[0], row[1], dictionary, setup, row[4])
            return self._projects[name]

    def change_project(self, name: str, dictionary: Dictionary, setup: Setup) -> None:
        """Replaces dictionary and set-up; stored values stay."""
        setup = replace(
            setup,
            repeats=tuple(r for r in setup.repeats if not r[1] or r[1] in dictionary.forms),
            mapping=tuple(m for m in setup.mapping if m[1] in dictionary.forms),
        )
        with self.transaction():
            self._db.execute(
                "UPDATE project SET dictionary = ? WHERE name = ?", (json.dumps(dictionary.rows()), name)
            )
            self._db.execute("INSERT OR REPLACE INTO setup VALUES (?, ?)", (name, setup.to_json()))
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
                for record, event, form, instance, field, value in self._db.execute(sql, arguments):
                    found.setdefault(Place(record, event, form, instance), {})[field] = value
        return found

    def places(self, project: str, record: str | None = None) -> list[Place]:
        """Every place of a project, or of one record, in which anything is stored."""
        query = """SELECT DISTINCT record, event, form, instance FROM item
                   WHERE project = ? AND record = coalesce(?, record)"""
        with self._lock:
            return [Place(*row) for row in self._db.execute(query, (project, record))]

    def last_instance(self, project: str, record: str, event: str, form: str) -> int:
        """Highest instance number of a repeating form or event in a record; 0 for none."""
        with self._lock:
            row = self._db.execute(
                """SELECT max(instance) FROM item WHERE project = ? AND record = ? AND event = ?
                   AND form = ?""",
                (project, record, event, form),
            ).fetchone()
        return row[0] or 0

    def put(self, project: str, place: Place, values: Mapping[str, str]) -> dict[str, str]:
        """Stores values in one place (an empty one erases); returns those that changed anything."""
        with self.transaction():
            old = self.values(project, list(values), [place.record]).get(place, {})
            changed = {field: value for field, value in values.items() if old.get(field, "") != value}
            for field, value in changed.items():
                key = (project, *place, field)
                if value:
                    self._db.execute(
                        "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, value)
                    )
                else:
                    self._db.execute(f"DELETE FROM item {_AT}", key)  # noqa: S608 - a constant
            return changed

    def file(self, project: str, place: Place, field: str) -> bytes | None:
        """The bytes of a stored file."""
        with self._lock:
            query = f"SELECT content FROM file {_AT}"  # noqa: S608 - a constant
            row = self._db.execute(query, (project, *place, field)).fetchone()
        return row[0] if row else None

    def put_file(self, project: str, place: Place, field: str, content: bytes | None) -> None:
        """Stores the bytes of a file; None removes them."""
        with self.transaction():
            key = (project, *place, field)
            if content is None:
                self._db.execute(f"DELETE FROM file {_AT}", key)  # noqa: S608 - a constant
            else:
                self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, content))

    def members(self, project: str) -> dict[str, str]:
        """Record -> unique name of its data access group."""
        with self._lock:
            query = "SELECT record, dag FROM member WHERE project = ?"
            return dict(self._db.execute(query, (project,)).fetchall())

    def join(self, project: str, record: str, dag: str) -> None:
        """Puts a record into a data access group; empty takes it out."""
        with self.transaction():
            self._db.execute("DELETE FROM member WHERE project = ? AND record = ?", (project, record))
            if dag:
                self._db.execute("INSERT INTO member VALUES (?, ?, ?)", (project, record, dag))

    def set_user(self, project: str, user: str, *, rights: Collection[str] | None, dag: str) -> None:
        """Changes a user of a project; rights None takes the user away."""
        with self.transaction():
            where = "WHERE project = ? AND user = ?"
            if rights is None:
                self._db.execute(f"DELETE FROM token {where}", (project, user))  # noqa: S608 - a constant
            else:
                self._db.execute(
                    f"UPDATE token SET rights = ?, dag = ? {where}",  # noqa: S608 - a constant
                    (json.dumps(list(rights)), dag, project, user),
                )

    def documents(self, project: str) -> list[tuple[int, int | None, str, bytes | None]]:
        """The file repository: id, folder that it is in, name, bytes (None: a folder)."""
        query = "SELECT id, folder, name, content FROM document WHERE project = ? ORDER BY id"
        with self._lock:
            return self._db.execute(query, (project,)).fetchall()

    def add_document(self, project: str, folder: int | None, name: str, content: bytes | None) -> int:
        """Adds a file or folder to the file repository; returns its id."""
        with self.transaction():
            cursor = self._db.execute(
                "INSERT INTO document VALUES (NULL, ?, ?, ?, ?)", (project, folder, name, content)
            )
            return cursor.lastrowid or 0

    def delete_document(self, project: str, number: int) -> None:
        """Takes a file out of the file repository."""
        with self.transaction():
            self._db.execute("DELETE FROM document WHERE project = ? AND id = ?", (project, number))

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

    def delete(self, project: str, record: str) -> None:
        """Deletes a record with everything that belongs to it."""
        with self.transaction():
            for table in _BY_RECORD:
                self._db.execute(
                    f"DELETE FROM {table} WHERE project = ? AND record = ?",  # noqa: S608 - our tables
                    (project, record),
                )

    def delete_place(self, project: str, place: Place, columns: Collection[str]) -> None:
        """Deletes some columns of one place of a record."""
        self.touch(project, place.record)
        self.put(project, place, dict.fromkeys(columns, ""))

    def rename(self, project: str, old: str, new: str) -> None:
        """Gives a record another name."""
        with self.transaction():
            for table in _BY_RECORD:
                self._db.execute(
                    f"UPDATE {table} SET record = ? WHERE project = ? AND record = ?",  # noqa: S608
                    (new, project, old),
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
