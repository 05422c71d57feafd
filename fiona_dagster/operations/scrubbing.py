"""Takes single studies out of Dagster's storage and out of log files, so that no byte of them is left.

Belongs here: files that others own and that we know by their form only (SQLite, lines of text). It needs no
Dagster, and works only while no service runs. Losing rows of Dagster's storage re-sends nothing.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.erasing import rewrite_lines
from fiona_dagster.ledger.erasing import write_anew
from fiona_dagster.ledger.link import mentions

_SQLITE = b"SQLite format 3\0"
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_KEPT_TABLES = ("asset_keys",)
"""Tables whose rows stand for an asset, not for a study: what they say of one is emptied."""
_SIDES = ("", "-wal", "-shm", "-journal")


def scrub_dagster(root: DataRoot, uids: Collection[str]) -> list[str]:
    """Removes everything that names one of these UIDs from Dagster's storage.

    Args:
        root: the data root; ``dagster/`` in it is DAGSTER_HOME.
        uids: StudyInstanceUIDs, and others that must not be found.

    Returns:
        What could not be scrubbed, a sentence each.
    """
    wanted = frozenset(uids)
    home = root.dagster_home
    for path in _databases(home):
        if path.parent.name == "runs" and path.name != "index.db":
            if _tells(path, wanted):  # the log of a run: it goes with the run
                for side in _SIDES:
                    Path(f"{path}{side}").unlink(missing_ok=True)
        else:
            _scrub(path, wanted)
    for path in _texts(home):
        rewrite_lines(path, lambda line: not _line_tells(line, wanted))
    return _elsewhere(home)


def scrub_logs(root: DataRoot, uids: Collection[str]) -> None:
    """Removes lines of log files that name one of these UIDs; a compressed log that does goes whole."""
    wanted = frozenset(uids)
    for path in _texts(root.logs):
        rewrite_lines(path, lambda line: not _line_tells(line, wanted))


def files_that_tell(root: DataRoot, uids: Collection[str]) -> list[str]:
    """Files of the ledger, Dagster, logs and journals that still hold one of these UIDs; relative paths.

    Bytes are searched, free pages of databases included.
    """
    wanted = frozenset(uids)
    folders = [root.ledger_file.parent, root.dagster_home, root.logs, root.quarantine]
    for tree in root.site_trees():
        folders += [
            tree.site / name for name in (".arrived", ".commitment", ".evidence", ".ledger", "scanner", "raw")
        ]
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            inside = path.is_file() and not path.is_symlink() and _file_tells(path, wanted)
            if inside or _line_tells(path.name.encode("utf-8", "surrogateescape"), wanted):
                found.append(path.relative_to(root.path).as_posix())
    return found


def _line_tells(line: bytes, uids: frozenset[str]) -> bool:
    return any(token.decode("ascii") in uids for token in _UID.findall(line))


def _file_tells(path: Path, uids: frozenset[str]) -> bool:
    with path.open("rb") as file:
        rest = b""
        while chunk := file.read(1 << 20):
            if _line_tells(rest + chunk, uids):
                return True
            rest = chunk[-200:]  # a UID may lie across two pieces
    return False


def _databases(home: Path) -> Iterator[Path]:
    for path in sorted(home.rglob("*.db")) if home.is_dir() else []:
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) == _SQLITE:
                yield path


def _texts(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(4096)
            if b"\0" not in head and head[:2] != b"\x1f\x8b":
                yield path


def _tells(path: Path, uids: frozenset[str]) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return any(
            _row_tells(row, uids)
            for table in _tables(db)
            for row in db.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - names from the file itself
        )


def _tables(db: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return [row[0] for row in db.execute(query)]


def _row_tells(row: tuple[object, ...], uids: frozenset[str]) -> bool:
    for value in row:
        if isinstance(value, bytes) and _line_tells(value, uids):
            return True
        if isinstance(value, str) and mentions(value, uids):
            return True
    return False


def _scrub(path: Path, uids: frozenset[str]) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete=ON")
        for table in _tables(db):
            if table in _KEPT_TABLES:
                _empty_cells(db, table, uids)
                continue
            rows = db.execute(f'SELECT rowid, * FROM "{table}"')  # noqa: S608
            gone = [(row[0],) for row in rows if _row_tells(row[1:], uids)]
            db.executemany(f'DELETE FROM "{table}" WHERE rowid = ?', gone)  # noqa: S608
        write_anew(db)


def _empty_cells(db: sqlite3.Connection, table: str, uids: frozenset[str]) -> None:
    columns = [row[1] for row in db.execute(f'PRAGMA table_info("{table}")') if not row[3] and not row[5]]
    if "cached_status_data" in columns:  # partition keys in a form of their own; it is made again
        db.execute(f'UPDATE "{table}" SET cached_status_data = NULL')  # noqa: S608
    for column in columns:
        rows = db.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()  # noqa: S608
        gone = [(row[0],) for row in rows if _row_tells(row[1:], uids)]
        db.executemany(f'UPDATE "{table}" SET "{column}" = NULL WHERE rowid = ?', gone)  # noqa: S608


def _elsewhere(home: Path) -> list[str]:
    """Whether Dagster keeps its storage where we don't reach."""
    file = home / "dagster.yaml"
    if file.is_file() and re.search(r"^\s*(postgres|mysql)\s*:", file.read_text("utf-8"), re.MULTILINE):
        return [
            "Dagster's storage is a database server (dagster.yaml): delete the runs and partitions of these "
            "studies there, and have it vacuumed"
        ]
    return []
