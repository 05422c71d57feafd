"""Writes the bytes of a package once, while threads take its digests from the same bytes in memory.

Belongs here: the one pass over the content, in bounded memory. Stays out: what lies in a package
(``transfers.package``), bytes of headers (``transfers.zipformat``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.zipformat import SIGNATURE_PREFIX, SIGNED, Entry

if TYPE_CHECKING:
    from fiona_dagster.transfers.signature import SigningKey

CHUNK = 1 << 20
WHOLE = 4 << 20
"""Files up to this size are read once into memory; of larger ones the CRC-32 is taken first."""
FLUSH_EVERY = 16 << 20
"""Bytes after which a thread begins to bring to the disk what was written, for a shorter wait at the end."""
Blocks = Mapping[int, bytes]
"""Number of a piece of :data:`CHUNK` bytes of a file -> SHA-256 that it had when it was looked at before."""
WAITING = 6
"""Pieces of about :data:`CHUNK` (at most :data:`WHOLE`) that may wait for each digest: bounds the memory."""


class Lane:
    """A thread that does one thing after the other; hashing releases the interpreter, so lanes overlap."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[..., object], tuple[Any, ...]] | None] = queue.Queue(WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:
                function, arguments = job
                try:
                    function(*arguments)
                except BaseException as error:  # noqa: BLE001 - raised again by put or close
                    self._error = error

    def put(self, function: Callable[..., object], *arguments: Any) -> None:
        """Hands in a job; waits while too many wait. Raises what an earlier job raised."""
        if self._error is not None:
            raise self._error
        self._jobs.put((function, arguments))

    def close(self, *, quiet: bool = False) -> None:
        """Waits for all jobs; raises what one raised unless ``quiet``."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        if self._error is not None and not quiet:
            raise self._error


def _compare(digest: Any, expected: str) -> None:
    if digest.hexdigest() != expected:
        raise changed()


def _check(data: bytes, files: list[tuple[int, int, str]]) -> None:
    view = memoryview(data)
    for begin, end, expected in files:
        _compare(hashlib.sha256(view[begin:end]), expected)


def _same(piece: bytes, before: bytes) -> None:
    if hashlib.sha256(piece).digest() != before:
        raise changed()


class PackageWriter:
    """Appends entries; MD5 and SHA-256 of the package and SHA-256 of each file come from the bytes written.

    Args:
        descriptor: of the file that the package goes to; nothing counts before :meth:`finish` returned.

    Attributes:
        offset: bytes written.
        md5: of the whole package, after :meth:`finish`.
        sha256: the same.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.offset = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.sha256 = hashlib.sha256()
        self._entries: list[Entry] = []
        self._lanes = [Lane(), Lane(), Lane(), Lane()]
        self._flushed = 0
        self._waiting: list[bytes] = []
        self._unchecked: list[tuple[int, int, str]] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            lane.close(quiet=True)

    def add(self, name: str, data: bytes) -> None:
        """An entry of our own making."""
        self._begin(name, len(data), zlib.crc32(data))
        self._write(data)

    def add_file(
        self, name: str, path: Path, size: int, digest: str, looked_at: Blocks | None = None
    ) -> None:
        """A verified file.

        Args:
            name: inside the package.
            path: the file.
            size: bytes it must have.
            digest: the SHA-256 that the verification record has. It is compared by a thread while writing
                goes on: a difference is raised by a later call, at the latest by :meth:`finish`.
            looked_at: what was taken from it into the package already, of a file above :data:`WHOLE`; it is
                compared in the same way.

        Raises:
            NotVerified: the file differs from its record or is gone.
            CopyUnavailable: the disk does not give it.
        """
        try:
            if size > WHOLE:
                with path.open("rb", buffering=0) as source:
                    self._add_large(name, source, size, digest, looked_at or {})
                return
            if looked_at:  # it was larger then
                raise changed()
            data = _whole(path, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            with from_copy("a verified file vanished while it was packed; de-identify again"):
                raise
        self._begin(name, size, zlib.crc32(data))
        # What is compared is what is written: the same bytes in memory.
        self._unchecked.append((self._bytes, self._bytes + size, digest))
        self._write(data)

    def _add_large(self, name: str, source: BinaryIO, size: int, digest: str, looked_at: Blocks) -> None:
        crc = 0
        for piece in _pieces(source, size):
            crc = zlib.crc32(piece, crc)
        source.seek(0)
        self._begin(name, size, crc)
        written, sha256 = 0, hashlib.sha256()
        for number, piece in enumerate(_pieces(source, size)):
            written = zlib.crc32(piece, written)
            self._lanes[2].put(sha256.update, piece)
            if number in looked_at:
                self._lanes[2].put(_same, piece, looked_at[number])
            self._write(piece)
        self._lanes[2].put(_compare, sha256, digest)
        if written != crc or max(looked_at, default=0) > number:
            raise changed()

    def _begin(self, name: str, size: int, crc: int) -> None:
        entry = Entry(name, size, crc, self.offset)
        self._entries.append(entry)
        self._write(zipformat.local_header(entry), header=True)

    def _write(self, data: bytes, *, header: bool = False) -> None:
        self.offset += len(data)
        self._waiting.append(data)
        self._bytes += len(data)
        if self._bytes >= CHUNK and not header:
            self._hand_over()

    def _hand_over(self) -> None:
        # Joined, since a thread that hashes many small pieces takes the interpreter from this one each time.
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting, self._bytes = [], 0
        unchecked, self._unchecked = self._unchecked, []
        self._out(data)
        if unchecked:
            self._lanes[2].put(_check, data, unchecked)
        if self.offset - self._flushed >= FLUSH_EVERY:
            self._lanes[3].put(os.fdatasync, self._descriptor)
            self._flushed = self.offset
        self._lanes[0].put(self.sha256.update, data)
        self._lanes[1].put(self.md5.update, data)

    def _out(self, data: bytes) -> None:
        done = os.write(self._descriptor, data)
        while done < len(data):
            done += os.write(self._descriptor, memoryview(data)[done:])

    def finish(self, key: SigningKey) -> None:
        """Writes the central directory, and the comment that seals and signs everything before it.

        Raises:
            NotVerified: a file differed from its record.
        """
        start = self.offset
        for entry in self._entries:
            self._write(zipformat.directory_header(entry))
        self._write(zipformat.end_records(len(self._entries), start, self.offset - start))
        self._write(SIGNED.prefix)
        self._hand_over()
        for lane in self._lanes:
            lane.close()
        digest = self.sha256.digest()
        seal = digest.hex().encode() + SIGNATURE_PREFIX + key.sign(digest).hex().encode()
        self._out(seal)
        self.offset += len(seal)
        self.sha256.update(seal)
        self.md5.update(seal)


def _whole(path: Path, size: int) -> bytes:
    """The content of a file that has exactly ``size`` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, size + 1)
        while len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
            data += more
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise changed()
    return data


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    """The content in pieces of :data:`CHUNK`; exactly ``size`` bytes of it."""
    done = 0
    while piece := source.read(CHUNK):
        while len(piece) < CHUNK and (more := source.read(CHUNK - len(piece))):
            piece += more
        done += len(piece)
        if done > size:
            raise changed()
        yield piece
    if done != size:
        raise changed()


def changed() -> NotVerified:
    """What is said of a file whose bytes are not the verified ones."""
    return NotVerified("a file differs from its verification record; de-identify and verify the study again")


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """A small file, durable but for its name, that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
