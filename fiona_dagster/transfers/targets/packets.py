"""SSH packets of what is uploaded, made with as few copies as AES-GCM allows (RFC 4253 section 6, RFC 5647).

paramiko copies a packet six times on its way, asks the system for random bytes for each and hands each to the
socket alone. Here several packets are encrypted from where their data lie into one buffer, and sent at once.
Other ciphers, and everything else that an SSH connection says, go paramiko's way. Belongs here: bytes of
packets. Stays out: what is sent (``targets.pipeline``).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Any, cast

import paramiko
from paramiko.common import MSG_CHANNEL_DATA
from paramiko.packet import Packetizer

TAG = 16
"""Bytes of the authentication tag behind each packet (RFC 5647 section 6)."""
OVERHEAD = 64
"""Bytes that paramiko leaves free of a peer's largest packet."""
AT_ONCE = 16
"""Packets that are made before they are sent; bounds the buffer."""
RECEIVED = 128 * 1024
"""Bytes that are taken from the socket at a time."""
AT_FIRST = 64
"""Answers that are acknowledged at once: those to the handshake, to signing in and to opening the session."""
RANDOM = 4096
"""Bytes of padding that are asked for at a time."""
_BLOCK = 16
_LENGTH = struct.Struct(">I")
_CHANNEL_DATA = struct.Struct(">BII")


class Batch:
    """Messages that are sent one behind the other, each in a packet of its own.

    Args:
        messages: each as the parts that it consists of.
    """

    def __init__(self, messages: Sequence[Sequence[bytes | memoryview]]) -> None:
        self.messages = messages


class _Received:
    """A socket from which as much is taken at a time as is there: paramiko asks twice for each packet.

    Args:
        sock: connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.send, self.close = sock.send, sock.close
        self._sock = sock
        self._data = memoryview(bytearray(RECEIVED))
        self._begin = self._end = 0
        self._prompt = AT_FIRST if sock.family in (socket.AF_INET, socket.AF_INET6) else 0

    def recv(self, count: int) -> bytes:
        """At most so many bytes; none at the end of the connection."""
        if self._begin == self._end:
            self._begin, self._end = 0, self._sock.recv_into(self._data)
            if self._prompt:
                # sshd leaves Nagle on until the session is there, and would wait 40 ms for our delayed ACK.
                self._prompt -= 1
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        begin = self._begin
        self._begin = min(begin + count, self._end)
        return bytes(self._data[begin : self._begin])


class Packets(Packetizer):
    """What Packetizer does, and :class:`Batch` besides.

    Args:
        sock: connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(cast(socket.socket, _Received(sock)))
        self._gcm: Any = None
        self._fixed, self._invocation = b"", 0
        self._sent = self._count = 0
        self._random, self._random_used = b"", 0
        self._lock = threading.RLock()
        self._clear = bytearray()
        self._sealed = bytearray()

    def set_outbound_cipher(self, block_engine: Any, *arguments: Any, **named: Any) -> None:
        """See paramiko; called when keys are exchanged, first and again."""
        super().set_outbound_cipher(block_engine, *arguments, **named)
        self._gcm = block_engine if named.get("aead") else None
        if self._gcm is not None:
            # The nonce: 4 bytes that stay and a counter of 8 bytes (RFC 5647 section 7.1).
            nonce: bytes = named["iv_out"]
            self._fixed, self._invocation = nonce[:4], int.from_bytes(nonce[4:], "big")
            self._sent = self._count = 0

    def send_message(self, data: Any) -> None:
        """Sends a message of paramiko's, or a :class:`Batch`."""
        messages = data.messages if isinstance(data, Batch) else None
        if self._gcm is None:
            for message in messages or ():
                super().send_message(paramiko.Message(b"".join(message)))
            if messages is None:
                super().send_message(data)
            return
        with self._lock:
            if messages is None:
                messages = [[data.asbytes()]]
            size = self._seal(messages)
            self.write_all(memoryview(self._sealed)[:size])
            self._sent += size
            self._count += len(messages)
            if (
                self._sent >= self.REKEY_BYTES or self._count >= self.REKEY_PACKETS
            ) and not self.need_rekey():
                self._trigger_rekey()  # type: ignore[attr-defined]

    def _seal(self, messages: Sequence[Sequence[bytes | memoryview]]) -> int:
        """Encrypts messages into the buffer; returns how many bytes of it they take."""
        sizes = [sum(map(len, message)) for message in messages]
        if len(self._sealed) < sum(sizes) + len(sizes) * (OVERHEAD + TAG):
            self._sealed = bytearray(sum(sizes) + len(sizes) * (OVERHEAD + TAG))
        if len(self._clear) < max(sizes) + OVERHEAD:
            self._clear = bytearray(max(sizes) + OVERHEAD)
        clear, sealed = memoryview(self._clear), memoryview(self._sealed)
        at = 0
        for message, size in zip(messages, sizes, strict=True):
            # At least four bytes, up to a whole block (RFC 4253 section 6); the length is not encrypted.
            padding = 3 + _BLOCK - (size + 4) % _BLOCK
            length = 1 + size + padding
            clear[0] = padding
            end = 1
            for part in message:
                begin, end = end, end + len(part)
                clear[begin:end] = part
            clear[end:length] = self._padding(padding)
            _LENGTH.pack_into(sealed, at, length)
            nonce = self._fixed + self._invocation.to_bytes(8, "big")
            self._gcm.encrypt_into(
                nonce, clear[:length], sealed[at : at + 4], sealed[at + 4 : at + 4 + length + TAG]
            )
            self._invocation += 1
            at += 4 + length + TAG
        return at

    def _padding(self, size: int) -> bytes:
        """Random bytes that were not used before; the system is asked for many at a time."""
        if len(self._random) - self._random_used < size:
            self._random, self._random_used = os.urandom(RANDOM), 0
        begin, self._random_used = self._random_used, self._random_used + size
        return self._random[begin : self._random_used]


def send_all(channel: paramiko.Channel, head: bytes, data: memoryview) -> None:
    """Sends bytes over a channel, as its ``sendall`` does; waits while the peer's window is full.

    Args:
        channel: of a transport with :class:`Packets`.
        head: what comes first, shorter than a packet.
        data: what follows.

    Raises:
        TimeoutError: the window stays full.
        OSError: the channel is closed.
    """
    inside: Any = channel  # paramiko has no public calls for its windows
    largest = inside.out_max_packet_size - OVERHEAD
    position, left = 0, len(head) + len(data)
    while left:
        messages: list[list[bytes | memoryview]] = []
        with inside.lock:
            # Waits for the first packet; those that have room as well go with it.
            while (
                left
                and len(messages) < AT_ONCE
                and (not messages or inside.out_window_size >= min(left, largest))
            ):
                size = 0 if inside.closed else inside._wait_for_send_window(min(left, largest))
                if not size:
                    raise OSError("the channel is closed")
                message: list[bytes | memoryview] = [
                    _CHANNEL_DATA.pack(MSG_CHANNEL_DATA, inside.remote_chanid, size)
                ]
                if position < len(head):
                    message.append(head[position : position + size])
                if position + size > len(head):
                    message.append(data[max(position - len(head), 0) : position + size - len(head)])
                messages.append(message)
                position += size
                left -= size
        inside.transport._send_user_message(Batch(messages))
