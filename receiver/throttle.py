"""Log lines that strangers can cause: each is one line, and a flood of them is a number."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LINES = 20
SECONDS = 60.0


class ThrottledLog:
    """Lets a burst of lines pass and then one now and then; the next that passes says how many did not.

    Args:
        log: where the lines go.
        lines: size of a burst.
        seconds: time in which so many lines may come on average.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        lines: int = LINES,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._lines = float(lines)
        self._rate = lines / seconds
        self._clock = clock
        self._mutex = threading.Lock()
        self._left = self._lines
        self._at = clock()
        self._dropped = 0

    def say(self, level: int, message: str, *values: object) -> None:
        """Logs one line, or counts it."""
        with self._mutex:
            now = self._clock()
            self._left = min(self._lines, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1:
                self._dropped += 1
                return
            self._left -= 1
            dropped, self._dropped = self._dropped, 0
        if dropped:
            message += f" (before it {dropped} lines like this were left out)"
        self._log.log(level, message, *values)

    def close(self) -> None:
        """Says what was left out and never mentioned."""
        with self._mutex:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._log.warning("%d lines about connections and rejections were left out", dropped)
