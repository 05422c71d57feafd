"""What is promised is written ahead: one small flush says an object's name and its journal line at once.

Success needs bytes, name and line on the disk. The bytes are flushed as they are. But the flush of a new
name, and of a journal that grows, make the file system write its own log first, each of them. So both are
written here as well: into a file whose blocks are all there, so that its flush writes one of them and nothing
else. In their own places they are flushed later, for many objects at once (:meth:`Ahead.settle`), and only
then are their blocks here used again. :mod:`fiona_dagster.landing.recovery` puts back what a power loss took.

An entry is of use only together with a file that is found by its first name: see ``NewFile.rooted``.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from fiona_dagster.landing.files import sync_directory
from fiona_dagster.landing.flush import GroupFlush, flush_data
from fiona_dagster.landing.workshop import Workshop

log = logging.getLogger("fiona.landing")

LOG = "ahead.log"
DOUBT = "ahead.doubt"
"""Beside the log: a flush that should have settled its entries failed, so none of them is."""

_MAGIC = b"FIONA 1\n"
_HEAD = struct.Struct("<8sIHH")
_BLOCK = 4096
"""A block for each entry: what is written later never touches an entry that somebody relies on."""
HALF = 32
"""Entries of each half. One is written while the other is settled."""


class Place(Protocol):
    """A journal or a folder, where what was promised stands."""

    def settle(self) -> None:
        """Flushes what was written there; raises OSError if that fails."""


class Entry(NamedTuple):
    """An object whose bytes are flushed: its name in the workshop, and the line of its receipt."""

    part: str
    line: bytes


def _encode(entry: Entry) -> bytes:
    part = entry.part.encode("ascii")
    text = part + entry.line
    return (_HEAD.pack(_MAGIC, zlib.crc32(text), len(part), len(entry.line)) + text).ljust(_BLOCK, b"\0")


def read_entries(path: Path) -> Iterator[Entry]:
    """All entries of a log that are whole; also those that were settled long ago. None if there is no log."""
    content = path.read_bytes() if path.is_file() else b""
    for at in range(0, len(content) - _BLOCK + 1, _BLOCK):
        magic, checksum, part, line = _HEAD.unpack_from(content, at)
        begin = at + _HEAD.size
        text = content[begin : begin + part + line]
        if magic == _MAGIC and part + line <= _BLOCK - _HEAD.size and zlib.crc32(text) == checksum:
            yield Entry(text[:part].decode("ascii", "replace"), text[part:])


def _put(fd: int, data: bytes, at: int) -> None:
    if os.pwrite(fd, data, at) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Ahead:
    """The log of one process. Methods may be called from any thread.

    Args:
        workshop: where it stands, and the files that its entries are about.

    Attributes:
        owes: entries could not be settled, so the log must outlive its process.
    """

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._fd = -1
        self._mutex = threading.Lock()
        self._settling = threading.Lock()
        self._flush = GroupFlush(flush_data)
        self._half = 0
        self._used = 0
        self._places: set[Place] = set()
        self._sound = True
        self._rooted = False
        self.owes = False

    @property
    def is_full(self) -> bool:
        """Whether it takes no more before :meth:`settle`."""
        return self._used >= HALF

    def promise(self, part: str, line: bytes, *places: Place) -> bool:
        """Writes an entry, flushed: from now on the object is safe, whatever stands on the disk in its place.

        Args:
            part: first name of the file, which is rooted, flushed, and under its last name already.
            line: of its receipt; it was written to its journal.
            places: the journal and the folder, which :meth:`settle` will flush.

        Returns:
            False if there is no entry: the places must be flushed now.
        """
        block = _encode(Entry(part, line))
        if len(block) > _BLOCK:
            return False
        try:
            with self._mutex:
                if not self._sound or self._used >= HALF:
                    return False
                if self._fd < 0:
                    self._open()
                _put(self._fd, block, (self._half * HALF + self._used) * _BLOCK)
                self._used += 1
                self._places.update(places)
            self._flush(self._fd)
        except OSError as error:
            self._sound = (
                False  # what a failed flush covered is never believed; every place is flushed itself
            )
            log.error("the log of promises can't be written (%s); going on without it", error)  # noqa: TRY400
            return False
        return True

    def _open(self) -> None:
        path = self._workshop.path / LOG
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _put(fd, bytes(2 * HALF * _BLOCK), 0)
            flush_data(fd)
            self._workshop.flush()
            if not self._rooted:
                sync_directory(self._workshop.path.parent)
                self._rooted = True
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def settle(self) -> None:
        """Flushes every place that entries were written for before; their blocks are free then.

        Raises:
            OSError: a flush failed. The entries stay, and nothing more is written ahead.
        """
        with self._settling:
            with self._mutex:  # a place is written before its entry, so all that was promised is covered
                places, self._places = self._places, set()
                self._half, self._used = 1 - self._half, 0
            failure: OSError | None = None
            for place in places:
                try:
                    place.settle()
                except OSError as error:
                    failure = error
            if failure is not None:
                self._keep()
                raise failure

    def _keep(self) -> None:
        self._sound, self.owes = False, True
        with suppress(OSError):  # of a disk that can't be written, nothing in the cache will be believed
            # Not flushed: after a power loss the truth is on the disk, and nobody needs to be warned.
            (self._workshop.path / DOUBT).touch(mode=0o600)

    def put_away(self) -> None:
        """Removes the log, unless something in it is not settled; the next promise makes it anew."""
        with self._settling, self._mutex:
            if self._fd >= 0 and self._sound and not self._places:
                fd, self._fd = self._fd, -1
                os.close(fd)
                with suppress(OSError):  # of a disk that can't be written; it goes with its workshop
                    (self._workshop.path / LOG).unlink(missing_ok=True)
                self._half, self._used = 0, 0

    def close(self) -> bool:
        """Settles and closes it; False if it must be kept, since some entries are not settled."""
        try:
            self.settle()
        except OSError as error:
            log.error("what was promised could not be settled (%s); its log is kept", error.strerror)  # noqa: TRY400
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return not self.owes
