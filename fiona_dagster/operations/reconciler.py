"""Before the code server starts, Dagster's view of runs is brought back to what is true.

Belongs here: when that is done, how long it may take, what is said when it fails. Stays out: what it does
(``fiona_dagster.defs.reconcile``, a process of its own).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fiona_dagster.operations.process import Process

log = logging.getLogger("fiona.up")

WITHIN = 900.0
"""Seconds that it may take: after a long time of reception alone there are many journals to read."""
LONGEST_PAUSE = 30.0
SET_ASIDE = "Dagster's storage was damaged and is begun anew, its history of runs is lost"
"""How the reconciliation says so; it stands in the supervisor's log too."""


class Reconciler:
    """Runs the reconciliation until it has succeeded, while no run can be alive.

    Args:
        begin: starts it; None: the machine can't have another process now, which was said.
        end: ends it and gives its exit code.
    """

    def __init__(self, begin: Callable[[], Process | None], end: Callable[[Process], int]) -> None:
        self._begin = begin
        self._end = end
        self._process: Process | None = None
        self._next = 0.0
        self._failures = 0
        self._done = False

    def needed(self) -> None:
        """The runs that a code server carried ended with it."""
        self._done = False

    def step(self) -> bool:
        """One look; returns whether it is done. Until then it is asked again."""
        if self._done:
            return True
        if self._process is None:
            if time.monotonic() < self._next:
                return False
            self._process = self._begin()
            if self._process is None:
                self._next = time.monotonic() + LONGEST_PAUSE
                return False
        late = time.monotonic() - self._process.started > WITHIN
        if not self._process.ended() and not late:
            return False
        path, said = self._process.log, self._process.output()
        code = self._end(self._process)
        self._process = None
        for line in said.splitlines():
            if line.startswith(SET_ASIDE):
                log.warning("%s", line)
        if code == 0:
            self._done, self._failures = True, 0
            return True
        self._failures += 1
        self._next = time.monotonic() + min(2.0 ** (self._failures - 1), LONGEST_PAUSE)
        log.error(
            "the reconciliation before the start failed (exit code %d); images are received, nothing is "
            "processed until it succeeds; see %s",
            *(code, path),
        )
        return False

    def stop(self) -> None:
        """Ends what is under way."""
        if self._process is not None:
            self._end(self._process)
            self._process = None
