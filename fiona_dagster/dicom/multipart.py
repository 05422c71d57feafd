"""Multipart bodies of DICOMweb: one that is sent, its files compared meanwhile, and one that is read."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from fiona_dagster.dicom.instances import IN_MEMORY, Instance
from fiona_dagster.dicom.opened import DIFFERS, from_copy
from fiona_dagster.errors import NotVerified, PeerUnavailable

CHUNK = 1 << 20
"""Bytes of a large file, or of an answer, that stand in memory at once."""


class Body:
    """A multipart/related body that is read while it is sent; its length is known before.

    A file's last bytes only leave when its digest is right, so that nothing else can become an instance.
    """

    def __init__(
        self, batch: Sequence[Instance], digests: Mapping[str, str], before: Callable[[], None]
    ) -> None:
        self.boundary = uuid.uuid4().hex
        with from_copy():
            self._parts = [(instance, instance.path.stat().st_size) for instance in batch]
        self._digests = digests
        self._before = before
        self._head = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._end = f"--{self.boundary}--\r\n".encode()

    def __len__(self) -> int:
        return sum(len(self._head) + size + 2 for _, size in self._parts) + len(self._end)

    def __iter__(self) -> Iterator[bytes]:
        for instance, size in self._parts:
            self._before()
            yield self._head
            yield from self._file(instance, size)
            yield b"\r\n"
        yield self._end

    def _file(self, instance: Instance, size: int) -> Iterator[bytes]:
        digest, held, seen = hashlib.sha256(), b"", 0
        step = IN_MEMORY if size <= IN_MEMORY else CHUNK
        with from_copy(), instance.path.open("rb") as file:
            while chunk := file.read(step):
                digest.update(chunk)
                seen += len(chunk)
                if held:
                    yield held
                held = chunk
        if seen != size or digest.hexdigest() != self._digests.get(str(instance.path)):
            raise NotVerified(DIFFERS)
        yield held


def only_part(chunks: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """Content of the first part of a multipart body (RFC 2046, section 5.1.1); nothing when it has none."""
    buffer, end = b"", b"\r\n--" + boundary
    for chunk in chunks:
        buffer += chunk
        start, begin = buffer.find(b"--" + boundary), buffer.find(b"\r\n\r\n")
        if 0 <= start < begin:
            buffer = buffer[begin + 4 :]
            break
        if len(buffer) > CHUNK + 65536:  # headers of a megabyte are none
            return
    else:
        return
    while (found := buffer.find(end)) < 0:
        keep = max(len(buffer) - len(end), 0)
        yield buffer[:keep]
        buffer = buffer[keep:]
        chunk = next(chunks, b"")
        if not chunk:
            raise PeerUnavailable("an instance that was retrieved broke off")
        buffer += chunk
    yield buffer[:found]
