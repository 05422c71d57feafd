"""An SFTP subsystem that lies: passes everything to a real sftp-server, but for what a file tells it.

``python lying_sftp.py SFTP_SERVER LIE``. Writes from 1 MB on are answered with success and kept (``keeps
the end``), sizes of the file are told as if they had been written (``and tells its size``), or one byte is
another (``alters a byte``). Of what is to be read it gives a part at a time (``gives less``), or nothing from
1 MB on (``gives no end``).
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FROM = 1_000_000
READ, WRITE, STATUS, ATTRS = 5, 6, 101, 105
PART = 50_000


def packets(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Type and body of each packet."""
    while len(head := stream.read(4)) == 4:
        body = stream.read(struct.unpack(">I", head)[0])
        yield body[0], body[1:]


def main() -> None:
    """Stands between client and server until one of them ends."""
    path = Path(sys.argv[2])
    lie = path.read_text() if path.exists() else ""
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    to_server, from_server = server.stdin, server.stdout
    assert to_server is not None
    assert from_server is not None
    lock, kept = threading.Lock(), 0

    def say(kind: int, body: bytes) -> None:
        with lock:
            sys.stdout.buffer.write(struct.pack(">IB", len(body) + 1, kind) + body)
            sys.stdout.buffer.flush()

    def answers() -> None:
        for kind, body in packets(from_server):
            if kind == ATTRS and kept and lie.endswith("tells its size"):
                number, flags, size = struct.unpack(">IIQ", body[:16])
                say(kind, struct.pack(">IIQ", number, flags, size + kept) + body[16:])
            else:
                say(kind, body)
        os._exit(0)

    threading.Thread(target=answers, daemon=True).start()
    for kind, body in packets(sys.stdin.buffer):
        alter = 0
        if kind == READ and lie.startswith("gives"):
            offset, size = struct.unpack(">QI", body[-12:])
            if lie == "gives less":
                size = min(size, PART)
            elif offset >= FROM:
                offset = 2**40
            to_server.write(
                struct.pack(">IB", len(body) + 1, kind) + body[:-12] + struct.pack(">QI", offset, size)
            )
            to_server.flush()
            continue
        if kind == WRITE and lie:
            begin = 8 + int(struct.unpack(">I", body[4:8])[0])
            offset, size = struct.unpack(">QI", body[begin : begin + 12])
            if offset >= FROM and lie.startswith("keeps the end"):
                kept += size
                say(STATUS, body[:4] + struct.pack(">III", 0, 0, 0))
                continue
            alter = int(offset >= FROM and lie.startswith("alters"))
        to_server.write(struct.pack(">IB", len(body) + 1, kind) + body[:-1] + bytes([body[-1] ^ alter]))
        to_server.flush()
    to_server.close()
    server.wait()


if __name__ == "__main__":
    main()
