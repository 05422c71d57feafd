"""SSH packets that are made by ourselves: paramiko's own reader understands them, whatever their sizes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import paramiko
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from paramiko.packet import Packetizer

from fiona_dagster.transfers.targets import packets
from fiona_dagster.transfers.targets.packets import Batch, Packets

KEY, NONCE = b"k" * 16, b"abcd" + (2**32 - 2).to_bytes(8, "big")


@contextmanager
def connected(*, sealed: bool = True) -> Iterator[tuple[Packets, Packetizer, socket.socket]]:
    """Ours, and paramiko's at the other end, with the same keys."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(0.1)  # as paramiko has it: sends may be partial
        there.settimeout(0.1)
        ours, theirs = Packets(here), Packetizer(there)
        ours._initial_kex_done = theirs._initial_kex_done = True  # type: ignore[attr-defined]
        if sealed:
            ours.set_outbound_cipher(AESGCM(KEY), 16, None, 16, b"", aead=True, iv_out=NONCE)
            engine: Any = AESGCM(KEY)
            theirs.set_inbound_cipher(engine, 16, cast(Any, None), 16, b"", aead=True, iv_in=NONCE)
        yield ours, theirs, there


def read(theirs: Packetizer, count: int) -> list[bytes]:
    got = []
    for _ in range(count):
        kind, message = theirs.read_message()
        got.append(bytes([kind]) + message.get_remainder())
    return got


@pytest.mark.parametrize("sealed", [True, False], ids=["gcm", "paramiko's way"])
@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=6))
def test_every_packet_is_read_as_it_was_meant(sealed: bool, sizes: list[list[int]]) -> None:
    messages = [[os.urandom(size) for size in message] for message in sizes]
    with connected(sealed=sealed) as (ours, theirs, _):
        ours.send_message(paramiko.Message(b"\x05before"))
        ours.send_message(Batch([[memoryview(part) for part in message] for message in messages]))
        ours.send_message(paramiko.Message(b"\x06behind"))
        got = read(theirs, len(messages) + 2)
    assert got == [b"\x05before", *(b"".join(message) for message in messages), b"\x06behind"]


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8), room=st.integers(1, 500))
def test_what_comes_is_read_however_it_is_cut(sizes: list[int], room: int) -> None:
    messages = [b"\x5e" + os.urandom(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch, connected(sealed=False) as (_, theirs, _):
        patch.setattr(packets, "RECEIVED", room)
        here, again = socket.socketpair()
        with here, again:
            here.settimeout(0.1)
            reader = Packets(here)
            again.sendall(b"SSH-2.0-other\r\n")
            assert reader.readline(1) == "SSH-2.0-other"
            theirs._Packetizer__socket = again  # type: ignore[attr-defined]
            for message in messages:
                theirs.send_message(paramiko.Message(message))
            assert read(reader, len(messages)) == messages
            again.close()
            with pytest.raises(EOFError):
                reader.read_message()


def test_a_batch_larger_than_the_socket_takes_at_once() -> None:
    messages = [[os.urandom(32_000), os.urandom(700)] for _ in range(64)]
    with connected() as (ours, theirs, _):
        sender = threading.Thread(target=ours.send_message, args=(Batch(messages),))
        sender.start()
        got = read(theirs, len(messages))
        sender.join()
    assert got == [b"".join(message) for message in messages]


def test_a_changed_byte_is_noticed() -> None:
    with connected() as (ours, theirs, there):
        ours.send_message(Batch([[b"\x5e" + bytes(100)]]))
        data = bytearray(there.recv(1000))
        data[30] ^= 1
        here, again = socket.socketpair()
        with here, again:
            again.settimeout(1)
            theirs._Packetizer__socket = again  # type: ignore[attr-defined]
            here.sendall(data)
            with pytest.raises(InvalidTag):
                theirs.read_message()


def test_no_nonce_is_used_twice_and_new_keys_begin_their_own() -> None:
    used: list[bytes] = []

    class Engine:
        def __init__(self, key: bytes) -> None:
            self._real = AESGCM(key)

        def encrypt_into(self, nonce: bytes, data: bytes, associated: bytes, into: memoryview) -> int:
            used.append(bytes(nonce))
            return self._real.encrypt_into(nonce, data, associated, into)

    with connected() as (ours, theirs, _):
        ours.set_outbound_cipher(Engine(KEY), 16, None, 16, b"", aead=True, iv_out=NONCE)
        ours.send_message(Batch([[b"\x5e1"], [b"\x5e2"], [b"\x5e3"]]))
        ours.send_message(paramiko.Message(b"\x5e4"))
        assert read(theirs, 4) == [b"\x5e1", b"\x5e2", b"\x5e3", b"\x5e4"]
        assert len(set(used)) == 4
        assert [int.from_bytes(nonce[4:], "big") - 2**32 for nonce in used] == [-2, -1, 0, 1]
        ours.set_outbound_cipher(Engine(KEY[::-1]), 16, None, 16, b"", aead=True, iv_out=b"wxyz" + bytes(8))
        ours.send_message(Batch([[b"\x5e5"]]))
        assert used[-1] == b"wxyz" + bytes(8)


def test_new_keys_are_asked_for_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packets, "REKEY_BYTES", 1000)
    with connected() as (ours, theirs, _):
        ours.send_message(Batch([[b"\x5e" + bytes(500)]]))
        assert not ours.need_rekey()
        ours.send_message(Batch([[b"\x5e" + bytes(500)]]))
        assert ours.need_rekey()
        read(theirs, 2)
