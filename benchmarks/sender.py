"""A small fast sender, the same for every receiver: replays stored bytes, one object after the other.

``python -m benchmarks.sender HOST PORT FILE...`` loads all, says ``ready``, waits for a line, sends, and
says how many were answered with Success.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path

from fiona_dagster.dicom import dimse, read_file_meta
from fiona_dagster.dicom.pdu import ASSOCIATE_AC

_LARGEST = 131072
"""What dcmtk's own senders top out at."""
_VECTORS = 512


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def associate_request(sop_class: str, syntax: str) -> bytes:
    """An A-ASSOCIATE-RQ with one presentation context."""
    context = bytes([1, 0, 0, 0]) + _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode())
    user = _item(0x51, struct.pack(">I", _LARGEST)) + _item(0x52, b"1.2.826.0.1.3680043.10.1513")
    body = struct.pack(">HH", 1, 0) + b"ANY-SCP".ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x20, context) + _item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _uid(number: int, value: str) -> bytes:
    raw = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(raw)) + raw


def store_request(message: int, sop_class: str, instance: str) -> bytes:
    """A P-DATA-TF with a C-STORE-RQ."""
    body = _uid(0x0002, sop_class) + struct.pack("<HHIH", 0, 0x0100, 2, dimse.C_STORE_RQ)
    body += struct.pack("<HHIH", 0, 0x0110, 2, message) + struct.pack("<HHIH", 0, 0x0700, 2, 0)
    body += struct.pack("<HHIH", 0, 0x0800, 2, 1) + _uid(0x1000, instance)
    body = struct.pack("<HHII", 0, 0, 4, len(body)) + body
    return struct.pack(">BBIIBB", 4, 0, len(body) + 6, len(body) + 2, 1, 3) + body


class Sender:
    """One association."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=600)
        self._socket.settimeout(None)  # MSG_WAITALL needs a socket that blocks
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._step = _LARGEST - 6
        self._message = 0

    def _exactly(self, count: int) -> bytes:
        data = self._socket.recv(count, socket.MSG_WAITALL)
        if len(data) < count:
            raise ConnectionError("the receiver closed the connection")
        return data

    def _receive(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def associate(self, sop_class: str, syntax: str) -> None:
        """Opens the association; heeds the largest PDU that the receiver takes."""
        self._socket.sendall(associate_request(sop_class, syntax))
        kind, body = self._receive()
        if kind != ASSOCIATE_AC:
            raise ConnectionError(f"the receiver answered the association with PDU type {kind}")
        at = body.index(b"\x51\x00\x00\x04")
        largest = struct.unpack_from(">I", body, at + 4)[0] or _LARGEST
        self._step = min(largest, _LARGEST) - 6

    def message(self, sop_class: str, instance: str, data: bytes) -> list[bytes | memoryview]:
        """All PDUs of one C-STORE as pieces, without copying the data set."""
        self._message += 1
        view = memoryview(data)
        parts: list[bytes | memoryview] = [store_request(self._message, sop_class, instance)]
        for at in range(0, len(data), self._step):
            part = view[at : at + self._step]
            last = 2 if at + self._step >= len(data) else 0
            parts += (struct.pack(">BBIIBB", 4, 0, len(part) + 6, len(part) + 2, 1, last), part)
        return parts

    def store(self, parts: list[bytes | memoryview]) -> int:
        """Sends one message and returns the status of its answer."""
        for start in range(0, len(parts), _VECTORS):
            block = parts[start : start + _VECTORS]
            wanted = sum(map(len, block))
            sent = self._socket.sendmsg(block)
            while sent < wanted:
                for at, part in enumerate(block):
                    if sent < len(part):
                        block = [memoryview(part)[sent:], *block[at + 1 :]]
                        break
                    sent -= len(part)
                wanted = sum(map(len, block))
                sent = self._socket.sendmsg(block)
        _, body = self._receive()
        at = 6
        while at < len(body):
            number, length = struct.unpack_from("<xxHI", body, at)
            if number == 0x0900:
                return int(struct.unpack_from("<H", body, at + 8)[0])
            at += 8 + length
        raise ConnectionError("the receiver answered without a status")

    def release(self) -> None:
        """Ends the association in order."""
        self._socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
        self._receive()
        self._socket.close()


def main(host: str, port: str, names: list[str]) -> None:
    """One association with all files; see the module."""
    loaded = []
    for name in names:
        with Path(name).open("rb") as file:
            meta = read_file_meta(file)
            file.seek(meta.data_set_offset)
            loaded.append((meta, file.read()))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    sender = Sender(host, int(port))
    sender.associate(loaded[0][0].sop_class, loaded[0][0].transfer_syntax)
    stored = sum(
        sender.store(sender.message(meta.sop_class, meta.sop_instance, data)) == 0 for meta, data in loaded
    )
    sender.release()
    sys.stdout.write(f"{stored}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
