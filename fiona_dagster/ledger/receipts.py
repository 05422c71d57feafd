"""Receipts flow from the journals into the ledger; from them come studies, instances and revisions.

The receiver never waits for this: it writes journals, and whoever needs the ledger reads first what
the journals have that the ledger lacks (:meth:`Receipts.read_journals`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.ledger.booking import book
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.work import WorkList

ALTERED = "altered_instances"
"""Flag of a study with archived bytes that are not those that were received."""


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
    site: str = ""
    """The site that counts: name of an entry in ``SITES``, "" for the main one."""
    sites: tuple[str, ...] = ("",)
    """Every site that it arrived at."""
    site_chosen: bool = False
    """Whether a person decided which site counts."""

    @property
    def at_several_sites(self) -> bool:
        """Whether it arrived at more than one site and nobody decided which one counts."""
        return len(self.sites) > 1 and not self.site_chosen

    @property
    def state(self) -> str:
        """arriving, processing, held, or flagged."""
        if self.open:
            return "arriving"
        if self.registered < self.revision:
            return "processing"
        return "flagged" if self.flags else "held"


@dataclass(frozen=True)
class Sender:
    """Who sent the first instance of a series, and when."""

    calling_ae: str
    called_ae: str
    caller_ip: str
    first_arrival: str


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
        with self._store.writing() as db:
            return sum(self._read_tree(db, tree) for tree in self._store.root.site_trees())

    def _read_tree(self, db: sqlite3.Connection, tree: DataRoot) -> int:
        prefix = f"{tree.site_name}/" if tree.site_name else ""
        rows = db.execute(
            "SELECT name, offset, mark FROM journals WHERE instr(name, '/') = ?", (len(prefix),)
        )
        known = {
            row["name"].removeprefix(prefix): landing.Position(row["offset"], row["mark"])
            for row in rows
            if row["name"].startswith(prefix)
        }
        count = 0
        for name, position, receipt in landing.read_journals(tree, known):
            book(db, receipt, tree.site_name)
            if receipt.kind == "rejected":  # its flag goes when the study is processed once more
                self._process_again(db, receipt.StudyInstanceUID)
            db.execute(
                "INSERT OR REPLACE INTO journals (name, offset, mark) VALUES (?, ?, ?)",
                (prefix + name, position.offset, position.mark),
            )
            count += 1
        return count

    def _process_again(self, db: sqlite3.Connection, study: str) -> None:
        row = db.execute("SELECT revision FROM studies WHERE study = ?", (study,)).fetchone()
        if row["revision"]:
            self._work.need("process", study, row["revision"], again=True)

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

    def senders(self, study: str | None = None) -> dict[tuple[str, str], Sender]:
        """(StudyInstanceUID, SeriesInstanceUID) -> who sent the first instance, at the site that counts.

        Args:
            study: only this study; ``None``: all.
        """
        query = """SELECT x.* FROM series_senders x JOIN studies s ON s.study = x.study AND s.site = x.site"""
        rows = self._store.rows(f"{query} WHERE x.study = ?", study) if study else self._store.rows(query)
        return {
            (row["study"], row["series"]): Sender(
                row["calling_ae"], row["called_ae"], row["caller_ip"], row["first_arrival"]
            )
            for row in rows
        }

    def digest_count(self) -> int:
        """How many instances have a digest."""
        row = self._store.row("SELECT count(*) AS number FROM instances WHERE digest != ''")
        return int(row["number"]) if row else 0

    def record_digests(self, study: str, digests: Mapping[str, str]) -> None:
        """Books SHA-256 over transfer syntax and data set by SOPInstanceUID; one that is there stays."""
        with self._store.writing() as db:
            db.executemany(
                _SET_DIGEST,
                [(digest, study, instance) for instance, digest in digests.items()],
            )

    def mark_altered(self, study: str, instances: Iterable[str]) -> None:
        """Instances whose archived bytes are not those that were received: the study is flagged at once."""
        with self._store.writing() as db:
            for instance in instances:
                db.execute(
                    _SET_ALTERED,
                    (utc_now(), study, instance),
                )
            row = db.execute("SELECT flags FROM studies WHERE study = ?", (study,)).fetchone()
            flags = sorted({*json.loads(row["flags"]), ALTERED})
            db.execute("UPDATE studies SET flags = ? WHERE study = ?", (json.dumps(flags), study))
            self._store.note(study, "archived bytes differ from what was received; flagged")

    def has_altered(self, study: str) -> bool:
        """Whether archived bytes of this study are known to be not those that were received."""
        return bool(self._store.row("SELECT 1 FROM instances WHERE study = ? AND altered != ''", study))

    def mark_sound(self, study: str, instances: Iterable[str]) -> None:
        """Instances whose bytes are right again (restored from a backup)."""
        with self._store.writing() as db:
            db.executemany(
                _SET_SOUND,
                [(study, instance) for instance in instances],
            )

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
            db.execute(
                "UPDATE site_instances SET revision = ? WHERE study = ? AND revision = 0", (revision, study)
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

    def is_unchanged(self, study: str) -> bool:
        """Whether the study holds what its last revision held."""
        with self._store.writing() as db:
            digest, _ = _digest(db, study)
            row = db.execute("SELECT revision_digest FROM studies WHERE study = ?", (study,)).fetchone()
            return row is not None and row["revision_digest"] == digest

    def registered(self, study: str, revision: int, flags: Iterable[str], summary: dict[str, Any]) -> None:
        """The study was processed and stands in REDCap up to ``revision``; it is held (or flagged) now."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE studies SET registered = max(registered, ?), flags = ?, summary = ? WHERE study = ?",
                (revision, json.dumps(sorted(flags)), json.dumps(summary, sort_keys=True), study),
            )
            self._work.done(f"process:{study}", revision)
            self._store.note(study, f"registered, revision {revision}" + _named(sorted(flags)))

    def newest_registration(self) -> tuple[str, datetime] | None:
        """The study that was registered for the first time last, and when; of the latest events only."""
        found = self._store.row(
            """SELECT study, time FROM (SELECT * FROM history ORDER BY id DESC LIMIT 1000)
               WHERE what = 'registered, revision 1' OR what LIKE 'registered, revision 1,%' LIMIT 1"""
        )
        return None if found is None else (str(found["study"]), datetime.fromisoformat(found["time"]))

    def retire(self, study: str, time: str) -> None:
        """The study left Dagster's partition sets; the ledger remembers it."""
        with self._store.writing() as db:
            db.execute("UPDATE studies SET retired = ? WHERE study = ?", (time, study))
            self._store.note(study, "retired from the partition sets")


_OF_HOME = """study = ? AND sop_instance = ?
    AND site = (SELECT s.site FROM studies s WHERE s.study = site_instances.study)"""
_SET_DIGEST = f"UPDATE site_instances SET digest = ? WHERE digest = '' AND {_OF_HOME}"  # noqa: S608 - constants
_SET_ALTERED = f"UPDATE site_instances SET altered = ? WHERE altered = '' AND {_OF_HOME}"  # noqa: S608 - constants
_SET_SOUND = f"UPDATE site_instances SET altered = '' WHERE {_OF_HOME}"  # noqa: S608 - constants

_STUDIES = """SELECT s.*,
    (SELECT json_group_array(x.site) FROM study_sites x WHERE x.study = s.study) AS sites,
    (SELECT max(x.chosen) FROM study_sites x WHERE x.study = s.study) AS site_chosen,
    count(i.sop_instance) AS instances,
    coalesce(sum(i.conflicts), 0) AS conflicts
    FROM studies s LEFT JOIN instances i ON i.study = s.study"""
_GROUPED = "GROUP BY s.study ORDER BY s.first_arrival, s.study"


def _named(flags: list[str]) -> str:
    return f", flagged: {', '.join(flags)}" if flags else ""


def _instances_before(db: sqlite3.Connection, study: str, revision: int) -> int:
    row = db.execute(
        "SELECT instances FROM revisions WHERE study = ? AND revision < ? ORDER BY revision DESC LIMIT 1",
        (study, revision),
    ).fetchone()
    return 0 if row is None else int(row["instances"])


def _digest(db: sqlite3.Connection, study: str) -> tuple[str, int]:
    digest, count = hashlib.sha256(), 0
    # Files that were set aside, not lines that told of them: a journal that was put back is read twice.
    query = """SELECT i.sop_instance, i.accepted, (SELECT count(*) FROM set_aside a WHERE a.study = i.study
            AND a.sop_instance = i.sop_instance AND a.state != 'superseded') AS conflicts
        FROM instances i WHERE i.study = ? ORDER BY i.sop_instance"""
    for row in db.execute(query, (study,)):
        accepted = f" {row['accepted']}" if row["accepted"] else ""
        digest.update(f"{row['sop_instance']} {row['conflicts']}{accepted}\n".encode())
        count += 1
    sites = db.execute(
        "SELECT site, chosen FROM study_sites WHERE study = ? ORDER BY site", (study,)
    ).fetchall()
    if len(sites) > 1:
        digest.update("".join(f"{row['site']}={row['chosen']}\n" for row in sites).encode())
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
        site=row["site"],
        sites=tuple(sorted(json.loads(row["sites"]))),
        site_chosen=bool(row["site_chosen"]),
    )
