"""Bytes of a package on their way to a temporary name at an SFTP server.

What a broken upload left there is compared and continued. Belongs here: sending. Stays out: proof and names.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fiona_dagster.config import SftpTarget
from fiona_dagster.errors import DeliveryRefused
from fiona_dagster.transfers.targets import ArrivedDamaged
from fiona_dagster.transfers.targets.hashing import Hashing
from fiona_dagster.transfers.targets.local import LocalPackage, not_the_one
from fiona_dagster.transfers.targets.pipeline import Writing
from fiona_dagster.transfers.targets.remote import (
    CHUNK,
    begins_as,
    check_room,
    finished,
    full_disk,
    size_of,
)
from fiona_dagster.transfers.targets.sftp_proof import by_command
from fiona_dagster.transfers.targets.ssh import Link, errors

WORTH_RESUMING = 1 << 20
"""Bytes from which on it pays to ask for free space, and to compare what is there."""


class Upload:
    """One package on its way to a temporary name.

    Args:
        link: the connection.
        target: what it may be asked for, and how fast it may go.
        local: the package.
        part: the temporary name.

    Attributes:
        resumed: bytes that an earlier attempt had brought.
        flushed: whether the server put everything on its disk before it said so.
    """

    def __init__(self, link: Link, target: SftpTarget, local: LocalPackage, part: str) -> None:
        self._link = link
        self._target = target
        self._local = local
        self._part = part
        self._blind = "agreement" in target.proofs
        self.resumed = 0
        self.flushed = False

    def send(self) -> None:
        """Sends what is not there yet.

        Raises:
            NotVerified: the package changed while it was sent.
            StorageFull: the remote disk is full.
            ArrivedDamaged: less arrived than was sent.
            PeerUnavailable: the connection broke; another attempt continues.
        """
        local, link, part = self._local, self._link, self._part
        with errors(link.name, "sending"), local.open() as stream, Hashing() as seen:
            self.resumed = self._can_resume(stream)
            stream.seek(0)
            for _ in _pieces(stream, self.resumed, seen.update):
                local.may_go_on()
            if local.size >= WORTH_RESUMING:
                check_room(link, part, local.size - self.resumed)
            with Writing(link, part, self.resumed) as remote:
                self.flushed, arrived = self._write(stream, remote, seen.update)
            if seen.hexdigest() != local.sha256:
                raise not_the_one()
            if arrived is not None and arrived != local.size and not self._blind:
                # Writes are answered late: a full disk may show only here.
                check_room(link, part, local.size - arrived)
                raise ArrivedDamaged(
                    f"target {link.name}: only {arrived} of {local.size} bytes arrived; trying again may help"
                )

    def _write(
        self, stream: BinaryIO, remote: Writing, seen: Callable[[bytes], object]
    ) -> tuple[bool, int | None]:
        pace = _Pace(self._target.megabytes_per_second)
        with full_disk(self._link, self._part):
            while chunk := stream.read(pace.chunk):
                self._local.may_go_on()
                seen(chunk)
                remote.write(chunk)
                pace.sent(len(chunk))
            return finished(self._link, remote)

    def _can_resume(self, stream: BinaryIO) -> int:
        """Bytes that an earlier attempt brought and that are those of the package."""
        if self._blind or self._local.size < WORTH_RESUMING:
            return 0
        part = self._part
        there = size_of(self._link, part)
        if there is None or not WORTH_RESUMING <= there <= self._local.size:
            return 0
        if self._target.proofs[0] != "readback":
            found = by_command(self._link, part, there, first=there)
            if found is not None:
                return there if found[1] == _digest_of_first(stream, there, found[0]) else 0
        if not {"readback", "digest"} & {*self._target.proofs}:
            return 0
        try:
            return there if begins_as(self._link, part, there, stream) else 0
        except DeliveryRefused:  # it may be written to but not read
            return 0


def _pieces(stream: BinaryIO, size: int, seen: Callable[[bytes], object]) -> Iterator[None]:
    while size:
        chunk = stream.read(min(CHUNK, size))
        if not chunk:
            raise not_the_one()
        seen(chunk)
        size -= len(chunk)
        yield


def _digest_of_first(stream: BinaryIO, size: int, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for _ in _pieces(stream, size, digest.update):
        pass
    return digest.hexdigest()


class _Pace:
    """Holds an upload to so many megabytes a second.

    Args:
        megabytes_per_second: the bound; None: none.
    """

    def __init__(self, megabytes_per_second: float | None) -> None:
        self._rate = megabytes_per_second * 1e6 if megabytes_per_second else 0.0
        self.chunk = min(CHUNK, max(int(self._rate / 4), 4096)) if self._rate else CHUNK
        self._free_at = time.monotonic()

    def sent(self, size: int) -> None:
        """Waits until the next chunk may go."""
        if self._rate:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate
            time.sleep(max(self._free_at - time.monotonic(), 0))
