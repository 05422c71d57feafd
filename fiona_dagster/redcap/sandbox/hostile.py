"""A server that misbehaves at random, repeatably: what the client has to live with."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fiona_dagster.redcap.sandbox.faults import Fault, Kind

if TYPE_CHECKING:
    from fiona_dagster.redcap.sandbox.store import Store

STATUSES = (408, 429, 500, 502, 503, 504)
ANY_CALL: tuple[Kind, ...] = (
    "status",
    "delay",
    "html",
    "empty",
    "cut",
    "ban",
    "redirect",
    "error_format",
    "dictionary",
)
IMPORTS: tuple[Kind, ...] = ("cut_after_import", "count_zero", "ignored", "duplicate")
BACKUP_EVERY = 200
"""Calls between two backups of which one is restored half as often."""


@dataclass
class Hostile:
    """Chooses the misbehaviour of each call.

    Args:
        seed: the same seed and calls give the same misbehaviour.
        share: part of the calls that go wrong; between two of them one always goes well.
        backups: whether older states of the server come back.
    """

    seed: int
    share: float = 0.2
    backups: bool = True
    _random: random.Random = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _calls: int = field(init=False, default=0)
    _well: bool = field(init=False, default=False)
    _backup: bytes | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - misbehaviour, not secrets

    def next(self, store: Store, *, importing: bool) -> Fault | None:
        """The misbehaviour of the next call; restores a backup now and then."""
        with self._lock:
            self._calls += 1
            if self.backups and self._calls % BACKUP_EVERY == 0:
                self._restore(store)
            self._well = not self._well
            if self._well or self._random.random() >= 2 * self.share:
                return None
            kind = self._random.choice(ANY_CALL + IMPORTS if importing else ANY_CALL)
            if kind == "status":
                return Fault(kind, self._random.choice(STATUSES))
            return Fault(kind, self._random.uniform(0.01, 0.3))

    def _restore(self, store: Store) -> None:
        if self._backup is not None and self._random.random() < 0.5:
            store.restore(self._backup)
            self._backup = None
        else:
            self._backup = store.backup()
