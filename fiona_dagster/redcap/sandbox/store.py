"""The sandbox's memory: projects, tokens and log, besides what the projects hold."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fiona_dagster.redcap.dictionary import Dictionary, Field, ShippedProject, checkbox_column
from fiona_dagster.redcap.sandbox.database import now
from fiona_dagster.redcap.sandbox.records import Records
from fiona_dagster.redcap.sandbox.setup import Setup

ALL_RIGHTS = ("api", "export", "import", "delete", "design")
"""What a token may do; ``api`` is needed for anything, ``design`` for a project's set-up."""


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


class Store(Records):
    """All state of a sandbox."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._projects: dict[str, Project] = {}

    def forget(self) -> None:
        """Projects are parsed anew."""
        self._projects.clear()

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

    def write_log(
        self, project: str, user: str, kind: str, action: str, *, details: str = "", record: str = ""
    ) -> None:
        """Adds a line to the log."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO log VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                (project, now(), user, kind, action, details, record),
            )

    def blank_log(self, project: str, record: str) -> None:
        """Takes the values out of what the log tells of a record."""
        with self.transaction():
            self._db.execute(
                "UPDATE log SET details = ? WHERE project = ? AND record = ? AND details != ''",
                ("[*DATA REMOVED*]", project, record),
            )

    def log(self, project: str) -> list[LogEntry]:
        """The project's log, newest first."""
        query = "SELECT time, user, kind, action, details, record FROM log WHERE project = ? ORDER BY id DESC"
        with self._lock:
            return [LogEntry(*row) for row in self._db.execute(query, (project,))]
