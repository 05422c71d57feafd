"""Dagster's own storage when it is damaged: nothing of a transfer depends on it, so it is begun anew.

What is there is kept: a person may still want to look at the history of runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import DagsterStorageDamaged, FionaError

_FOLDERS = ("history", "schedules", "storage")
_PATIENCE_SECONDS = 30


@contextmanager
def open_instance(root: DataRoot) -> Iterator[dg.DagsterInstance]:
    """The instance of a data root, whether or not its services run.

    Raises:
        DagsterStorageDamaged: a file of its storage is no database (any more).
    """
    try:
        with dg.DagsterInstance.from_config(str(root.dagster_home)) as instance:
            yield instance
    except FionaError:
        raise
    except Exception as error:  # Dagster's libraries have many names for it; the files themselves decide
        if not damaged(root.dagster_home):
            raise
        raise DagsterStorageDamaged(
            f"{root.dagster_home}: Dagster's storage is damaged; `fiona up` puts it aside when it starts "
            "and begins a new one: the history of runs is lost, nothing is sent again"
        ) from error


def damaged(home: Path) -> list[Path]:
    """Files of Dagster's storage that SQLite can't read; each is read whole."""
    files = (path for name in _FOLDERS for path in sorted((home / name).rglob("*.db")))
    return [path for path in files if _is_damaged(path)]


def _is_damaged(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path, timeout=_PATIENCE_SECONDS)) as db:
            return bool(db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
    except sqlite3.OperationalError:  # locked, the disk: not the file's fault
        return False
    except sqlite3.DatabaseError:
        return True


def set_aside(home: Path) -> Path:
    """Moves all of Dagster's storage into a folder of its own; what belongs together stays together.

    Returns:
        The folder, ``damaged-<time>``.
    """
    kept = home / f"damaged-{datetime.now(UTC):%Y-%m-%dT%H%M%S.%fZ}"
    kept.mkdir(mode=0o700)
    for name in _FOLDERS:
        if (home / name).exists():
            (home / name).rename(kept / name)
    return kept
