"""Takes what links a person to de-identified data out of the ledger; nothing of it is left in the file.

Rows go by what they belong to, a study or a transfer, in every table there is, also in those that later
versions add. Of what belongs to others no row goes: a UID in a text of theirs is blanked. Then the file is
written anew. Only while nobody else has the data root (``landing.claim``).
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, PermanentError
from fiona_dagster.ledger.evidence import EVIDENCE
from fiona_dagster.ledger.link import UID, Link, column, mentions, opened
from fiona_dagster.ledger.records import (
    aside_of,
    count_in,
    put_count_on_disk,
    records_folder,
    write_common,
    write_record,
)
from fiona_dagster.ledger.releases import content_of
from fiona_dagster.ledger.sendings import PREVIOUS_SYSTEM, part_of, root_of
from fiona_dagster.ledger.store import utc_now

_COUNTED = ("erasures", "erased_generations", "erased_copies", "sqlite_sequence")
_LARGE = ("site_instances", "header_variants")
"""Tables by study whose rows name nothing but what the study has."""


def erase_rows(root: DataRoot, link: Link, counts: dict[str, int]) -> None:
    """Deletes every row that tells of the link, writes down the counts, and writes the file anew.

    Args:
        root: the data root.
        link: what goes.
        counts: what is written down; empty: that was done already.

    Raises:
        Busy: somebody else has the ledger open and holds it.
        PermanentError: a table still tells of it; nothing of the ledger was changed.
    """
    with opened(root) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            _use_up_generations(db, link.numbers)
            _expect_back(db, link.numbers)
            _delete_shared(db, link)
            _delete(db, link)
            touched = _forget_uids(db, link)
            if counts:
                names = ", ".join(counts)
                marks = ", ".join("?" for _ in counts)
                db.execute(
                    f"INSERT INTO erasures (time, project, {names}) VALUES (?, ?, {marks})",  # noqa: S608
                    (utc_now(), link.project, *counts.values()),
                )
            _require_gone(db, link)
            for study in sorted({*link.shared, *touched}):
                write_record(db, root, study)
            write_common(db, root)
            _read_up_to_the_end(db, root)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        counted = count_in(db)
        db.execute("COMMIT")
        put_count_on_disk(root, counted or 0)
        for study in link.whole:
            (records_folder(root) / f"{study}.json").unlink(missing_ok=True)
        for study in {*link.whole, *link.shared, *touched}:
            aside_of(root, study).unlink(missing_ok=True)
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


def _expect_back(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """What a workstation makes of copies may come back when nobody knows any more whose it is."""
    for number in numbers:
        for project, mapped in db.execute(
            """SELECT DISTINCT project, mapped_uid FROM sendings
               WHERE transfer = ? AND mapped_uid NOT IN ('', study) AND target != ?""",
            (number, PREVIOUS_SYSTEM),
        ).fetchall():
            db.execute(
                "INSERT OR IGNORE INTO erased_copies (project, root, part) VALUES (?, ?, ?)",
                (project, root_of(mapped), part_of(mapped)),
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


def _tables(db: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    """Tables that are no views, with their columns."""
    names = column(db, "SELECT name FROM sqlite_master WHERE type = 'table'")
    for name in names:
        if name not in _COUNTED and not name.startswith("sqlite_"):
            yield name, [row["name"] for row in db.execute(f"PRAGMA table_info({name})")]


# -- by study and transfer -----------------------------------------------------------------------------------


def _delete(db: sqlite3.Connection, link: Link) -> None:
    numbers = [(number,) for number in link.numbers]
    for table, columns in _tables(db):
        if table == "transfers":
            db.executemany("DELETE FROM transfers WHERE id = ?", numbers)
        if "transfer" in columns:
            db.executemany(f"DELETE FROM {table} WHERE transfer = ?", numbers)  # noqa: S608
        if "study" in columns:
            db.executemany(f"DELETE FROM {table} WHERE study = ?", [(s,) for s in link.whole])  # noqa: S608
        if "participant" in columns and "project" in columns:
            db.execute(
                f"DELETE FROM {table} WHERE project = ? AND participant = ?",  # noqa: S608
                (link.project, link.participant),
            )


def _delete_shared(db: sqlite3.Connection, link: Link) -> None:
    """Of studies that others need: what the project did with them, as far as it was for this participant."""
    for study in link.shared:
        rows = db.execute(
            "SELECT * FROM transfers WHERE study = ? AND project = ? ORDER BY id", (study, link.project)
        ).fetchall()
        own = [row for row in rows if row["id"] in link.numbers]
        others = [row for row in rows if row["id"] not in link.numbers]
        if others:
            _delete_beside(db, study, link.project, own, others)
            continue
        for table, columns in _tables(db):
            if table != "transfers" and {"study", "project"} <= set(columns):
                query = f"DELETE FROM {table} WHERE study = ? AND project = ?"  # noqa: S608
                db.execute(query, (study, link.project))
        name = re.escape(link.project)
        told = re.compile(rf"{name}: |.*\bproject {name}(?![\w-])", re.DOTALL)
        for row in db.execute("SELECT id, what FROM history WHERE study = ?", (study,)).fetchall():
            if told.match(row["what"]):
                db.execute("DELETE FROM history WHERE id = ?", (row["id"],))


def _delete_beside(
    db: sqlite3.Connection, study: str, project: str, own: list[sqlite3.Row], others: list[sqlite3.Row]
) -> None:
    """Another participant of the same project has the study, too: what names neither stays."""
    stays = {(row["request"], row["requested_date"]) for row in others}
    for row in own:
        if (row["request"], row["requested_date"]) not in stays:
            db.execute(
                """DELETE FROM withdrawals WHERE study = ? AND project = ? AND request = ?
                   AND requested_date = ?""",
                (study, project, row["request"], row["requested_date"]),
            )
    for content in _contents(db, own) - _contents(db, others):
        db.execute(
            "DELETE FROM releases WHERE study = ? AND project = ? AND content = ?", (study, project, content)
        )
    if max([*own, *others], key=_place)["id"] in {row["id"] for row in own}:
        db.execute(
            "DELETE FROM work WHERE study = ? AND project = ? AND kind IN ('transfer', 'deliver')",
            (study, project),
        )


def _place(row: sqlite3.Row) -> tuple[bool, int]:
    """What counts comes last."""
    over = row["state"] in ("refused", "superseded", "stopped", "withdrawn", "adopted")
    return not over, int(row["id"])


def _contents(db: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> set[str]:
    return {
        content_of(json.loads(files))
        for row in rows
        for files in column(db, "SELECT files FROM verifications WHERE transfer = ?", row["id"])
    }


# -- by UID --------------------------------------------------------------------------------------------------


def _forget_uids(db: sqlite3.Connection, link: Link) -> set[str]:
    """What else names one of the UIDs: a row that is known by one goes, in other texts it is blanked.

    Returns:
        Studies whose rows were changed.
    """
    touched: set[str] = set()
    for table, columns in _tables(db):
        if not _is_searched(table, columns):
            continue
        keys = {row["name"] for row in db.execute(f"PRAGMA table_info({table})") if row["pk"]}
        for name in columns:
            rows = db.execute(f"SELECT DISTINCT {name} AS text FROM {table}").fetchall()  # noqa: S608
            for (text,) in rows:
                if not isinstance(text, str) or not mentions(text, link.uids):
                    continue
                if "study" in columns:
                    query = f"SELECT study FROM {table} WHERE {name} = ?"  # noqa: S608
                    touched |= set(column(db, query, text))
                if name in keys:
                    db.execute(f"DELETE FROM {table} WHERE {name} = ?", (text,))  # noqa: S608
                else:
                    query = f"UPDATE {table} SET {name} = ? WHERE {name} = ?"  # noqa: S608
                    db.execute(query, (_blanked(text, link), text))
    return touched


def _blanked(text: str, link: Link) -> str:
    return UID.sub(lambda match: "erased" if match[0] in link.uids else match[0], text)


def _is_searched(table: str, columns: list[str]) -> bool:
    """Whether rows may tell of it that are neither the study's nor the transfer's."""
    return "transfer" not in columns and table not in _LARGE


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
        number = "id" if table == "transfers" else "transfer"
        for name, values in (("study", link.whole), (number, link.numbers)):
            if name in columns:
                query = f"SELECT 1 FROM {table} WHERE {name} = ? LIMIT 1"  # noqa: S608
                if any(db.execute(query, (value,)).fetchone() for value in values):
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
