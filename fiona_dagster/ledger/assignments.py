"""Whose a study is, what automatic assignment made of it, and REDCap's table of projects as last read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from fiona_dagster.ledger.seal import opened, seal_of
from fiona_dagster.ledger.store import Store, utc_after, utc_now

AssignmentState = Literal["asked", "requested", "waiting", "opted_out"]
"""``asked``: a request was written to REDCap; ``requested``: one was there; ``waiting``: for a person."""
Way = Literal["", "coupling", "routing", "autoid", "derived"]
"""Which table said where the study goes."""
LOOK_AGAIN_SECONDS = 600.0
"""A request that should stand in REDCap and was not taken up since is looked for again."""


@dataclass(frozen=True)
class Person:
    """What the headers of a study say of the person and the examination: distinct values, sorted."""

    patient_ids: tuple[str, ...] = field(default=(), repr=False)
    patient_names: tuple[str, ...] = field(default=(), repr=False)
    accession_numbers: tuple[str, ...] = field(default=(), repr=False)
    other_ids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class StudyAssignment:
    """What automatic assignment last made of a study; nothing identifying."""

    study: str
    revision: int
    state: AssignmentState
    way: Way
    project: str
    reason: str
    seen: str
    changed: str


class AssignmentBook:
    """The tables of persons, assignments and project entries."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record_person(self, study: str, person: Person) -> None:
        """Replaces what is known of the person; it is kept sealed, so that the ledger names nobody."""
        sealed = seal_of(self._store.root).encrypt(json.dumps(asdict(person)).encode())
        with self._store.writing() as db:
            db.execute("INSERT OR REPLACE INTO persons (study, sealed) VALUES (?, ?)", (study, sealed))

    def person(self, study: str) -> Person | None:
        """What is known of the person; None if it was never recorded, or its seal is lost."""
        row = self._store.row("SELECT sealed FROM persons WHERE study = ?", study)
        found = None if row is None else opened(seal_of(self._store.root), row["sealed"])
        return None if found is None else Person(**{name: tuple(values) for name, values in found.items()})

    def to_look_at(self, seen: str, limit: int = 1000) -> list[str]:
        """Held studies not looked at with these tables: those that never were first, then the newest.

        Args:
            seen: digest of the tables, lists and settings that decide.
            limit: how many at most; the others are there the next time.
        """
        rows = self._store.rows(
            """SELECT s.study FROM studies s LEFT JOIN assignments a ON a.study = s.study
               WHERE s.open = 0 AND s.revision > 0 AND s.registered = s.revision AND s.flags = '[]'
               AND s.retired IS NULL AND (a.study IS NULL OR a.revision != s.revision OR a.seen != ?
                   OR (a.state IN ('asked', 'requested') AND a.changed < ?
                       AND NOT EXISTS (SELECT 1 FROM transfers t WHERE t.study = s.study)))
               ORDER BY a.study IS NOT NULL, s.last_arrival DESC, s.study LIMIT ?""",
            seen,
            utc_after(-LOOK_AGAIN_SECONDS),
            limit,
        )
        return [row["study"] for row in rows]

    def decide(
        self,
        study: str,
        revision: int,
        state: AssignmentState,
        seen: str,
        *,
        way: Way = "",
        project: str = "",
        reason: str = "",
    ) -> bool:
        """Books what was made of a study; returns whether it differs from before."""
        before = self.of(study)
        with self._store.writing() as db:
            db.execute(
                """INSERT OR REPLACE INTO assignments
                   (study, revision, state, way, project, reason, seen, changed)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                (study, revision, state, way, project, reason[:1000], seen, utc_now()),
            )
        told = (state, way, project, reason[:1000])
        return before is None or (before.state, before.way, before.project, before.reason) != told

    def record_routed(self, routed: Iterable[tuple[str, str]], requested_date: str) -> None:
        """Routing rules are about to write these requests.

        Booked first, since a kill in between must not make a person's request of them.

        Args:
            routed: studies and projects.
            requested_date: what the requests will have as date.
        """
        rows = [(study, project, requested_date) for study, project in routed]
        if rows:
            with self._store.writing() as db:
                db.executemany("INSERT OR IGNORE INTO routed VALUES (?, ?, ?)", rows)

    def of(self, study: str) -> StudyAssignment | None:
        """What was made of a study; None if it was never looked at."""
        row = self._store.row("SELECT * FROM assignments WHERE study = ?", study)
        return None if row is None else StudyAssignment(**dict(row))

    def replace_projects(self, entries: Mapping[str, Mapping[str, str]]) -> None:
        """REDCap's table of projects was read; ``entries`` hold no tokens."""
        now = utc_now()
        rows = [(name, json.dumps(dict(entry), sort_keys=True), now) for name, entry in entries.items()]
        with self._store.writing() as db:
            db.execute("DELETE FROM project_entries")
            db.executemany("INSERT INTO project_entries VALUES (?, ?, ?)", rows)

    def project_entry(self, project: str) -> dict[str, str] | None:
        """The fields of a project in REDCap's table as last read; None if it is not in it."""
        row = self._store.row("SELECT document FROM project_entries WHERE project = ?", project)
        return None if row is None else dict(json.loads(row["document"]))

    def project_entries(self) -> list[dict[str, str]]:
        """The fields of all projects in REDCap's table as last read, by name."""
        rows = self._store.rows("SELECT document FROM project_entries ORDER BY project")
        return [dict(json.loads(row["document"])) for row in rows]

    def has_projects(self) -> bool:
        """Whether REDCap's table of projects was ever read and held any."""
        return self._store.row("SELECT 1 FROM project_entries") is not None

    def record_imaging(self, transfer: int, revision: int, study_date: str, description: str) -> None:
        """Date and description of the de-identified study, for the project's own REDCap."""
        with self._store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO imaging_entries VALUES (?, ?, ?, ?)",
                (transfer, revision, study_date, description),
            )

    def imaging(self, transfer: int, revision: int) -> tuple[str, str] | None:
        """Date and description of the de-identified study, if they were recorded."""
        row = self._store.row(
            "SELECT study_date, description FROM imaging_entries WHERE transfer = ? AND revision = ?",
            transfer,
            revision,
        )
        return None if row is None else (row["study_date"], row["description"])


def person_of(
    ids: Iterable[str],
    names: Iterable[str] = (),
    accession_numbers: Iterable[str] = (),
    other_ids: Iterable[str] = (),
) -> Person:
    """A person from any values; empty ones say nothing."""

    def sound(values: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted({value.strip() for value in values} - {""}))

    return Person(sound(ids), sound(names), sound(accession_numbers), sound(other_ids))
