"""Brings a ledger's file to the schema of this version: ``migrations/NNNN-name.sql``, one after the other."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path

from fiona_dagster.errors import PermanentError

_NAME = re.compile(r"(\d{4})-[a-z_-]+\.sql")


@cache
def scripts() -> dict[int, str]:
    """Schema version -> the SQL that leads to it from the one before.

    Raises:
        ValueError: a number is missing or taken twice (two branches were merged).
    """
    found: dict[int, str] = {}
    for file in resources.files("fiona_dagster.ledger").joinpath("migrations").iterdir():
        match = _NAME.fullmatch(file.name)
        if match:
            number = int(match[1])
            if number in found:
                raise ValueError(f"two migrations have the number {number}; give one of them the next")
            found[number] = file.read_text("utf-8")
    if sorted(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered from 1 without a gap: {sorted(found)}")
    return dict(sorted(found.items()))


def schema_version() -> int:
    """The schema that this version of FIONA reads and writes."""
    return len(scripts())


def migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Upgrades in place, each step in a transaction of its own; others that open the file wait meanwhile.

    Args:
        connection: in autocommit mode (``isolation_level=None``).
        file: named in messages.

    Raises:
        PermanentError: a newer version of FIONA wrote the file.
    """
    wanted = schema_version()
    while (version := _version(connection)) != wanted:
        if version > wanted:
            raise PermanentError(
                f"{file}: was written by a newer version of FIONA (schema {version}, "
                f"this one knows {wanted}); install that version"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) == version:  # else another process was faster
                for statement in _statements(scripts()[version + 1]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={version + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> Iterator[str]:
    """``executescript`` would commit in between, so the script is cut here."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
