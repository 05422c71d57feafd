"""The connection under an association that we ask for: bytes out, PDUs in, every wait bounded."""

from __future__ import annotations

import os
import socket
import struct
import time

from fiona_dagster.dicom import pdu
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import PeerNotTrusted, PeerUnavailable

_READ = 16 * 1024
_VECTORS = 512
_RECORDS = 256 * 1024
"""Bytes that are handed to TLS at a time."""
_TIMEVAL = struct.Struct("@ll")


class Broken(Exception):
    """The association is gone.

    Attributes:
        timed_out: the peer was silent; otherwise it ended the association, or what it said made no sense.
        aborted: the peer ended it by an A-ABORT.
    """

    def __init__(self, why: str, *, timed_out: bool = False, aborted: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out
        self.aborted = aborted


class Wire:
    """A connected socket, plain or with TLS.

    Args:
        sock: connected.
        seconds: how long any single wait may take.

    Attributes:
        plain: no TLS is on it.
    """

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._socket = sock
        self._pending = bytearray()
        self._timeout = 0.0
        self.plain = type(sock) is socket.socket
        if self.plain:
            sock.settimeout(None)  # the kernel keeps the time: one system call less each
        self.set_timeout(seconds)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def send(self, parts: list[memoryview], deadline: float) -> None:
        """Sends all parts, one behind the other.

        Args:
            parts: what; each at least one byte.
            deadline: when all must be out, on the monotonic clock.

        Raises:
            Broken: the peer takes nothing more, takes too long, or the connection broke.
        """
        try:
            if not self.plain:
                self._send_joined(parts, deadline)
                return
            for start in range(0, len(parts), _VECTORS):
                more = socket.MSG_MORE if start + _VECTORS < len(parts) else 0
                self._send_some(parts[start : start + _VECTORS], deadline, more)
        except (TimeoutError, BlockingIOError):
            raise Broken("the peer takes nothing more", timed_out=True) from None
        except OSError:
            raise Broken("the connection broke") from None

    def _send_some(self, parts: list[memoryview], deadline: float, flags: int) -> None:
        left = sum(map(len, parts))
        while True:
            sent = self._socket.sendmsg(parts, (), flags)
            left -= sent
            if not left:
                return
            self._in_time(deadline)
            done = 0
            while sent >= len(parts[done]):
                sent -= len(parts[done])
                done += 1
            parts = [parts[done][sent:], *parts[done + 1 :]]

    def _send_joined(self, parts: list[memoryview], deadline: float) -> None:
        """TLS has no vectors: small parts go together, so that a record is worth its price."""
        some: list[memoryview] = []
        size = 0
        for part in parts:
            some.append(part)
            size += len(part)
            if size >= _RECORDS:
                self._socket.sendall(b"".join(some))
                some, size = [], 0
                self._in_time(deadline)
        self._socket.sendall(b"".join(some))

    def _in_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise Broken("the peer takes too long", timed_out=True)

    def set_timeout(self, seconds: float) -> None:
        """Sets how long any single wait may take from now on."""
        if seconds == self._timeout:
            return
        self._timeout = seconds
        if not self.plain:
            self._socket.settimeout(seconds)
            return
        packed = _TIMEVAL.pack(int(seconds), max(int(seconds % 1 * 1e6), 1))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)

    def next_pdu(self, deadline: float, largest: int) -> tuple[int, bytes]:
        """Type and body of the next PDU.

        Args:
            deadline: when it must be here, on the monotonic clock.
            largest: bytes of a body that are read.

        Raises:
            Broken: it did not come in time, is longer, or is none.
        """
        self._fill(6, deadline)
        kind, length = self._pending[0], int.from_bytes(self._pending[2:6], "big")
        if not pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT or length > largest:
            raise Broken("the peer does not speak DICOM, or sends longer PDUs than agreed")
        self._fill(6 + length, deadline)
        body = bytes(self._pending[6 : 6 + length])
        del self._pending[: 6 + length]
        return kind, body

    def _fill(self, count: int, deadline: float) -> None:
        while len(self._pending) < count:
            try:
                data = self._socket.recv(_READ)
            except (TimeoutError, BlockingIOError):
                raise Broken("no answer in time", timed_out=True) from None
            except OSError as error:  # in TLS 1.3 a peer refuses our certificate after the handshake
                raise Broken(_plain(error)) from None
            if not data:
                raise Broken("the peer closed the connection")
            self._pending += data
            if len(self._pending) < count and time.monotonic() > deadline:
                raise Broken("no answer in time", timed_out=True)


def connect(peer: Peer) -> socket.socket:
    """A connection to a peer, with TLS where that is configured.

    Raises:
        PeerUnavailable: it can't be had now.
        PeerNotTrusted: the peer's certificate is not accepted.
        ConfigurationError: the files for TLS can't be used.
    """
    context = peer.tls.context() if peer.tls is not None else None
    try:
        plain = socket.create_connection((peer.host, peer.port), timeout=peer.timeout)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else "no answer in time"
        raise PeerUnavailable(
            f"{peer.name}: no connection ({why}); check host, port and that it runs"
        ) from None
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is None or peer.tls is None:
        return plain
    import ssl

    try:
        return context.wrap_socket(plain, server_hostname=peer.tls.server_name or peer.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise PeerNotTrusted(
            f"{peer.name}: its certificate is not accepted ({error.verify_message}); nothing was sent: "
            "compare it with tls.ca_file and tls.server_name of the target"
        ) from None
    except OSError as error:
        plain.close()
        raise PeerUnavailable(f"{peer.name}: no TLS ({_plain(error)})") from None


def _plain(error: OSError) -> str:
    """OpenSSL's word for it, if it is its error; ``ssl`` is imported only where there is TLS."""
    return str(getattr(error, "reason", None) or "the connection broke").lower().replace("_", " ")
