"""What the receiver counts: a file that each of its processes maps, a row a process, no locks between them.

A process adds to its own row alone; who reads adds the rows up. A process that takes the place of a dead one
goes on with its row, so that sums never fall. The file is a convenience: where it can't be had, counting goes
on in memory, and reception never notices.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import zlib
from bisect import bisect_left
from pathlib import Path

OUTCOMES = ("stored", "repeat", "conflict", "refused", "no_room", "too_large")
"""How a C-STORE may end."""
REJECTIONS = ("protocol", "calling_ae", "network", "called_ae", "limit", "draining", "tls")
"""Why an association is rejected, or a connection ended before it could ask for one (tls)."""
ENDS = ("released", "aborted_by_peer", "aborted_by_us", "broken")
"""How an association may end."""
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram of seconds."""

NAMES = (
    "connections",
    "associations",
    "open",
    "echoes",
    "bytes",
    "seconds",
    *(f"instances.{name}" for name in OUTCOMES),
    *(f"rejections.{name}" for name in REJECTIONS),
    *(f"ends.{name}" for name in ENDS),
    *(f"seconds.{number}" for number in range(len(BUCKETS) + 1)),
)
"""Everything that is counted; ``open`` goes up and down."""

ROWS = 32
_INDEX = {name: number + 1 for number, name in enumerate(NAMES)}
_OUTCOME = {name: _INDEX[f"instances.{name}"] for name in OUTCOMES}
_BYTES, _SECONDS, _FIRST_BUCKET = _INDEX["bytes"], _INDEX["seconds"], _INDEX["seconds.0"]
_WIDTH = len(NAMES) + 1  # the first number of a row is its process
_HEAD = (b"FIONA counters %08x" % zlib.crc32("\n".join(NAMES).encode())).ljust(32)
_SIZE = len(_HEAD) + 8 * _WIDTH * ROWS


def prepare_counters(path: Path) -> None:
    """Makes the file unless one of this version is there; to be called before processes are forked."""
    try:
        if path.stat().st_size == _SIZE and path.read_bytes()[: len(_HEAD)] == _HEAD:
            return
    except OSError:
        pass  # made below, if that is possible
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(_HEAD + bytes(_SIZE - len(_HEAD)))
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


class Counters:
    """One process's row. Methods may be called from any thread.

    Args:
        path: the file.
        number: which of the processes this is, from 0.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._mutex = threading.Lock()
        self._map = _mapped(path)
        self._row = memoryview(self._map)[len(_HEAD) :].cast("d")[number * _WIDTH : (number + 1) * _WIDTH]
        self._row[0] = os.getpid()
        self._row[_INDEX["open"]] = 0

    def add(self, name: str, amount: float = 1) -> None:
        """Counts.

        Args:
            name: one of :data:`NAMES`.
            amount: how much.
        """
        with self._mutex:
            self._row[_INDEX[name]] += amount

    def instance(self, outcome: str, size: int, seconds: float) -> None:
        """Counts one C-STORE.

        Args:
            outcome: one of :data:`OUTCOMES`.
            size: bytes of its data set.
            seconds: from its command to the answer.
        """
        row = self._row
        with self._mutex:
            row[_OUTCOME[outcome]] += 1
            row[_BYTES] += size
            row[_SECONDS] += seconds
            row[_FIRST_BUCKET + bisect_left(BUCKETS, seconds)] += 1


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("r+b") as file:
            found = mmap.mmap(file.fileno(), _SIZE)
            if found[: len(_HEAD)] == _HEAD:
                return found
    except (OSError, ValueError):
        pass
    return mmap.mmap(-1, _SIZE)


def read_counters(path: Path) -> dict[str, float]:
    """Sums over all processes; what is open, over those that live. All zero if nothing was counted yet."""
    sums = dict.fromkeys(NAMES, 0.0)
    try:
        data = path.read_bytes()
    except OSError:
        return sums
    if len(data) != _SIZE or data[: len(_HEAD)] != _HEAD:
        return sums
    for row in struct.iter_unpack(f"={_WIDTH}d", data[len(_HEAD) :]):
        alive = row[0] > 0 and Path(f"/proc/{int(row[0])}").exists()
        for name, value in zip(NAMES, row[1:], strict=True):
            if name != "open" or alive:
                sums[name] += value
    return sums
