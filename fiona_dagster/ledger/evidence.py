"""What is known about completeness: senders, performed steps, counts of sources, decisions, commitments."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.ledger.booking import choose_site
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.work import WorkList

EVIDENCE = "evidence "
"""In front of the names of the journals of evidence in the table of journals."""

CountState = Literal["open", "counted", "silent"]


@dataclass(frozen=True)
class Steps:
    """The Modality Performed Procedure Steps of one study.

    Attributes:
        in_progress: number of steps that are not ended.
        completed: number of steps that the modality completed.
        discontinued: number of steps that it broke off.
        expected: number of instances that the ended ones reference.
        missing: those that are not here: Series Instance UID -> SOP Instance UIDs.
    """

    in_progress: int
    completed: int
    discontinued: int
    expected: int
    missing: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Count:
    """What a source was asked about a study and said; see the table ``source_counts``."""

    study: str
    source: str
    since: str
    asked: str
    state: CountState
    instances: int
    series: Mapping[str, int]
    why: str


@dataclass(frozen=True)
class Fetch:
    """Attempts to have a source send a series.

    Attributes:
        wanted: instances that it counted when it was asked last.
        attempts: attempts while it counted that.
        total: attempts in all.
        time: when it was asked last.
    """

    wanted: int
    attempts: int
    total: int
    time: str


@dataclass(frozen=True)
class Completion:
    """The last decision on a study: ``wait``, ``complete`` or ``incomplete``, with reasons and numbers."""

    outcome: str
    time: str
    reasons: tuple[str, ...]
    expected: int | None
    received: int
    missing: int


class EvidenceBook:
    """Evidence and decisions."""

    def __init__(self, store: Store, work: WorkList) -> None:
        self._store = store
        self._work = work

    def read_journals(self) -> int:
        """Takes over what the journals of evidence have that the ledger lacks; returns the new lines.

        A study that a new performed step is about is looked at again, even if it was complete already.
        """
        return sum(self._read(tree) for tree in self._store.root.site_trees())

    def _read(self, tree: DataRoot) -> int:
        prefix = f"{EVIDENCE}{tree.site_name} "
        count = 0
        with self._store.writing() as db:
            offsets = {
                row["name"].removeprefix(prefix): row["offset"]
                for row in db.execute("SELECT * FROM journals WHERE name LIKE ?", (f"{EVIDENCE}%",))
                if row["name"].startswith(prefix)
            }
            for name, offset, found in landing.read_evidence(tree, offsets):
                if isinstance(found, landing.PerformedStep):
                    self._book_step(db, found)
                elif isinstance(found, landing.SiteChoice):
                    self._book_choice(db, found)
                elif isinstance(found, landing.FlagDecision):
                    self._book_flag(db, found)
                else:
                    _book_commitment(db, found)
                db.execute(
                    "INSERT OR REPLACE INTO journals (name, offset) VALUES (?, ?)", (prefix + name, offset)
                )
                count += 1
        return count

    def _book_choice(self, db: sqlite3.Connection, choice: landing.SiteChoice) -> None:
        choose_site(db, choice.study, choice.site, choice.time)
        if db.execute("UPDATE studies SET open = 1 WHERE study = ?", (choice.study,)).rowcount:
            site = choice.site or "the main site"
            self._store.note(choice.study, f"counts at {site}, decided by {choice.by}")

    def _book_flag(self, db: sqlite3.Connection, decision: landing.FlagDecision) -> None:
        db.execute(
            "INSERT OR REPLACE INTO flag_decisions (study, flag, content, time, by, reason)"
            " VALUES (:study, :flag, :content, :time, :by, :reason)",
            asdict(decision),
        )
        row = db.execute("SELECT revision FROM studies WHERE study = ?", (decision.study,)).fetchone()
        if row is not None and row["revision"]:  # the flag goes when the study is processed once more
            self._work.need("process", decision.study, row["revision"], again=True)
            self._store.note(decision.study, f"{decision.flag} accepted by {decision.by}: {decision.reason}")

    def accepted_flags(self, study: str, content: str) -> frozenset[str]:
        """Flags that a person accepted for exactly this content of a study."""
        query = "SELECT flag FROM flag_decisions WHERE study = ? AND content = ?"
        return frozenset(row["flag"] for row in self._store.rows(query, study, content))

    def _book_step(self, db: sqlite3.Connection, step: landing.PerformedStep) -> None:
        db.execute("DELETE FROM performed_steps WHERE step = ?", (step.instance,))
        for study in step.studies:
            db.execute("DELETE FROM expected_instances WHERE study = ? AND step = ?", (study, step.instance))
            alone = int(len(step.studies) == 1)
            db.execute(
                "INSERT OR REPLACE INTO performed_steps (study, step, status, alone, calling_ae, time)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (study, step.instance, step.status, alone, step.calling_ae, step.time),
            )
            db.executemany(
                "INSERT OR REPLACE INTO expected_instances (study, step, sop_instance, series)"
                " VALUES (?, ?, ?, ?)",
                (
                    (study, step.instance, instance, series)
                    for series, instances in step.series.items()
                    for instance in instances
                ),
            )
            if db.execute("UPDATE studies SET open = 1 WHERE study = ?", (study,)).rowcount:
                self._store.note(study, f"MPPS of {step.calling_ae}: {step.status.lower()}")

    def senders(self, study: str) -> frozenset[str]:
        """Calling AE titles of everyone who sent to the study."""
        found = self._store.rows(
            """SELECT calling_ae FROM senders WHERE study = ?
               UNION SELECT calling_ae FROM studies WHERE study = ?""",
            study,
            study,
        )
        return frozenset(row["calling_ae"] for row in found)

    def received(self, study: str) -> dict[str, int]:
        """Series Instance UID -> number of instances that arrived."""
        found = self._store.rows(
            "SELECT series, count(*) AS instances FROM instances WHERE study = ? GROUP BY series", study
        )
        return {row["series"]: row["instances"] for row in found}

    def steps(self, study: str) -> Steps | None:
        """The performed steps of a study, or None if there are none.

        Where a step names several studies, what it references counts for this one only in series of which
        something is here.
        """
        statuses = {
            row["status"]: row["n"]
            for row in self._store.rows(
                "SELECT status, count(*) AS n FROM performed_steps WHERE study = ? GROUP BY status", study
            )
        }
        if not statuses:
            return None
        rows = self._store.rows(
            """SELECT DISTINCT e.series, e.sop_instance, i.sop_instance IS NOT NULL AS here
               FROM expected_instances e
               JOIN performed_steps s ON s.study = e.study AND s.step = e.step
               LEFT JOIN instances i ON i.study = e.study AND i.sop_instance = e.sop_instance
               WHERE e.study = ? AND s.status <> 'IN PROGRESS'
               AND (s.alone OR e.series IN (SELECT series FROM instances WHERE study = ?))""",
            study,
            study,
        )
        missing: dict[str, list[str]] = {}
        for row in rows:
            if not row["here"]:
                missing.setdefault(row["series"], []).append(row["sop_instance"])
        return Steps(
            statuses.get("IN PROGRESS", 0),
            statuses.get("COMPLETED", 0),
            statuses.get("DISCONTINUED", 0),
            len({row["sop_instance"] for row in rows}),
            {series: tuple(instances) for series, instances in missing.items()},
        )

    # Counts of sources.

    def ask(self, study: str, source: str, since: str) -> None:
        """Notes that a source is to be asked, once for each last arrival ``since``."""
        with self._store.writing() as db:
            db.execute(
                """INSERT INTO source_counts (study, source, since, asked, state) VALUES (?, ?, ?, ?, 'open')
                   ON CONFLICT (study, source) DO UPDATE SET since = excluded.since, asked = excluded.asked,
                       state = 'open', instances = 0, series = '{}', why = ''
                   WHERE since <> excluded.since""",
                (study, source, since, utc_now()),
            )

    def questions(self, source: str, limit: int = 50) -> list[Count]:
        """What a source is to be asked, oldest first."""
        found = self._store.rows(
            "SELECT * FROM source_counts WHERE state = 'open' AND source = ? ORDER BY asked, study LIMIT ?",
            source,
            limit,
        )
        return [_count(row) for row in found]

    def answer(
        self, question: Count, *, instances: int = 0, series: Mapping[str, int] | None = None, why: str = ""
    ) -> None:
        """Books an answer; without a number, or with ``why``, it is no evidence.

        Args:
            question: what was asked; an answer to one that was renewed meanwhile is dropped.
            instances: of the study; 0: it did not say.
            series: instances of each series.
            why: why there is no evidence.
        """
        state = "counted" if (instances or series) and not why else "silent"
        with self._store.writing() as db:
            db.execute(
                """UPDATE source_counts SET state = ?, instances = ?, series = ?, why = ?
                   WHERE study = ? AND source = ? AND since = ?""",
                (
                    *(state, instances, json.dumps(dict(series or {}), sort_keys=True), why[:500]),
                    *(question.study, question.source, question.since),
                ),
            )
            if state == "counted":  # it may come late: the study is looked at again
                db.execute("UPDATE studies SET open = 1 WHERE study = ?", (question.study,))

    def counts(self, study: str) -> list[Count]:
        """What the sources were asked about a study, and said."""
        found = self._store.rows("SELECT * FROM source_counts WHERE study = ? ORDER BY source", study)
        return [_count(row) for row in found]

    # Fetching.

    def fetches(self, study: str, source: str) -> dict[str, Fetch]:
        """Attempts to have a source send, by Series Instance UID; empty: the whole study."""
        found = self._store.rows("SELECT * FROM fetches WHERE study = ? AND source = ?", study, source)
        return {
            row["series"]: Fetch(row["wanted"], row["attempts"], row["total"], row["time"]) for row in found
        }

    def fetching(self, study: str, source: str, series: str, wanted: int) -> None:
        """An attempt begins; it counts from now on, whatever becomes of it.

        Args:
            study: StudyInstanceUID.
            source: which source is asked.
            series: SeriesInstanceUID; empty: the whole study.
            wanted: what the source counts; another number than before begins a new count of attempts.
        """
        with self._store.writing() as db:
            db.execute(
                """INSERT INTO fetches (study, source, series, wanted, attempts, total, time, result)
                   VALUES (?, ?, ?, ?, 1, 1, ?, 'begun')
                   ON CONFLICT (study, source, series) DO UPDATE SET
                       attempts = CASE WHEN wanted = excluded.wanted THEN attempts + 1 ELSE 1 END,
                       total = total + 1, wanted = excluded.wanted, time = excluded.time, result = 'begun'""",
                (study, source, series, wanted, utc_now()),
            )

    def fetched(self, study: str, source: str, series: str, result: str) -> None:
        """How the attempt ended, in a few words; nothing identifying."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE fetches SET result = ? WHERE study = ? AND source = ? AND series = ?",
                (result[:500], study, source, series),
            )
            self._store.note(study, f"asked source {source} to send a series: {result[:200]}")

    # Decisions.

    def decide(self, study: str, outcome: str, document: Mapping[str, Any]) -> bool:
        """Stores a decision if it says something new.

        Args:
            study: StudyInstanceUID.
            outcome: ``wait``, ``complete`` or ``incomplete``.
            document: ``reasons`` and numbers; nothing identifying.

        Returns:
            Whether it differs from the one before.
        """
        text = json.dumps(dict(document), sort_keys=True)
        row = self._store.row("SELECT outcome, document FROM completion WHERE study = ?", study)
        if row is not None and (row["outcome"], row["document"]) == (outcome, text):
            return False  # nothing is flushed for a study that just goes on waiting
        with self._store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO completion (study, outcome, time, document) VALUES (?, ?, ?, ?)",
                (study, outcome, utc_now(), text),
            )
        return True

    def completion(self, study: str) -> Completion | None:
        """The last decision on a study."""
        row = self._store.row("SELECT * FROM completion WHERE study = ?", study)
        if row is None:
            return None
        document = json.loads(row["document"])
        return Completion(
            outcome=row["outcome"],
            time=row["time"],
            reasons=tuple(document.get("reasons", ())),
            expected=document.get("expected"),
            received=int(document.get("received", 0)),
            missing=int(document.get("missing", 0)),
        )

    # Commitments.

    def committed(self, study: str) -> frozenset[str]:
        """SOP Instance UIDs whose safekeeping was confirmed: whatever removes files must spare these."""
        found = self._store.rows("SELECT sop_instance FROM committed WHERE study = ?", study)
        return frozenset(row["sop_instance"] for row in found)

    def places(self, sop_instances: Iterable[str]) -> dict[str, list[sqlite3.Row]]:
        """Where instances lie, by SOP Instance UID; one may lie in several studies, and at several sites."""
        found: dict[str, list[sqlite3.Row]] = {}
        for uid in sop_instances:
            rows = self._store.rows("SELECT * FROM site_instances WHERE sop_instance = ?", uid)
            if rows:
                found[uid] = rows
        return found


def _book_commitment(db: sqlite3.Connection, found: landing.Commitment) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO committed (study, sop_instance, transaction_uid, calling_ae, time)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            (study, instance, found.transaction, found.calling_ae, found.time)
            for instance, study in found.instances.items()
        ),
    )


def _count(row: sqlite3.Row) -> Count:
    return Count(
        study=row["study"],
        source=row["source"],
        since=row["since"],
        asked=row["asked"],
        state=row["state"],
        instances=row["instances"],
        series=json.loads(row["series"]),
        why=row["why"],
    )
