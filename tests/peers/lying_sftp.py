"""An SFTP subsystem that lies: passes everything to a real sftp-server, but for what a file tells it.

``python lying_sftp.py SFTP_SERVER LIE``. Writes from 1 MB on are answered with success and kept (``keeps
the end``), sizes of the file are told as if they had been written (``and tells its size``), or one byte is
another (``alters a byte``). Of what is to be read it gives a part at a time (``gives less``), or nothing from
1 MB on (``gives no end``). What was written is cut to half once it is closed (``cuts what it closed``) or
has its name (``cuts what it named``). It renames and says nothing more (``renames and falls silent``).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

FROM = 1_000_000
OPEN, CLOSE, READ, WRITE, SETSTAT, FSETSTAT, RENAME, EXTENDED = 3, 4, 5, 6, 9, 10, 18, 200
STATUS, HANDLE, ATTRS = 101, 102, 105
OURS = 0xFFFFFFFF
"""Number of a request that the client did not make."""
PART = 50_000


def packets(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Type and body of each packet."""
    while len(head := stream.read(4)) == 4:
        body = stream.read(struct.unpack(">I", head)[0])
        yield body[0], body[1:]


def text_at(body: bytes, at: int) -> bytes:
    """The string at a place of a packet (draft-ietf-secsh-filexfer-02, section 3)."""
    (length,) = struct.unpack(">I", body[at : at + 4])
    return body[at + 4 : at + 4 + int(length)]


class Liar:
    """Stands between client and server until one of them ends."""

    def __init__(self, server: subprocess.Popen[bytes], lie: str) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._to_server, self._from_server = server.stdin, server.stdout
        self._lie = lie
        self._lock = threading.Lock()
        self._kept = 0
        self._opened: set[bytes] = set()
        self._written: dict[bytes, int] = {}
        self._silent = False

    def say(self, kind: int, body: bytes) -> None:
        """An answer to the client."""
        with self._lock:
            if not self._silent:
                sys.stdout.buffer.write(struct.pack(">IB", len(body) + 1, kind) + body)
                sys.stdout.buffer.flush()

    def pass_on(self, kind: int, body: bytes) -> None:
        """A request to the server."""
        self._to_server.write(struct.pack(">IB", len(body) + 1, kind) + body)
        self._to_server.flush()

    def answers(self) -> None:
        """Everything that the server says."""
        for kind, said in packets(self._from_server):
            body = said
            if body[:4] == struct.pack(">I", OURS):
                continue
            if kind == ATTRS and self._kept and self._lie.endswith("tells its size"):
                number, flags, size = struct.unpack(">IIQ", body[:16])
                body = struct.pack(">IIQ", number, flags, size + self._kept) + body[16:]
            if kind == HANDLE and body[:4] in self._opened:
                self._written[text_at(body, 4)] = 0
            self.say(kind, body)
        os._exit(0)

    def asked(self, kind: int, body: bytes) -> None:
        """Something that the client asks for."""
        if kind == OPEN and body[8 + len(text_at(body, 4)) + 3] & 2:
            self._opened.add(body[:4])
        elif kind == CLOSE:
            self.closed(text_at(body, 4))
        elif kind == READ and self._lie.startswith("gives"):
            offset, size = struct.unpack(">QI", body[-12:])
            if self._lie == "gives less":
                size = min(size, PART)
            elif offset >= FROM:
                offset = 2**40
            body = body[:-12] + struct.pack(">QI", offset, size)
        elif kind == WRITE:
            altered = self.wrote(body)
            if altered is None:
                self.say(STATUS, body[:4] + struct.pack(">III", 0, 0, 0))
                return
            body = altered
        elif self._lie.startswith("renames") and (
            kind == RENAME or (kind == EXTENDED and b"posix-rename" in body)
        ):
            with self._lock:
                self._silent = True
        self.pass_on(kind, body)
        if kind == RENAME and self._lie == "cuts what it named":
            named = text_at(body, 8 + len(text_at(body, 4)))
            self.cut(SETSTAT, named, FROM)

    def closed(self, handle: bytes) -> None:
        """Cuts what was written before it is closed."""
        if self._lie == "cuts what it closed" and self._written.get(handle, 0) > FROM:
            self.cut(FSETSTAT, handle, FROM)

    def cut(self, kind: int, what: bytes, size: int) -> None:
        """A request of our own."""
        head = struct.pack(">II", OURS, len(what))
        self.pass_on(kind, head + what + struct.pack(">IQ", 1, size))

    def wrote(self, body: bytes) -> bytes | None:
        """What is written in place of it; None: nothing."""
        begin = 8 + len(text_at(body, 4))
        offset, size = struct.unpack(">QI", body[begin : begin + 12])
        self._written[text_at(body, 4)] = offset + size
        if offset >= FROM and self._lie.startswith("keeps the end"):
            self._kept += size
            return None
        alter = int(offset >= FROM and self._lie.startswith("alters"))
        return body[:-1] + bytes([body[-1] ^ alter])


def main() -> None:
    """Lies as the file says."""
    path = Path(sys.argv[2])
    lie = path.read_text() if path.exists() else ""
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    liar = Liar(server, lie)
    threading.Thread(target=liar.answers, daemon=True).start()
    for kind, body in packets(sys.stdin.buffer):
        liar.asked(kind, body)
    assert server.stdin is not None
    server.stdin.close()
    server.wait()


if __name__ == "__main__":
    main()
