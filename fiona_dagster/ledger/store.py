"""The ledger's file: one SQLite database in WAL mode, safe for many processes at once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import FionaError, LedgerLost, StorageFull, TransientError
from fiona_dagster.landing.claim import Use
from fiona_dagster.ledger import records
from fiona_dagster.ledger.condition import DAMAGED, is_damage, missing_or_empty, require_like_records, said_of
from fiona_dagster.ledger.holding import Holding
from fiona_dagster.ledger.migrations import migrate

BUSY_SECONDS = 30.0
_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)


def unusable(file: Path, error: BaseException) -> FionaError | None:
    """What a person can do about a ledger that can't be read or written; ``None`` for a fault of the program.

    The error's own words never quote values, but don't say what to do.
    """
    if is_damage(error):
        return LedgerLost(said_of(file, DAMAGED))
    kind = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    said = f"{file}: the ledger can't be used"
    if kind == sqlite3.SQLITE_BUSY:
        return TransientError(f"{said}: another program has held it for {BUSY_SECONDS:.0f} s; try again")
    if kind not in _DISK:
        return None
    with contextlib.suppress(OSError):
        disk = os.statvfs(file.parent)
        if disk.f_flag & os.ST_RDONLY:
            return TransientError(f"{said}: its disk is mounted read-only; mount it writable")
        if kind == sqlite3.SQLITE_FULL or not disk.f_bavail or not disk.f_favail:
            return StorageFull(f"{said}: its disk is full; make room")
    return TransientError(f"{said} ({error}); look at the disk, and whom {file.parent} belongs to")


def utc_now() -> str:
    """Now, as the ledger writes times."""
    return utc_text(datetime.now(UTC))


def utc_text(time: datetime) -> str:
    """An aware time in UTC as ISO 8601 with microseconds and a Z; such texts sort like times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def utc_after(seconds: float, start: str | None = None) -> str:
    """The time ``seconds`` after ``start`` (default: now)."""
    base = datetime.fromisoformat(start) if start else datetime.now(UTC)
    return utc_text(base + timedelta(seconds=seconds))


def is_to_come(moment: str, within: float) -> bool:
    """Whether a stored time still has to be waited for.

    Args:
        moment: as :func:`utc_after` makes it; ``""``: there is nothing to wait for.
        within: seconds that it can be ahead at most. What is farther ahead was written by a clock that has
            been set back since: it would stop everything until then, and is not waited for.
    """
    return utc_now() < moment <= utc_after(within)


class Store:
    """Connection to the ledger's file; makes the file and its tables when they are missing.

    Every write is one ``BEGIN IMMEDIATE`` transaction that is flushed before it returns
    (``synchronous=FULL``): what the ledger said once it still says after power loss. Before the commit the
    records of the studies that it touched are written (``ledger.records``). A file that is not the one that
    wrote the records that are there is not touched (``ledger.condition``).

    Args:
        root: the data root.
        file: another file than the ledger's own, while it is rebuilt.

    Raises:
        LedgerLost: the file is damaged, gone, empty or too old.
        PermanentError: a newer version wrote it.
        TransientError: its disk is full, read-only or fails; somebody else holds it.
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use` and :class:`.holding.Holding`.
    """

    def __init__(self, root: DataRoot, file: Path | None = None) -> None:
        self._counts = file is None
        if file is None and (why := missing_or_empty(root)):
            raise LedgerLost(said_of(root.ledger_file, why))
        file = file or root.ledger_file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = root
        self._file = file
        self._keeps_records = True
        self._held = ExitStack()
        self._held.enter_context(Use(root))
        try:
            if self._counts:
                self._held.enter_context(closing(Holding(root)))
            self._connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
        except BaseException as error:
            self._held.close()
            plain = unusable(file, error)
            if plain is None:
                raise
            raise plain from None
        self._connection.row_factory = sqlite3.Row
        try:
            if self._counts:
                require_like_records(self._connection, root)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            migrate(self._connection, file)
            if self._counts:
                records.note_stale(self._connection, root)
        except sqlite3.DatabaseError as error:
            self.close()
            raise (unusable(file, error) or error) from None
        except BaseException:
            self.close()
            raise
        records.watch(self._connection)
        self._counted = records.count_in(self._connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; nests into the one that is open."""
        if self._is_writing():
            yield self._connection
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            touched = records.touched(self._connection)
            if self._keeps_records:
                written = [records.write_record(self._connection, self.root, study) for study in touched]
                if not all(written):
                    records.write_common(self._connection, self.root)
            counted = records.count_in(self._connection)
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._is_writing():  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            plain = unusable(self._file, error)
            if plain is None:
                raise
            raise plain from None
        if counted != self._counted and self._counts:
            records.put_count_on_disk(self.root, counted or 0)
        self._counted = counted

    @property
    def records_written(self) -> int:
        """How many records this ledger has written, as far as this connection knows."""
        return self._counted or 0

    def _is_writing(self) -> bool:
        return self._connection.in_transaction

    @contextmanager
    def restoring(self) -> Iterator[sqlite3.Connection]:
        """One transaction that writes no records, since it reads them."""
        self._keeps_records = False
        try:
            with self.writing() as db:
                yield db
        finally:
            self._keeps_records = True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One picture: everything read inside stands for the same moment; nothing may be written."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def each(self, sql: str, *values: object) -> Iterator[sqlite3.Row]:
        """The rows of a query that may be long, one after the other."""
        yield from self._connection.execute(sql, values)

    def row(self, sql: str, *values: object) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return found

    def fact(self, name: str) -> str | None:
        """A single remembered value."""
        found = self.row("SELECT value FROM facts WHERE name = ?", name)
        return None if found is None else str(found["value"])

    def remember(self, name: str, value: str) -> None:
        """Sets a single remembered value."""
        with self.writing() as db:
            db.execute("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", (name, value))

    def note(self, study: str, what: str) -> None:
        """Adds a line to a study's history; ``what`` holds nothing identifying."""
        with self.writing() as db:
            db.execute("INSERT INTO history (study, time, what) VALUES (?, ?, ?)", (study, utc_now(), what))

    def history(self, study: str) -> list[tuple[str, str]]:
        """Time and text of everything that was noted about a study, oldest first."""
        found = self.rows("SELECT time, what FROM history WHERE study = ? ORDER BY id", study)
        return [(row["time"], row["what"]) for row in found]

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
        self._held.close()
