"""A scripted peer: every byte by hand, so that it can also misbehave."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from tests.making import CT, EXPLICIT, data_set

VERIFICATION = "1.2.840.10008.1.1"
Context = tuple[int, str, list[str]]


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


class Asked(TypedDict, total=False):
    """What an association request says in place of the usual."""

    calling: str
    called: str
    application: str
    version: int
    max_pdu: int


def associate_request(
    contexts: Sequence[Context] = ((1, CT, [EXPLICIT]),),
    *,
    calling: str = "RAW",
    called: str = "FIONA",
    application: str = "1.2.840.10008.3.1.1.1",
    version: int = 1,
    max_pdu: int = 16384,
) -> bytes:
    body = struct.pack(">HH", version, 0)
    body += called.encode("latin-1").ljust(16) + calling.encode("latin-1").ljust(16) + bytes(32)
    body += item(0x10, application.encode())
    for identifier, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, s.encode()) for s in syntaxes)
        body += item(0x20, bytes([identifier, 0, 0, 0]) + inner)
    body += item(0x50, item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3.4"))
    return struct.pack(">BBI", 1, 0, len(body)) + body


def command_set(
    field_: int, message: int, sop_class: str, instance: str = "", *, data: bool = False
) -> bytes:
    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, number, len(value)) + value

    def uid(text: str) -> bytes:
        return text.encode() + b"\0" * (len(text) % 2)

    body = element(0x0002, uid(sop_class)) + element(0x0100, struct.pack("<H", field_))
    body += element(0x0110, struct.pack("<H", message)) + element(0x0700, b"\0\0")
    body += element(0x0800, struct.pack("<H", 0x0000 if data else 0x0101))
    if instance:
        body += element(0x1000, uid(instance))
    return element(0x0000, struct.pack("<I", len(body))) + body


def p_data(context: int, value: bytes, *, command: bool, last: bool = True) -> bytes:
    control = (1 if command else 0) | (2 if last else 0)
    pdv = struct.pack(">IBB", len(value) + 2, context, control) + value
    return struct.pack(">BBI", 4, 0, len(pdv)) + pdv


@dataclass
class Answer:
    """A decoded response, or another PDU."""

    kind: int
    status: int = -1
    body: bytes = b""
    elements: dict[int, bytes] = field(default_factory=dict)


class Raw:
    """One connection."""

    def __init__(self, address: tuple[str, int], timeout: float = 15.0, source: str = "") -> None:
        origin = (source, 0) if source else None
        self.sock = socket.create_connection(address, timeout=timeout, source_address=origin)
        self.message = 0
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # the peer was killed in between
            self.sock.close()
            raise

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *details: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def receive(self) -> Answer:
        kind, length = struct.unpack(">BxI", self.exactly(6))
        body = self.exactly(length)
        if kind != 4:
            return Answer(kind, body=body)
        elements: dict[int, bytes] = {}
        raw, at = body[6:], 0
        while at < len(raw):
            number, size = struct.unpack_from("<xxHI", raw, at)
            elements[number] = raw[at + 8 : at + 8 + size]
            at += 8 + size
        return Answer(kind, struct.unpack("<H", elements[0x0900])[0], body, elements)

    def closed(self) -> bool:
        """Whether the other side closes now, without sending anything more."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def associate(
        self, contexts: Sequence[Context] = ((1, CT, [EXPLICIT]),), **keywords: Unpack[Asked]
    ) -> Answer:
        self.send(associate_request(contexts, **keywords))
        return self.receive()

    def store(
        self,
        instance: str,
        data: bytes | None = None,
        *,
        sop_class: str = CT,
        context: int = 1,
        step: int = 16000,
    ) -> Answer:
        data = data_set(instance) if data is None else data
        self.message += 1
        self.send(p_data(context, command_set(1, self.message, sop_class, instance, data=True), command=True))
        for at in range(0, len(data), step) or [0]:
            last = at + step >= len(data)
            self.send(p_data(context, data[at : at + step], command=False, last=last))
        return self.receive()

    def echo(self, context: int = 1) -> Answer:
        self.message += 1
        self.send(p_data(context, command_set(0x30, self.message, VERIFICATION), command=True))
        return self.receive()

    def release(self) -> Answer:
        self.send(struct.pack(">BBII", 5, 0, 4, 0))
        return self.receive()
