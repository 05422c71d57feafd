"""Takes what links a person to de-identified data out of the ledger; nothing of it is left in the file.

Rows are deleted by what they name, in every table there is, also in those that later versions add; then the
file is written anew. Only while no service runs.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, PermanentError
from fiona_dagster.ledger.evidence import EVIDENCE
from fiona_dagster.ledger.records import records_folder, write_common, write_record
from fiona_dagster.ledger.sendings import part_of
from fiona_dagster.ledger.store import BUSY_SECONDS, utc_now

_UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_COUNTED = ("erasures", "erased_generations", "sqlite_sequence")


@dataclass(frozen=True)
class Link:
    """What is to be erased.

    Attributes:
        project: the project's name.
        participant: the participant id; all its transfers of the project go.
        whole: studies of which nothing stays.
        shared: studies that other projects or participants still need: only the link goes.
        uids: original and mapped UIDs that must not be found afterwards.
        instances: SOP Instance UIDs as received of the whole studies.
    """

    project: str
    participant: str = field(repr=False)
    whole: tuple[str, ...]
    shared: tuple[str, ...]
    uids: frozenset[str] = field(repr=False)
    instances: frozenset[str] = field(repr=False)


def mentions(text: str, uids: Collection[str]) -> bool:
    """Whether a text has one of these UIDs in it, as a whole."""
    return any(token in uids for token in _UID.findall(text))


def read_link(root: DataRoot, project: str, participant: str) -> Link:
    """Everything that ties a participant of a project to studies, as the ledger knows it."""
    with _opened(root) as db:
        mine = "SELECT DISTINCT study FROM transfers WHERE project = ? AND participant = ?"
        studies = _column(db, mine, project, participant)
        derived = "SELECT study FROM derived_studies WHERE original = ?"
        studies += [each for study in studies for each in _column(db, derived, study) if each not in studies]
        others = (
            "SELECT 1 FROM transfers WHERE study = ? AND NOT (project = ? AND participant = ?) "
            "AND state NOT IN ('refused', 'superseded')"
        )
        shared = [s for s in studies if db.execute(others, (s, project, participant)).fetchone()]
        whole = [study for study in studies if study not in shared]
        instances: set[str] = set()
        uids: set[str] = set(whole)
        for study in whole:
            for row in db.execute(
                "SELECT series, sop_instance FROM site_instances WHERE study = ?", (study,)
            ):
                instances.add(row["sop_instance"])
                uids |= {row["series"], row["sop_instance"]}
        for number in _transfers(db, project, participant, whole):
            uids |= set(_column(db, "SELECT mapped_uid FROM transfers WHERE id = ?", number)) - {""}
            uids |= set(_column(db, "SELECT mapped_uid FROM sendings WHERE transfer = ?", number)) - {""}
            for (files,) in db.execute("SELECT files FROM verifications WHERE transfer = ?", (number,)):
                uids |= set(_UID.findall(files))
            for (sent,) in db.execute("SELECT instances FROM sendings WHERE transfer = ?", (number,)):
                uids |= set(_UID.findall(sent))
        return Link(project, participant, tuple(whole), tuple(shared), frozenset(uids), frozenset(instances))


def counts_of(root: DataRoot, link: Link) -> dict[str, int]:
    """What will stay of it: numbers."""
    with _opened(root) as db:
        numbers = _transfers(db, link.project, link.participant, link.whole)

        def of_transfers(table: str) -> int:
            query = f"SELECT count(*) FROM {table} WHERE transfer = ?"  # noqa: S608 - names from below
            return sum(int(db.execute(query, (number,)).fetchone()[0]) for number in numbers)

        return {
            "studies": len(link.whole) + len(link.shared),
            "instances": len(link.instances),
            "transfers": len(numbers),
            "packages": of_transfers("packages"),
            "deliveries": of_transfers("deliveries"),
        }


def packages_of(root: DataRoot, link: Link) -> list[str]:
    """Paths of packages, relative to the data root."""
    with _opened(root) as db:
        return [
            path
            for number in _transfers(db, link.project, link.participant, link.whole)
            for path in _column(db, "SELECT path FROM packages WHERE transfer = ?", number)
            if path
        ]


def transfers_of(root: DataRoot, link: Link) -> list[int]:
    """Numbers of the transfers that go."""
    with _opened(root) as db:
        return _transfers(db, link.project, link.participant, link.whole)


def erase_rows(root: DataRoot, link: Link, counts: dict[str, int]) -> None:
    """Deletes every row that tells of the link, writes down the counts, and writes the file anew.

    Raises:
        Busy: somebody else has the ledger open and holds it.
        PermanentError: a table still tells of it; nothing of the ledger was changed.
    """
    with _opened(root) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            numbers = _transfers(db, link.project, link.participant, link.whole)
            _use_up_generations(db, numbers)
            _delete(db, link, numbers)
            if counts:
                names = ", ".join(counts)
                marks = ", ".join("?" for _ in counts)
                db.execute(
                    f"INSERT INTO erasures (time, project, {names}) VALUES (?, ?, {marks})",  # noqa: S608
                    (utc_now(), link.project, *counts.values()),
                )
            _require_gone(db, link)
            for study in link.shared:
                write_record(db, root, study)
            write_common(db, root)
            _read_up_to_the_end(db, root)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        for study in link.whole:
            (records_folder(root) / f"{study}.json").unlink(missing_ok=True)
        write_anew(db)


def _use_up_generations(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Copies may lie at targets for ever: what is sent of the same studies later must not get their UIDs."""
    for number in numbers:
        for study, project, highest in db.execute(
            "SELECT study, project, max(generation) FROM sendings WHERE transfer = ? GROUP BY study, project",
            (number,),
        ).fetchall():
            db.execute(
                """INSERT INTO erased_generations (project, part, next) VALUES (?, ?, ?)
                   ON CONFLICT (project, part) DO UPDATE SET next = max(next, excluded.next)""",
                (project, part_of(study), highest + 1),
            )


def _read_up_to_the_end(db: sqlite3.Connection, root: DataRoot) -> None:
    """The journals of evidence were taken over, then written anew without the study: they are shorter now."""
    for tree in root.site_trees():
        folder = landing.evidence_folder(tree)
        for path in folder.iterdir() if folder.is_dir() else []:
            db.execute(
                "UPDATE journals SET offset = min(offset, ?) WHERE name = ?",
                (path.stat().st_size, f"{EVIDENCE}{tree.site_name} {path.name}"),
            )


def write_anew(db: sqlite3.Connection) -> None:
    """Writes a database anew, so that neither free pages nor its log hold what was deleted.

    Raises:
        Busy: another connection reads it at this moment.
    """
    _checkpoint(db)
    db.execute("VACUUM")
    _checkpoint(db)


def _checkpoint(db: sqlite3.Connection) -> None:
    busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise Busy("a database is in use, so that its log can't be emptied; stop what reads it, then resume")


@contextmanager
def _opened(root: DataRoot) -> Iterator[sqlite3.Connection]:
    """A connection without foreign keys and triggers: rows go in any order."""
    with closing(sqlite3.connect(root.ledger_file, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA secure_delete=ON")
        yield db


def _column(db: sqlite3.Connection, query: str, *values: object) -> list[str]:
    return [row[0] for row in db.execute(query, values)]


def _transfers(db: sqlite3.Connection, project: str, participant: str, whole: Iterable[str]) -> list[int]:
    """The participant's transfers, and every one (refused for others, too) of the studies that go."""
    found = {
        int(row[0])
        for row in db.execute(
            "SELECT id FROM transfers WHERE project = ? AND participant = ?", (project, participant)
        )
    }
    for study in whole:
        found |= {int(row[0]) for row in db.execute("SELECT id FROM transfers WHERE study = ?", (study,))}
    return sorted(found)


def _tables(db: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    """Tables that are no views, with their columns."""
    names = _column(db, "SELECT name FROM sqlite_master WHERE type = 'table'")
    for name in names:
        if name not in _COUNTED and not name.startswith("sqlite_"):
            yield name, [row["name"] for row in db.execute(f"PRAGMA table_info({name})")]


def _delete(db: sqlite3.Connection, link: Link, numbers: list[int]) -> None:
    for table, columns in _tables(db):
        if "transfer" in columns:
            db.executemany(f"DELETE FROM {table} WHERE transfer = ?", [(n,) for n in numbers])  # noqa: S608
        if table == "transfers":
            db.executemany("DELETE FROM transfers WHERE id = ?", [(n,) for n in numbers])
        if "study" in columns:
            db.executemany(f"DELETE FROM {table} WHERE study = ?", [(s,) for s in link.whole])  # noqa: S608
            if "project" in columns:
                db.executemany(
                    f"DELETE FROM {table} WHERE study = ? AND project = ?",  # noqa: S608
                    [(study, link.project) for study in link.shared if not _others(db, study, link)],
                )
        if "participant" in columns and "project" in columns:
            db.execute(
                f"DELETE FROM {table} WHERE project = ? AND participant = ?",  # noqa: S608
                (link.project, link.participant),
            )
    for study in link.shared:  # what happened to it in this project
        db.execute("DELETE FROM history WHERE study = ? AND instr(what, ?)", (study, link.project))
    for table, columns in _tables(db):
        if _is_searched(table, columns):
            for column in columns:
                rows = db.execute(f"SELECT DISTINCT {column} AS text FROM {table}")  # noqa: S608
                gone = [(text,) for (text,) in rows if isinstance(text, str) and mentions(text, link.uids)]
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)  # noqa: S608


def _is_searched(table: str, columns: list[str]) -> bool:
    """Whether rows may tell of it that are neither the study's nor the transfer's; large tables can't."""
    return "transfer" not in columns and table not in ("site_instances", "header_variants")


def _others(db: sqlite3.Connection, study: str, link: Link) -> bool:
    """Whether another participant of the same project has the study, too."""
    query = "SELECT 1 FROM transfers WHERE study = ? AND project = ? AND participant != ?"
    return db.execute(query, (study, link.project, link.participant)).fetchone() is not None


def _require_gone(db: sqlite3.Connection, link: Link) -> None:
    left = sorted(_telling(db, link))
    if left:
        raise PermanentError(
            f"the ledger's table {left[0]} still tells of what is to be erased; nothing was erased "
            "there: a defect of FIONA, please report it"
        )


def _telling(db: sqlite3.Connection, link: Link) -> Iterator[str]:
    """Tables in which anything still tells of it."""
    for table, columns in _tables(db):
        if "study" in columns:
            query = f"SELECT 1 FROM {table} WHERE study = ? LIMIT 1"  # noqa: S608
            if any(db.execute(query, (study,)).fetchone() for study in link.whole):
                yield table
        if "participant" in columns and "project" in columns:
            query = f"SELECT 1 FROM {table} WHERE project = ? AND participant = ? LIMIT 1"  # noqa: S608
            if db.execute(query, (link.project, link.participant)).fetchone():
                yield table
        if not _is_searched(table, columns):
            continue
        for row in db.execute(f"SELECT * FROM {table}"):  # noqa: S608
            if any(isinstance(value, str) and mentions(value, link.uids) for value in row):
                yield table
                break
