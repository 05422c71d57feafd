"""Places for associations, counted over all processes that share a port."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PROCESSES = 32

_LOAD = struct.Struct("<II")
_PLACE = struct.Struct("<IB59s")
_TABLE = _LOAD.size * MAX_PROCESSES


class Places:
    """A table in memory that is shared with forked processes: who holds which place for whom.

    Made before forking. A process writes only its own entries; what a dead one leaves is taken back by
    :meth:`bury`. All methods may be called from any thread.

    Args:
        limit: associations at the same time, in all processes together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._mutex = threading.Lock()
        self._fd = os.memfd_create("fiona-places", os.MFD_CLOEXEC)
        size = _TABLE + _PLACE.size * limit
        os.ftruncate(self._fd, size)
        self._table = mmap.mmap(self._fd, size)
        self._number = 0
        self._load = 0

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            os.close(fd)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._mutex:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)  # of a process, not of a descriptor: forks don't share it
            try:
                yield
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def take(self, peer: str, per_peer: int | None = None) -> int | None:
        """Takes a place.

        Args:
            peer: for whom: an address or a name; its first 59 bytes count.
            per_peer: places that one peer may hold; None for no such limit.

        Returns:
            Its number, for :meth:`free`; None if there is none left, or none for this peer.
        """
        name = peer.encode("utf-8", "replace")[:59]
        with self._alone():
            vacant, same = None, 0
            for place in range(self.limit):
                pid, length, holder = _PLACE.unpack_from(self._table, _TABLE + place * _PLACE.size)
                if not pid:
                    vacant = place if vacant is None else vacant
                elif holder[:length] == name:
                    same += 1
            if vacant is None or (per_peer is not None and same >= per_peer):
                return None
            _PLACE.pack_into(self._table, _TABLE + vacant * _PLACE.size, os.getpid(), len(name), name)
            return vacant

    def free(self, place: int) -> None:
        """Gives a place back."""
        with self._alone():
            _PLACE.pack_into(self._table, _TABLE + place * _PLACE.size, 0, 0, b"")

    @property
    def taken(self) -> int:
        """Places that are taken, in all processes."""
        places = range(self.limit)
        return sum(_PLACE.unpack_from(self._table, _TABLE + p * _PLACE.size)[0] != 0 for p in places)

    def bury(self, pid: int) -> None:
        """Takes back what a dead process held."""
        with self._alone():
            for place in range(self.limit):
                at = _TABLE + place * _PLACE.size
                if _PLACE.unpack_from(self._table, at)[0] == pid:
                    _PLACE.pack_into(self._table, at, 0, 0, b"")
            for number in range(MAX_PROCESSES):
                if _LOAD.unpack_from(self._table, number * _LOAD.size)[0] == pid:
                    _LOAD.pack_into(self._table, number * _LOAD.size, 0, 0)

    def begin(self, number: int) -> None:
        """This process accepts connections from now on.

        Args:
            number: its own, from 0 to ``MAX_PROCESSES - 1``, among those that share the port.
        """
        self._number = number
        self.carry(0)

    def carry(self, load: int) -> None:
        """Tells the others how many connections this process has."""
        self._load = load
        _LOAD.pack_into(self._table, self._number * _LOAD.size, os.getpid(), load)

    @property
    def lighter_elsewhere(self) -> bool:
        """Whether another process that accepts has fewer connections than this one."""
        entries = (_LOAD.unpack_from(self._table, n * _LOAD.size) for n in range(MAX_PROCESSES))
        return any(pid and load < self._load for pid, load in entries)
