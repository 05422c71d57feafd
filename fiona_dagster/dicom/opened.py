"""A data set in a file that is too large for memory: what leaves is what was compared.

Each part is read once, hashed and handed over from the same memory, so that nothing that happens to the file
meanwhile can reach a peer unnoticed. (``sendfile`` would not do: pages that wait in a socket still change
with their file.)
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from fiona_dagster.errors import CopyUnavailable, NotVerified

DIFFERS = "a file differs from its verification record; de-identify and verify the study again"
CHANGED = "a file changed while it was sent; look at what the target received"
_GONE = frozenset((None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP))


@contextmanager
def from_copy(gone: str = DIFFERS) -> Iterator[None]:
    """Around what reads a verified copy or a package.

    Args:
        gone: what is said when there is none any more.

    Raises:
        NotVerified: it is gone, something else is there, or it became shorter.
        CopyUnavailable: the disk or mount does not give it, which says nothing about it.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise NotVerified(gone) from None
        raise CopyUnavailable(
            f"a verified copy can't be read from the disk ({os.strerror(error.errno or 0)}), which says "
            "nothing about it; look at the disk or mount, and at who may read the file"
        ) from None


@dataclass(frozen=True)
class Open:
    """A data set in an open file that is not held in memory.

    Attributes:
        descriptor: of the file.
        offset: where the data set begins, bytes.
        size: its length, bytes.
        changed: the file's time of change, ns.
        digest: SHA-256 that the whole file must have; None: whatever it is.
    """

    descriptor: int
    offset: int
    size: int
    changed: int
    digest: str | None

    def parts(self, length: int) -> Iterator[memoryview]:
        """The data set in parts; the last one comes only if the whole file is what it should be.

        Args:
            length: bytes of a part; the last one may be shorter.

        Yields:
            Parts; each holds until the next is asked for.

        Raises:
            NotVerified: the file is not what it should be, or was written to.
            CopyUnavailable: the disk does not give it.
        """
        blocks = [memoryview(bytearray(length)) for _ in range(2)]
        end = self.offset + self.size
        with _Hashing(self.digest) as hashing:
            hashing.add(self._read(memoryview(bytearray(self.offset)), 0))
            for at in range(self.offset, end, length):
                blocks.reverse()
                part = self._read(blocks[0][: min(length, end - at)], at)
                hashing.add(part)
                if at + len(part) == end:
                    self._require_unchanged()
                    hashing.require_same()
                yield part

    def _read(self, room: memoryview, at: int) -> memoryview:
        done = 0
        while done < len(room):
            with from_copy(CHANGED):
                count = os.preadv(self.descriptor, [room[done:]], at + done)
            if not count:
                raise NotVerified(CHANGED)
            done += count
        return room

    def _require_unchanged(self) -> None:
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.offset + self.size, self.changed):
            raise NotVerified(CHANGED)


class _Hashing:
    """SHA-256 of several parts, taken in a thread while the part is sent.

    Args:
        digest: what it should be; None: nothing is compared.
    """

    def __init__(self, digest: str | None) -> None:
        self._digest = digest
        self._sha256 = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, "store-digest")
        self._under_way: Future[None] | None = None

    def add(self, part: memoryview) -> None:
        """Begins with a part, and ends with the one before, whose memory is free then."""
        if self._digest is None:
            return
        self._finish()
        self._under_way = self._pool.submit(self._sha256.update, part)

    def _finish(self) -> None:
        if self._under_way is not None:
            self._under_way.result()

    def require_same(self) -> None:
        """Raises NotVerified if the parts together have another digest."""
        self._finish()
        if self._digest is not None and self._sha256.hexdigest() != self._digest:
            raise NotVerified(DIFFERS)

    def __enter__(self) -> _Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
