"""What an erasure takes: which studies, transfers and UIDs are a participant's alone, and which others need.

Others are all transfers but the participant's own of the project, in whatever state they wait: what is under
way, delivered, stopped, or refused until a person has mended something. Nothing that is theirs is named here.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger.store import BUSY_SECONDS

UID = re.compile(r"[0-9]+(?:\.[0-9]+)+")
RequestKey = tuple[str, int, str, str, str]
"""Study, instance number, requested date, project and participant of a request."""


@dataclass(frozen=True)
class Link:
    """What is to be erased.

    Attributes:
        project: the project's name.
        participant: the participant id; all its transfers of the project go.
        whole: studies of which nothing stays.
        shared: studies that other projects or participants still need: only the link goes.
        numbers: of the transfers that go.
        uids: original and mapped UIDs that must not be found afterwards; none that others have, too.
        instances: SOP Instance UIDs as received of the whole studies.
        mapped: Study Instance UIDs of the participant's own copies, also those that others have, too.
    """

    project: str
    participant: str = field(repr=False)
    whole: tuple[str, ...]
    shared: tuple[str, ...]
    numbers: tuple[int, ...]
    uids: frozenset[str] = field(repr=False)
    instances: frozenset[str] = field(repr=False)
    mapped: frozenset[str] = field(repr=False)


def mentions(text: str, uids: Collection[str]) -> bool:
    """Whether a text has one of these UIDs in it, as a whole."""
    return any(token in uids for token in UID.findall(text))


def read_link(root: DataRoot, project: str, participant: str, needed: Collection[str] = ()) -> Link:
    """Everything that ties a participant of a project to studies, as the ledger knows it.

    Args:
        root: the data root.
        project: the project's name.
        participant: the participant id.
        needed: studies that others need though no transfer says so: they asked for them in REDCap.
    """
    with opened(root) as db:
        own = _ids(db, "SELECT id FROM transfers WHERE project = ? AND participant = ?", project, participant)
        numbers, studies, whole = set(own), set[str](), set[str]()
        while True:  # data derived from copies go with them
            found = set(_of_each(db, "SELECT study FROM transfers WHERE id = ?", own))
            found |= set(_of_each(db, "SELECT study FROM derived_studies WHERE transfer = ?", numbers))
            whole = {study for study in found if study not in needed and not _is_awaited(db, study, own)}
            numbers = own | {
                number
                for study in whole
                for number in _ids(db, "SELECT id FROM transfers WHERE study = ?", study)
            }
            if found == studies:
                break
            studies = found
        instances = set(_of_each(db, "SELECT sop_instance FROM site_instances WHERE study = ?", whole))
        uids = instances | set(_of_each(db, "SELECT series FROM site_instances WHERE study = ?", whole))
        uids |= _mapped(db, numbers)
        uids -= _of_others(db, uids, studies, whole, numbers)
        return Link(
            project,
            participant,
            tuple(sorted(whole)),
            tuple(sorted(studies - whole)),
            tuple(sorted(numbers)),
            frozenset(uids | whole),
            frozenset(instances),
            frozenset(uid for query in _MAPPED[:2] for uid in _of_each(db, query, own) if uid),
        )


def settled_requests(root: DataRoot, studies: Iterable[str]) -> set[RequestKey]:
    """Requests that nobody waits for any more, since a newer one took their place."""
    settled: set[RequestKey] = set()
    with opened(root) as db:
        for study in studies:
            for row in _transfers(db, study):
                if not _waits(row):
                    key = (study, row["request"], row["requested_date"], row["project"], row["participant"])
                    settled.add(key)
    return settled


def counts_of(root: DataRoot, link: Link) -> dict[str, int]:
    """What will stay of it: numbers."""
    with opened(root) as db:

        def of_transfers(table: str) -> int:
            query = f"SELECT count(*) FROM {table} WHERE transfer = ?"  # noqa: S608 - names from below
            return sum(int(db.execute(query, (number,)).fetchone()[0]) for number in link.numbers)

        return {
            "studies": len(link.whole) + len(link.shared),
            "instances": len(link.instances),
            "transfers": len(link.numbers),
            "packages": of_transfers("packages"),
            "deliveries": of_transfers("deliveries"),
        }


def packages_of(root: DataRoot, link: Link) -> tuple[set[str], set[str]]:
    """Paths of packages, relative to the data root: those of the link alone, and those of others."""
    with opened(root) as db:
        rows = db.execute("SELECT transfer, path FROM packages WHERE path != ''").fetchall()
    numbers = set(link.numbers)
    others = {row["path"] for row in rows if row["transfer"] not in numbers}
    return {row["path"] for row in rows if row["transfer"] in numbers} - others, others


def is_there(root: DataRoot, link: Link) -> bool:
    """Whether the ledger still has any of it."""
    with opened(root) as db:
        return bool(_of_each(db, "SELECT id FROM transfers WHERE id = ?", link.numbers)) or bool(
            _of_each(db, "SELECT study FROM studies WHERE study = ?", link.whole)
        )


@contextmanager
def opened(root: DataRoot) -> Iterator[sqlite3.Connection]:
    """A connection without foreign keys and triggers: rows go in any order."""
    with closing(sqlite3.connect(root.ledger_file, timeout=BUSY_SECONDS, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA secure_delete=ON")
        yield db


def column(db: sqlite3.Connection, query: str, *values: object) -> list[str]:
    """The first column of a query."""
    return [row[0] for row in db.execute(query, values)]


def _ids(db: sqlite3.Connection, query: str, *values: object) -> set[int]:
    return {int(row[0]) for row in db.execute(query, values)}


def _of_each(db: sqlite3.Connection, query: str, keys: Iterable[object]) -> list[str]:
    return [text for key in keys for text in column(db, query, key)]


def _transfers(db: sqlite3.Connection, study: str) -> list[sqlite3.Row]:
    """The transfers of a study, each with whether a newer one of the same project is there (``replaced``)."""
    query = """SELECT *, EXISTS (SELECT 1 FROM transfers n WHERE n.study = t.study AND n.project = t.project
        AND n.id > t.id) AS replaced FROM transfers t WHERE study = ?"""
    return db.execute(query, (study,)).fetchall()


def _waits(row: sqlite3.Row) -> bool:
    """Whether somebody waits for a transfer, or has what it made."""
    if row["state"] == "refused":  # the last word on it may be that a person mends what was refused
        return bool(row["awaits_removal"]) or not row["replaced"]
    return bool(row["state"] != "superseded")


def _is_awaited(db: sqlite3.Connection, study: str, own: Collection[int]) -> bool:
    return any(_waits(row) for row in _transfers(db, study) if row["id"] not in own)


_MAPPED = (
    "SELECT mapped_uid FROM transfers WHERE id = ?",
    "SELECT mapped_uid FROM sendings WHERE transfer = ?",
    "SELECT files FROM verifications WHERE transfer = ?",
    "SELECT instances FROM sendings WHERE transfer = ?",
)


def _mapped(db: sqlite3.Connection, numbers: Iterable[int]) -> set[str]:
    """UIDs that transfers made, as far as the ledger has them."""
    numbers = list(numbers)
    return {uid for query in _MAPPED for text in _of_each(db, query, numbers) for uid in UID.findall(text)}


def _of_others(
    db: sqlite3.Connection,
    uids: Collection[str],
    studies: Collection[str],
    whole: Collection[str],
    numbers: Collection[int],
) -> set[str]:
    """Which of these UIDs stand for something that stays: a project may keep UIDs, two may share a copy's."""
    kept: set[str] = set()
    touched = set(studies)
    for study, series, instance in db.execute("SELECT study, series, sop_instance FROM site_instances"):
        if study not in whole and (series in uids or instance in uids or study in uids):
            kept |= {study, series, instance}
            touched.add(study)
    for table, key in (("transfers", "id"), ("sendings", "transfer")):
        query = f"SELECT {key} AS number, study, mapped_uid FROM {table}"  # noqa: S608 - names from above
        for row in db.execute(query):
            if row["number"] not in numbers and row["mapped_uid"] in uids:
                kept.add(row["mapped_uid"])
                touched.add(row["study"])
    others = {row["id"] for study in touched for row in _transfers(db, study)} - set(numbers)
    return kept | _mapped(db, others)
