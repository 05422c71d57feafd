"""The bytes that the crash matrix sends, known to both the sender and the tracer."""

from __future__ import annotations

from tests.making import CT, data_set
from tests.receiver.raw import associate_request, command_set, p_data

INSTANCE = "1.2.3.4"
DATA = data_set(INSTANCE, pixels=b"\x07\x08" * 30_000)
_PIECE = 16_000

REQUEST = associate_request()
COMMAND = p_data(1, command_set(1, 1, CT, INSTANCE, data=True), command=True)


def _pieces() -> list[bytes]:
    return [
        p_data(1, DATA[at : at + _PIECE], command=False, last=at + _PIECE >= len(DATA))
        for at in range(0, len(DATA), _PIECE)
    ]


PIECES = _pieces()
OBJECT = b"".join(PIECES)
