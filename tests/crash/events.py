"""What a traced program asks of the kernel, as records."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """The entry into a system call, or the return from it.

    Attributes:
        at: ``entry`` (nothing has happened yet) or ``exit``.
        name: of the call, without word sizes.
        thread: id of the thread.
        process: id of its process.
        paths: what it acts on, relative to the data root: path arguments, or where the descriptor's file
            was when the call was entered. What lies outside of the data root is absolute.
        result: of the call, at exit; negative error numbers.
        flags: of an open, rename, unlink, flock.
        data: written or sent bytes (at entry and exit), or read bytes (at exit).
        offset: where in the file the bytes went, at the exit of a write.
        length: of a truncation or an allocation.
        inode: (device, inode) of the file that was opened, written, flushed, or linked by its descriptor;
            (0, 0) otherwise.
        socket: the descriptor is a socket; ``paths`` names it.
    """

    at: str
    name: str
    thread: int
    process: int
    paths: tuple[str, ...] = ()
    result: int = 0
    flags: int = 0
    data: bytes = b""
    offset: int = 0
    length: int = 0
    inode: tuple[int, int] = (0, 0)
    socket: bool = False

    @property
    def path(self) -> str:
        return self.paths[0] if self.paths else ""

    @property
    def ok(self) -> bool:
        """It has returned without an error."""
        return self.at == "exit" and self.result >= 0

    def __str__(self) -> str:
        result = f" = {self.result}" if self.at == "exit" else ""
        return f"{self.at} {self.name}({', '.join(self.paths)}; {len(self.data)} bytes){result}"


def read_record(path: Path) -> list[Event]:
    """All events of a recording."""

    def events() -> Iterator[Event]:
        with path.open("rb") as file:
            while file.peek(1):
                yield pickle.load(file)  # noqa: S301 - our own tracer wrote it

    return list(events())


@dataclass(frozen=True)
class Answer:
    """A C-STORE-RSP."""

    instance: str
    status: int


def answers(data: bytes) -> list[Answer]:
    """The C-STORE responses in bytes that were sent on an association; each is one whole P-DATA-TF."""
    found = []
    while len(data) >= 6:
        kind, length = struct.unpack_from(">BxI", data)
        body, data = data[6 : 6 + length], data[6 + length :]
        if kind != 4:
            continue
        elements: dict[int, bytes] = {}
        at = 6
        while at + 8 <= len(body):
            number, size = struct.unpack_from("<xxHI", body, at)
            elements[number] = body[at + 8 : at + 8 + size]
            at += 8 + size
        if elements.get(0x0100) == b"\x01\x80":
            (status,) = struct.unpack("<H", elements[0x0900])
            found.append(Answer(elements.get(0x1000, b"").decode().rstrip("\0"), status))
    return found
