"""A scripted acceptor on loopback: reads what a requestor sends, and answers with whatever it is told."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from fiona_dagster.dicom import dimse, pdu


class Acceptor:
    """Serves each connection by ``script(connection, number)`` in a thread of its own."""

    def __init__(self, script: Callable[[Connection, int], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Acceptor:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock, contextlib.suppress(OSError, EOFError):
            self._script(Connection(sock), number)


class Connection:
    """The acceptor's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.largest = 0

    def read(self) -> tuple[int, bytes]:
        """One PDU."""
        kind, length = struct.unpack(">BxI", self._exactly(6))
        self.largest = max(self.largest, length) if kind == pdu.P_DATA else self.largest
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def accept(self, max_pdu: int = 16384, result: int = pdu.ACCEPTED, syntax: str = "") -> None:
        """Answers an association."""
        _, body = self.read()
        request = pdu.decode_associate_request(body)
        answers = [
            pdu.AnsweredContext(each.identifier, result, syntax or each.transfer_syntaxes[0])
            for each in request.contexts
        ]
        self.sock.sendall(pdu.encode_associate_accept(request, answers, max_pdu))

    def message(self) -> tuple[dimse.Command, bytes]:
        """One C-STORE: command and data set."""
        command, data = b"", b""
        while True:
            kind, body = self.read()
            if kind != pdu.P_DATA:
                raise EOFError
            for control, part in pdu.data_values(body):
                if control & 1:
                    command += part
                else:
                    data += part
                if control == 2:
                    return dimse.decode_command(command), data

    def respond(self, command: dimse.Command, status: int, max_pdu: int = 0) -> None:
        """Answers it."""
        self.sock.sendall(pdu.encode_command(1, dimse.encode_response(command, status), max_pdu))
