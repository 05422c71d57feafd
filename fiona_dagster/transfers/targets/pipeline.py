"""Many requests under way at a time on one SFTP connection: the next is sent before the last was answered.

paramiko's own pipelining waits for all answers whenever a hundred are due, copies every piece three times,
and forgets failures of the last writes. Belongs here: requests and their answers. Stays out: what is sent.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import paramiko
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_EXTENDED,
    CMD_FSTAT,
    CMD_OPEN,
    CMD_READ,
    CMD_STATUS,
    CMD_WRITE,
    SFTP_FLAG_CREATE,
    SFTP_FLAG_READ,
    SFTP_FLAG_TRUNC,
    SFTP_FLAG_WRITE,
    int64,
)

from fiona_dagster.transfers.targets.packets import send_all
from fiona_dagster.transfers.targets.ssh import Link

OPENSSH_REQUEST = 255 << 10
"""Bytes of one write; OpenSSH takes 256 KiB with everything around it."""
OTHER_REQUEST = 32 << 10
"""What every SFTP server must take (draft-ietf-secsh-filexfer-02, section 3)."""
AT_A_TIME = 64
"""Requests without an answer; bounds what waits in memory on both sides."""
FIRST = 2
"""Read requests that go out before it is known how much of a file a server gives at a time."""


def attributes_of(answer: paramiko.Message) -> paramiko.SFTPAttributes:
    """What SSH_FXP_ATTRS says."""
    found: paramiko.SFTPAttributes = paramiko.SFTPAttributes._from_msg(answer)  # type: ignore[attr-defined]
    return found


class Pipeline:
    """Requests whose answers are taken later, in any order.

    Args:
        link: the connection; nothing else may use it at the same time.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._client: Any = link.client  # paramiko has no public calls for this
        self._answers: dict[int, tuple[int, paramiko.Message]] = {}
        self.waiting = 0

    def ask(self, kind: int, *arguments: Any) -> int:
        """Sends a request; returns its number."""
        self.waiting += 1
        return int(self._client._async_request(self, kind, *arguments))

    def write(self, handle: bytes, offset: int, data: memoryview) -> int:
        """Sends SSH_FXP_WRITE without copying the data more often than SSH needs it; returns its number."""
        client = self._client
        with client._lock:
            number = int(client.request_number)
            client.request_number += 1
            client._expecting[number] = self
        self.waiting += 1
        size = len(handle)
        head = struct.pack(f">BII{size}sQI", CMD_WRITE, number, size, handle, offset, len(data))
        head = struct.pack(">I", len(head) + len(data)) + head
        send_all(self._link.channel, head, data)
        return number

    def answer(self, number: int) -> paramiko.Message | None:
        """The answer to a request; None for a plain success.

        Raises:
            OSError: the server said no, as paramiko says it.
        """
        kind, message = self._taken(number)
        if kind == CMD_STATUS:
            self._client._convert_status(message)
            return None
        return message

    def data(self, number: int) -> bytes:
        """What SSH_FXP_READ gave; nothing at the end of the file.

        Raises:
            OSError: the server said no.
        """
        kind, message = self._taken(number)
        if kind == CMD_STATUS:
            with contextlib.suppress(
                EOFError
            ):  # as paramiko says it; of a lost connection it is raised above
                self._client._convert_status(message)
            return b""
        return message.get_binary()

    def _taken(self, number: int) -> tuple[int, paramiko.Message]:
        while number not in self._answers:
            self._client._read_response()
        return self._answers.pop(number)

    def answered(self) -> bool:
        """Whether an answer can be had without waiting, or has to be waited for before more is sent."""
        return self.waiting >= AT_A_TIME or self._link.channel.recv_ready()

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        """Called by paramiko for each answer to one of our requests."""
        self.waiting -= 1
        self._answers[number] = (kind, message)


class Writing:
    """A remote file that is written from one position on, many requests at a time.

    Args:
        link: the connection.
        path: the file.
        offset: where the first byte goes; 0: what the file holds is dropped.

    Raises:
        OSError: the file can't be opened.
    """

    def __init__(self, link: Link, path: str, offset: int = 0) -> None:
        self._pipeline = Pipeline(link)
        flags = SFTP_FLAG_WRITE if offset else SFTP_FLAG_WRITE | SFTP_FLAG_CREATE | SFTP_FLAG_TRUNC
        self._handle = _handle(self._pipeline, path, flags)
        self._offset = offset
        self._request = OPENSSH_REQUEST if link.openssh else OTHER_REQUEST
        self._under_way: deque[int] = deque()

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # what broke it is what counts
                self._pipeline.ask(CMD_CLOSE, self._handle)

    def write(self, data: bytes) -> None:
        """Sends so many requests as the data needs; raises what the server said of earlier ones.

        Raises:
            OSError: an earlier write failed.
        """
        view = memoryview(data)
        for begin in range(0, len(view), self._request):
            piece = view[begin : begin + self._request]
            self._under_way.append(self._pipeline.write(self._handle, self._offset, piece))
            self._offset += len(piece)
            while self._under_way and self._pipeline.answered():
                self._pipeline.answer(self._under_way.popleft())

    def finish(self) -> tuple[OSError | None, int | None]:
        """Flushes and closes the file, in one round trip with what is still under way.

        Returns:
            Why it could not be flushed (fsync@openssh.com; None: it was), and the size that the file has now,
            where the server says it.

        Raises:
            OSError: a write failed, or the file could not be closed.
        """
        flush = self._pipeline.ask(CMD_EXTENDED, "fsync@openssh.com", self._handle)
        size = self._pipeline.ask(CMD_FSTAT, self._handle)
        close = self._pipeline.ask(CMD_CLOSE, self._handle)
        for number in self._under_way:
            self._pipeline.answer(number)
        _, not_flushed = self._try(flush)
        said, _ = self._try(size)
        self._pipeline.answer(close)
        return not_flushed, attributes_of(said).st_size if said is not None else None

    def _try(self, number: int) -> tuple[paramiko.Message | None, OSError | None]:
        try:
            return self._pipeline.answer(number), None
        except TimeoutError:
            raise
        except OSError as error:
            return None, error


class Reading:
    """A remote file that is read from its beginning on, many requests at a time.

    Args:
        link: the connection.
        path: the file.
        size: so many bytes are read.

    Attributes:
        length: bytes of the file, where the server says it.

    Raises:
        OSError: the file can't be opened, or is none.
    """

    def __init__(self, link: Link, path: str, size: int) -> None:
        self._pipeline = Pipeline(link)
        self._handle = _handle(self._pipeline, path, SFTP_FLAG_READ)
        self._request = OPENSSH_REQUEST if link.openssh else OTHER_REQUEST
        self._size, self._asked = size, 0
        self._under_way: deque[tuple[int, int, int]] = deque()
        looked = self._pipeline.ask(CMD_FSTAT, self._handle)
        self._ask_ahead(FIRST)  # a small file comes in the same round trip
        said = self._pipeline.answer(looked)
        self.length = None if said is None else attributes_of(said).st_size

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # nothing was written; what broke it is what counts
            self._pipeline.ask(CMD_CLOSE, self._handle)

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order; fewer than were to be read if the file ends before.

        Raises:
            OSError: the server said no.
        """
        most = FIRST
        while self._asked < self._size or self._under_way:
            self._ask_ahead(most)
            number, offset, length = self._under_way.popleft()
            while piece := self._pipeline.data(number):
                yield piece
                offset, length = offset + len(piece), length - len(piece)
                if length <= 0:
                    break
                # A server may give less than it is asked for, and will do so again.
                self._request = min(self._request, max(len(piece), OTHER_REQUEST))
                number = self._pipeline.ask(CMD_READ, self._handle, int64(offset), length)
            else:
                return
            most = AT_A_TIME

    def _ask_ahead(self, most: int) -> None:
        while len(self._under_way) < most and self._asked < self._size:
            length = min(self._request, self._size - self._asked)
            number = self._pipeline.ask(CMD_READ, self._handle, int64(self._asked), length)
            self._under_way.append((number, self._asked, length))
            self._asked += length


def _handle(pipeline: Pipeline, path: str, flags: int) -> bytes:
    opened = pipeline.answer(pipeline.ask(CMD_OPEN, path.encode(), flags, paramiko.SFTPAttributes()))
    if opened is None:
        raise paramiko.SFTPError("a file without a handle")
    return opened.get_binary()
