"""Receipts flow from the journals into the ledger; from them come studies, instances and revisions.

The receiver never waits for this: it writes journals, and whoever needs the ledger reads first what
the journals have that the ledger lacks (:meth:`Receipts.read_journals`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fiona_dagster import landing
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.work import WorkList


@dataclass(frozen=True)
class Study:
    """Where one study stands. ``flags`` are codes; a flagged study can't be assigned."""

    study: str
    first_arrival: str
    last_arrival: str
    calling_ae: str
    called_ae: str
    caller_ip: str
    revision: int
    registered: int
    open: bool
    instances: int
    conflicts: int
    flags: tuple[str, ...]
    summary: dict[str, Any]
    retired: str | None

    @property
    def state(self) -> str:
        """arriving, processing, held, or flagged."""
        if self.open:
            return "arriving"
        if self.registered < self.revision:
            return "processing"
        return "flagged" if self.flags else "held"


class Receipts:
    """Studies and instances."""

    def __init__(self, store: Store, work: WorkList) -> None:
        self._store = store
        self._work = work

    def read_journals(self) -> int:
        """Takes over what the journals have that the ledger lacks.

        Returns:
            The number of journal lines that were new.
        """
        offsets = {row["name"]: row["offset"] for row in self._store.rows("SELECT * FROM journals")}
        count = 0
        with self._store.writing() as db:
            # Read again inside the transaction: another process may have been here in between.
            offsets = {row["name"]: row["offset"] for row in db.execute("SELECT * FROM journals")}
            for name, offset, receipt in landing.read_journals(self._store.root, offsets):
                _book(db, receipt)
                db.execute("INSERT OR REPLACE INTO journals (name, offset) VALUES (?, ?)", (name, offset))
                count += 1
        return count

    def studies(self, *, open_only: bool = False, include_retired: bool = True) -> list[Study]:
        """All studies, in the order of their first arrival."""
        where = "WHERE 1" + (" AND s.open = 1" if open_only else "")
        where += "" if include_retired else " AND s.retired IS NULL"
        return [_study(row) for row in self._store.rows(f"{_STUDIES} {where} {_GROUPED}")]

    def study(self, study: str) -> Study:
        """One study.

        Raises:
            UnknownStudy: the ledger has none of this StudyInstanceUID.
        """
        row = self._store.row(f"{_STUDIES} WHERE s.study = ? {_GROUPED}", study)
        if row is None:
            raise UnknownStudy(f"no study {study[:64]} here; `fiona status` lists the studies")
        return _study(row)

    def instances(self, study: str) -> list[sqlite3.Row]:
        """Rows of all accepted instances of a study, by SOP Instance UID."""
        return self._store.rows("SELECT * FROM instances WHERE study = ? ORDER BY sop_instance", study)

    def close_revision(self, study: str) -> int | None:
        """The study is complete for now: counts a new revision if its content is new.

        Returns:
            The revision that has to be processed, or None if only repeats came.
        """
        with self._store.writing() as db:
            digest, count = _digest(db, study)
            row = db.execute(
                "SELECT revision, revision_digest, registered FROM studies WHERE study = ?", (study,)
            ).fetchone()
            if row is None:
                raise UnknownStudy(f"no study {study[:64]} here")
            revision = int(row["revision"])
            new = digest != row["revision_digest"]
            if new:
                revision += 1
            db.execute(
                """UPDATE studies SET open = 0, revision = ?, revision_digest = ?, retired = NULL
                   WHERE study = ?""",
                (revision, digest, study),
            )
            if new:
                added = count - _instances_before(db, study, revision)
                db.execute(
                    "INSERT OR REPLACE INTO revisions (study, revision, time, instances, added)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (study, revision, utc_now(), count, added),
                )
                self._store.note(study, f"complete, revision {revision}: {added} instances added")
                self._work.need("process", study, revision)
        return revision if new else None

    def added(self, study: str) -> int:
        """Number of instances that the newest revision has more than the one before."""
        row = self._store.row(
            "SELECT added FROM revisions WHERE study = ? ORDER BY revision DESC LIMIT 1", study
        )
        return 0 if row is None else int(row["added"])

    def registered(self, study: str, revision: int, flags: Iterable[str], summary: dict[str, Any]) -> None:
        """The study was processed and stands in REDCap up to ``revision``; it is held (or flagged) now."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE studies SET registered = max(registered, ?), flags = ?, summary = ? WHERE study = ?",
                (revision, json.dumps(sorted(flags)), json.dumps(summary, sort_keys=True), study),
            )
            self._work.done(f"process:{study}", revision)
            self._store.note(study, f"registered, revision {revision}" + _named(sorted(flags)))

    def retire(self, study: str, time: str) -> None:
        """The study left Dagster's partition sets; the ledger remembers it."""
        with self._store.writing() as db:
            db.execute("UPDATE studies SET retired = ? WHERE study = ?", (time, study))
            self._store.note(study, "retired from the partition sets")


_STUDIES = """SELECT s.*, count(i.sop_instance) AS instances, coalesce(sum(i.conflicts), 0) AS conflicts
    FROM studies s LEFT JOIN instances i ON i.study = s.study"""
_GROUPED = "GROUP BY s.study ORDER BY s.first_arrival, s.study"


def _named(flags: list[str]) -> str:
    return f", flagged: {', '.join(flags)}" if flags else ""


def _book(db: sqlite3.Connection, receipt: landing.Receipt) -> None:
    """One journal line: a repeat or a conflict changes counts only, everything else is an instance."""
    study = receipt.StudyInstanceUID
    repeat, conflict = int(receipt.kind == "repeat"), int(receipt.kind == "conflict")
    db.execute(
        """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip)
           VALUES (?, ?, ?, ?, ?, ?)
           ON CONFLICT (study) DO UPDATE SET open = 1,
               last_arrival = max(last_arrival, excluded.last_arrival)""",
        (study, receipt.time, receipt.time, receipt.calling_ae, receipt.called_ae, receipt.caller_ip),
    )
    db.execute("INSERT OR IGNORE INTO senders (study, calling_ae) VALUES (?, ?)", (study, receipt.calling_ae))
    values = (
        study,
        receipt.SOPInstanceUID,
        receipt.SeriesInstanceUID,
        receipt.SOPClassUID,
        receipt.transfer_syntax,
        receipt.path,
        receipt.size,
        receipt.time,
        repeat,
        conflict,
    )
    # Journals are read one after the other, so that a conflict may be seen before what it conflicts with:
    # the archived file is the instance, whichever line came first.
    db.execute(_FILED if receipt.kind in ("stored", "adopted") else _SEEN_AGAIN, values)


_INSERT = """INSERT INTO instances (study, sop_instance, series, sop_class, transfer_syntax, path, size,
    received, repeats, conflicts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (study, sop_instance) DO UPDATE SET """
_SEEN_AGAIN = _INSERT + "repeats = repeats + excluded.repeats, conflicts = conflicts + excluded.conflicts"
_FILED = (
    _INSERT
    + """series = excluded.series, sop_class = excluded.sop_class, path = excluded.path,
    transfer_syntax = excluded.transfer_syntax, size = excluded.size, received = excluded.received"""
)


def _instances_before(db: sqlite3.Connection, study: str, revision: int) -> int:
    row = db.execute(
        "SELECT instances FROM revisions WHERE study = ? AND revision < ? ORDER BY revision DESC LIMIT 1",
        (study, revision),
    ).fetchone()
    return 0 if row is None else int(row["instances"])


def _digest(db: sqlite3.Connection, study: str) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    query = "SELECT sop_instance, conflicts FROM instances WHERE study = ? ORDER BY sop_instance"
    for row in db.execute(query, (study,)):
        digest.update(f"{row['sop_instance']} {row['conflicts']}\n".encode())
        count += 1
    return digest.hexdigest(), count


def _study(row: sqlite3.Row) -> Study:
    return Study(
        study=row["study"],
        first_arrival=row["first_arrival"],
        last_arrival=row["last_arrival"],
        calling_ae=row["calling_ae"],
        called_ae=row["called_ae"],
        caller_ip=row["caller_ip"],
        revision=row["revision"],
        registered=row["registered"],
        open=bool(row["open"]),
        instances=row["instances"],
        conflicts=row["conflicts"],
        flags=tuple(json.loads(row["flags"])),
        summary=json.loads(row["summary"]),
        retired=row["retired"],
    )
