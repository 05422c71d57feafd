"""Connections that are not associations yet, and who of them gives way when there are too many.

A flood of connections, of half-open or garbage ones, fills the lobby and nothing else. When it is full, the
peer (IP address) with most guests loses its oldest one: whoever sends a request at once is through the door
long before that, also when the flood comes from the same address.
"""

from __future__ import annotations

import threading
import time
from typing import Generic, Protocol, TypeVar


class Guest(Protocol):
    """A connection, see :class:`receiver.association.Association`."""

    @property
    def ip(self) -> str:
        """The peer's address."""

    @property
    def deadline(self) -> float:
        """When its request must be here, on the monotonic clock (ARTIM timer, PS3.8 section 9.1.5)."""


GuestT = TypeVar("GuestT", bound=Guest)


class Lobby(Generic[GuestT]):
    """The guests of one process in the order of their arrival. Methods may be called from any thread.

    Args:
        limit: how many at most.
    """

    def __init__(self, limit: int) -> None:
        self._guests: dict[GuestT, None] = {}
        self.limit = limit
        self._mutex = threading.Lock()

    def enter(self, guest: GuestT) -> GuestT | None:
        """Takes a guest in.

        Returns:
            Who was turned out for it, if the lobby was full.
        """
        with self._mutex:
            victim = self._oldest_of_the_most() if len(self._guests) >= self.limit else None
            if victim is not None:
                del self._guests[victim]
            self._guests[guest] = None
            return victim

    def leave(self, guest: GuestT) -> bool:
        """Takes a guest out, who is admitted or gone; False if it was turned out before."""
        with self._mutex:
            if guest not in self._guests:
                return False
            del self._guests[guest]
            return True

    def __len__(self) -> int:
        return len(self._guests)

    def late(self) -> list[GuestT]:
        """Guests whose time is over."""
        now = time.monotonic()
        with self._mutex:
            return [guest for guest in self._guests if guest.deadline <= now]

    def _oldest_of_the_most(self) -> GuestT:
        counts: dict[str, int] = {}
        for guest in self._guests:
            counts[guest.ip] = counts.get(guest.ip, 0) + 1
        most = max(counts.values())
        return next(guest for guest in self._guests if counts[guest.ip] == most)
