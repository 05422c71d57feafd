"""A REDCap that takes calls and does not answer: what all processes of a data root know of it.

Runs are processes of their own. Without this each of them waits one whole time limit for a server that hangs,
and a delivery that only asks once more whether its request still stands waits as long. As with targets, after
the first one one call at a time tries, later and later; the others know at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fiona_dagster.errors import RedcapSilent

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 120.0
"""Seconds until the next call tries; with a jitter of a fifth."""


@dataclass
class _Known:
    url: str
    times: int
    since: str
    next: float


class Silence:
    """Keeps calls from a server that was silent a moment ago.

    Args:
        url: address of the server.
        file: what processes share; None: nobody is kept from calling.
        probe_seconds: how long a call that tries may take before another one may.
        clock: seconds that all processes of the machine agree on and that never go back.
    """

    def __init__(
        self,
        url: str,
        file: Path | None,
        *,
        probe_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._file = url, file
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._trying = False

    def require_heard(self) -> None:
        """Lets a call through, unless the server is silent and another call tries it.

        Raises:
            RedcapSilent: it is not this call's turn.
        """
        if self._file is None or self._trying or not _size(self._file):
            return
        with self._held(self._file) as handle:
            known = self._read(handle)
            if known is None:
                return
            wait = known.next - self._clock()
            if not 0 < wait <= 1.2 * LONGEST_PAUSE + self._probe_seconds:  # else a restart lies in between
                self._trying = True
                known.next = self._clock() + self._probe_seconds
                _write(handle, json.dumps(asdict(known)))
                return
        raise RedcapSilent(
            f"REDCap does not answer since {known.since}; one call at a time tries it, "
            f"the next in {wait:.0f} s"
        )

    def unanswered(self) -> None:
        """A call was not answered in time; this object may try again, all others wait."""
        self._trying = True
        if self._file is None:
            return
        with self._held(self._file) as handle:
            known = self._read(handle) or _Known(self._url, 0, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", 0.0)
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(known.times, 8))
            known.times += 1
            known.next = self._clock() + pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            _write(handle, json.dumps(asdict(known)))

    def answered(self) -> None:
        """The server answered, whatever it said: everybody may call."""
        self._trying = False
        if self._file is None or not _size(self._file):
            return
        with self._held(self._file) as handle:
            if self._read(handle) is not None:
                os.ftruncate(handle, 0)

    def _read(self, handle: int) -> _Known | None:
        """What is known of this very server; a file that is damaged knows nothing."""
        try:
            known = _Known(**json.loads(os.pread(handle, 4096, 0)))
        except (ValueError, TypeError):
            return None
        return known if known.url == self._url else None

    @staticmethod
    @contextmanager
    def _held(file: Path) -> Iterator[int]:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle
        finally:
            os.close(handle)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _write(handle: int, text: str) -> None:
    os.pwrite(handle, text.encode(), 0)
    os.ftruncate(handle, len(text))
