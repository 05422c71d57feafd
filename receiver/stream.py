"""Reads a socket through one buffer that is used again and again: bytes are seen, not collected."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

BUFFER = 256 * 1024
_STRANGER = 8 * 1024
"""Buffer of a connection that is no association yet: a flood has many of them."""
_SMALL = 32 * 1024
_WORTH = 64 * 1024
"""Free bytes at the buffer's end that make one more read worth while before it is emptied."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_TIMEVAL = struct.Struct("@ll")


class PeerGone(Exception):
    """The connection was closed or broke."""


class PeerSilent(Exception):
    """Nothing, or too little, came within the limit."""


class Stream:
    """The receiving half of a connection.

    Args:
        sock: connected socket.
        before_refill: called before the buffer is written over, so that who holds views uses them now.

    Attributes:
        until: when a whole message must be here, on the monotonic clock; 0 for no such limit.
    """

    def __init__(self, sock: socket.socket, before_refill: Callable[[], None]) -> None:
        self._sock = sock
        # The kernel keeps the time of a plain connection; Python would ask it before every single read.
        self._kernel_keeps_time = type(sock) is socket.socket
        if self._kernel_keeps_time:
            sock.settimeout(None)
        self._before_refill = before_refill
        self._view = memoryview(bytearray(_STRANGER))
        self._worth = _STRANGER // 4
        self._start = 0
        self._end = 0
        self._idle = 60.0
        self._deadline = 0.0
        self.until = 0.0
        self._timeout = 0.0

    def grow(self) -> None:
        """Takes a buffer that is worth it for objects; strangers get a small one."""
        rest = self._view[self._start : self._end]
        self._view = memoryview(bytearray(BUFFER))
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
        self._worth = _WORTH

    def limit(self, idle: float, deadline: float | None) -> None:
        """Sets the limits for what is read from now on.

        Args:
            idle: seconds without a single byte.
            deadline: seconds from now until which reading must be done (against peers that trickle);
                None for no such limit.
        """
        self._idle = idle
        self._deadline = time.monotonic() + deadline if deadline else 0.0

    def seen(self) -> None:
        """Nobody holds a view any more: what was taken may be written over at once."""
        if self._start == self._end:
            self._start = self._end = 0

    def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            PeerGone: the connection broke.
            PeerSilent: the peer did not take it within the limit for silence.
        """
        try:
            if self._timeout < self._idle:
                self._set_timeout(self._idle)
            self._sock.sendall(data)
        except (TimeoutError, BlockingIOError):
            raise PeerSilent from None
        except OSError:
            raise PeerGone from None

    def look(self, count: int) -> memoryview | None:
        """The next ``count`` bytes, which are not taken; None if not all of them are here after one read."""
        if self._start == self._end:
            self._refill()
        stop = self._start + count
        return self._view[self._start : stop] if stop <= self._end else None

    def skip(self, count: int) -> None:
        """Takes bytes that were looked at."""
        self._start += count

    def _make_room(self) -> None:
        """Lets go of what was seen; small objects so go to their file as a whole."""
        if self._end + self._worth <= len(self._view):
            return
        self._before_refill()
        left = self._end - self._start
        if self._start:
            self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left

    def _wait(self) -> None:
        """Sets the time limit of the next read: a system call, so only when it has changed."""
        wait = self._idle
        for end in (self._deadline, self.until):
            if end:
                wait = min(wait, end - time.monotonic())
        if wait <= 0:
            raise PeerSilent
        if not 0.9 * self._timeout < wait <= self._timeout:
            self._set_timeout(wait)

    def _set_timeout(self, seconds: float) -> None:
        if self._kernel_keeps_time:
            whole = int(seconds)
            packed = _TIMEVAL.pack(whole, max(int((seconds - whole) * 1e6), 1))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)
        else:
            self._sock.settimeout(seconds)
        self._timeout = seconds

    def _refill(self) -> None:
        self._make_room()
        try:
            self._wait()
            count = self._sock.recv_into(self._view[self._end :])
            if _QUICKACK is not None and count < _SMALL:
                # Many senders leave Nagle's algorithm on: they wait for this acknowledgement before they
                # send the rest of an object, and we would hold it back for 40 ms (traps, performance.md).
                self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        except (TimeoutError, BlockingIOError):
            raise PeerSilent from None
        except OSError:
            raise PeerGone from None
        if not count:
            raise PeerGone
        self._end += count

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next bytes, decoded; a header."""
        while self._end - self._start < layout.size:
            self._refill()
        at = self._start
        self._start = at + layout.size
        return layout.unpack_from(self._view, at)

    def take_long(self, count: int) -> bytes:
        """Exactly ``count`` bytes, however many; they are collected."""
        parts: list[bytes] = []
        while count:
            part = bytes(self.chunk(count))
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def chunk(self, limit: int) -> memoryview:
        """What is there of the next ``limit`` bytes, at least one; valid until ``before_refill``."""
        if self._start == self._end:
            self._refill()
        stop = min(self._end, self._start + limit)
        view = self._view[self._start : stop]
        self._start = stop
        return view

    def drain(self, seconds: float) -> None:
        """Waits until the peer closes, and forgets what it still sends."""
        self.limit(seconds, seconds)
        try:
            while True:
                self._start = self._end = 0
                self._refill()
        except (PeerGone, PeerSilent):
            return
