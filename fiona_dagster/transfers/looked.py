"""Blocks of a file that were looked at before the file as a whole was compared with its record.

A picture needs little of a large file, and stands in a package before it. So that the file is not read twice
for that, what was looked at is remembered by its SHA-256 and compared with the very bytes that are packed,
which are those of the verification record.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

from fiona_dagster.transfers.writing import CHUNK, changed


class LookedAt(io.RawIOBase):
    """A file that is read in blocks of :data:`~fiona_dagster.transfers.writing.CHUNK`, each remembered.

    Args:
        path: the file.

    Attributes:
        blocks: what was looked at so far: number of a block -> its SHA-256.
        name: the path, as files have it; pydicom asks for it.

    Raises:
        OSError: the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._position = 0
        self.name = str(path)
        self._held: tuple[int, bytes] = (-1, b"")
        self.blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See :meth:`io.IOBase.seek`."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """See :meth:`io.IOBase.tell`."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Bytes of one block.

        Raises:
            NotVerified: a block changed between two looks.
        """
        view = memoryview(buffer).cast("B")
        number, begin = divmod(self._position, CHUNK)
        piece = self._block(number)[begin : begin + len(view)] if self._position < self._size else b""
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _block(self, number: int) -> bytes:
        if self._held[0] != number:
            data = os.pread(self._descriptor, CHUNK, number * CHUNK)
            digest = hashlib.sha256(data).digest()
            if self.blocks.setdefault(number, digest) != digest:
                raise changed()
            self._held = (number, data)
        return self._held[1]

    def close(self) -> None:
        """Closes the file; may be called again."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
