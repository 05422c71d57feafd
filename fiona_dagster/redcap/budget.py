"""How often REDCap may be called: one account for all processes of a data root.

Servers ban a client by its address, and runs are processes of their own: a budget that each of them keeps
for itself is none. The account is a small file of times under a lock.
"""

from __future__ import annotations

import array
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fiona_dagster.errors import RedcapUnavailable

WINDOW = 60.0
"""Seconds that the budget is for."""
LONGEST_PAUSE = 3600.0
"""Seconds that a ban is believed to last at most; later it is tried again."""


class CallBudget:
    """At most so many calls in any 60 seconds; waits when they are used up.

    Args:
        calls_per_minute: budget; at least 1.
        file: the account that processes share; None: of this object only.
        clock: seconds that all processes of the machine agree on and that never go back.
        sleep: how to wait.
        longest_wait: seconds that a call waits for its turn at most.
    """

    def __init__(
        self,
        calls_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        *,
        file: Path | None = None,
        longest_wait: float = WINDOW,
    ) -> None:
        self._longest = longest_wait
        self._limit = max(1, calls_per_minute)
        self._clock = clock
        self._sleep = sleep
        self._file = file
        self._lock = threading.Lock()
        self._own = array.array("d", [0.0])

    def take(self) -> None:
        """Returns as soon as one more call is allowed, and counts it.

        Raises:
            RedcapUnavailable: the server wants no calls for longer than a minute, or others use the budget.
        """
        while (wait := self._account(self._book)) > 0:
            if self._longest < wait <= WINDOW:
                raise RedcapUnavailable(f"REDCap may be called again in {wait:.0f} s: others use the budget")
            if wait > WINDOW:
                raise RedcapUnavailable(
                    f"REDCap asked for a pause; it is not called for {wait:.0f} s, by any process here"
                )
            self._sleep(wait)

    def pause(self, seconds: float) -> None:
        """Nobody calls for so long: the server said so, or banned us."""

        def close(account: array.array[float]) -> float:
            account[0] = max(account[0], self._clock() + min(seconds, LONGEST_PAUSE))
            return 0.0

        self._account(close)

    def _book(self, account: array.array[float]) -> float:
        """Counts a call, or says how many seconds it has to wait. The first item is the end of a pause."""
        now = self._clock()
        if not now < account[0] <= now + LONGEST_PAUSE:
            account[0] = 0.0
        # times in the future are those before a restart of the machine
        recent = sorted(taken for taken in account[1:] if now - WINDOW < taken <= now)
        if account[0]:
            return account[0] - now
        if len(recent) >= self._limit:
            return recent[-self._limit] + WINDOW - now
        account[1:] = array.array("d", [*recent, now])
        return 0.0

    def _account(self, change: Callable[[array.array[float]], float]) -> float:
        with self._lock:
            if self._file is None:
                return change(self._own)
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                return self._in_file(handle, change)
            finally:
                os.close(handle)

    @staticmethod
    def _in_file(handle: int, change: Callable[[array.array[float]], float]) -> float:
        stored = os.pread(handle, os.fstat(handle).st_size, 0)
        account = array.array("d", stored[: len(stored) // 8 * 8]) or array.array("d", [0.0])
        answer = change(account)
        written = account.tobytes()
        os.pwrite(handle, written, 0)
        os.ftruncate(handle, len(written))
        return answer
