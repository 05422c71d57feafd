"""Connections that stay open from one delivery of a run to the next, so that many small packages share one.

Belongs here: what is kept, for whom and how long. Stays out: what a connection is (``targets.ssh``), which is
imported only when there is one to make.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Hashable, Iterator
from typing import Any

IDLE_SECONDS = 20.0
"""A connection that nobody used for so long is closed: firewalls forget it without a word."""

_Kept = tuple[Any, contextlib.ExitStack, float]


class _Keeper:
    """What is open and not in use; empty unless somebody keeps connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._who = 0
        self._kept: dict[Hashable, _Kept] = {}

    def begin(self) -> None:
        """From now on connections are kept."""
        with self._lock:
            self._who += 1

    def end(self) -> None:
        """The last one that keeps them closes them."""
        with self._lock:
            self._who -= 1
            kept = [] if self._who else list(self._kept.values())
            if not self._who:
                self._kept = {}
        for _, closing, _ in kept:
            closing.close()

    def take(self, key: Hashable) -> tuple[Any, contextlib.ExitStack] | None:
        """A connection that is used by nobody else from now on."""
        with self._lock:
            found = self._kept.pop(key, None)
        if found is None:
            return None
        connection, closing, since = found
        if time.monotonic() - since > IDLE_SECONDS:
            closing.close()
            return None
        return connection, closing

    def give(self, key: Hashable, connection: Any, closing: contextlib.ExitStack) -> None:
        """Leaves a connection to the next one, or closes it."""
        with self._lock:
            keep = self._who > 0 and key not in self._kept
            if keep:
                self._kept[key] = (connection, closing, time.monotonic())
        if not keep:
            closing.close()


KEEPER = _Keeper()


@contextlib.contextmanager
def connections_kept() -> Iterator[None]:
    """Within it, a delivery that went well leaves its connection to the next one to the same target."""
    KEEPER.begin()
    try:
        yield
    finally:
        KEEPER.end()
