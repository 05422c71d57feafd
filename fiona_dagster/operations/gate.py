"""Whether services that need the ledger may run: not before it was judged, and not while it is lost.

Belongs here: when :mod:`mending` is run, what is said about it. Stays out: the services themselves.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger.condition import missing_or_empty, said_of, why_lost
from fiona_dagster.operations.process import Process

log = logging.getLogger("fiona.up")

LOOK = 2.0
"""Seconds between two looks whether the ledger's file is there."""
LOOK_INSIDE = 30.0
"""Seconds between two looks whether it is a ledger, and the one that wrote the records."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 120.0
"""Seconds until a ledger that could not be built anew is tried again; sooner when its file has changed."""


class LedgerGate:
    """Closed until the ledger was found or made usable; closes again when it is lost.

    Attributes:
        open: services that need the ledger may run.
        problem: why not, in one line; empty while nobody knows.

    Args:
        root: the data root.
        begin: starts a process that judges and mends the ledger; None: the machine can't have one now.
        end: ends it and gives its exit code.
    """

    def __init__(
        self, root: DataRoot, begin: Callable[[], Process | None], end: Callable[[Process], int]
    ) -> None:
        self._root = root
        self._begin = begin
        self._end = end
        self._process: Process | None = None
        self._next_look = self._next_inside = self._next_try = 0.0
        self._pause = FIRST_PAUSE
        self._seen: object = None
        self.open = False
        self.problem = ""

    def step(self, *, idle: bool) -> bool:
        """One look.

        Args:
            idle: none of the services that need the ledger runs.

        Returns:
            Whether it has just been closed.
        """
        if self._process is not None:
            self._ended(self._process)
        elif self.open:
            return self._is_lost_now()
        elif idle and self._is_time():
            self._process = self._begin()
            if self._process is None:  # that was said
                self._next_try, self._seen = time.monotonic() + FIRST_PAUSE, self._file()
        return False

    def stop(self) -> None:
        """Ends what is under way."""
        if self._process is not None:
            self._end(self._process)
            self._process = None

    def _is_lost_now(self) -> bool:
        if time.monotonic() < self._next_look:
            return False
        now = time.monotonic()
        self._next_look = now + LOOK
        try:
            why = missing_or_empty(self._root)
            if not why and now >= self._next_inside:
                self._next_inside = now + LOOK_INSIDE
                why = why_lost(self._root, glance=True)
        except (OSError, sqlite3.DatabaseError):
            return False  # a disk that fails, or who holds it, is said by those who work on it
        if not why:
            return False
        log.error("%s; what needs it is stopped, images are received", said_of(self._root.ledger_file, why))
        self.open, self._next_try = False, 0.0
        return True

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now >= self._next_try:
            return True
        if now < self._next_look:
            return False
        self._next_look = now + LOOK
        return self._file() != self._seen

    def _ended(self, process: Process) -> None:
        if not process.ended():
            return
        said = process.output().strip().splitlines()
        code = self._end(process)
        self._process = None
        self._seen = self._file()
        if code == 0:
            for line in said:
                log.warning("%s", line)
            self.open, self.problem, self._pause = True, "", FIRST_PAUSE
            return
        self._next_try = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        problem = said[-1] if said else f"the look at the ledger ended with exit code {code}"
        if problem != self.problem:
            for line in said[:-1]:
                log.warning("%s", line)
            log.error(
                "%s; images are received, nothing is processed until the ledger is there again; see %s",
                problem,
                process.log,
            )
        self.problem = problem

    def _file(self) -> object:
        try:
            found = self._root.ledger_file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
