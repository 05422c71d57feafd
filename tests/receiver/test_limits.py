"""Floods, half-open connections and objects without end: others go on, and memory stays bounded."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.dicom.dimse import OUT_OF_RESOURCES
from fiona_dagster.landing import read_journals
from receiver.lobby import Lobby
from tests.making import CT, EXPLICIT, data_set
from tests.receiver.conftest import Process, Start
from tests.receiver.raw import Raw, associate_request, command_set, p_data
from tests.receiver.test_misbehaviour import wait_until, works


@dataclass(eq=False)
class Guest:
    ip: str
    deadline: float = field(default_factory=lambda: time.monotonic() + 60)


def test_the_peer_with_most_guests_loses_its_oldest() -> None:
    lobby = Lobby[Guest](4)
    good, *flood = guests = [Guest("10.0.0.1"), *(Guest("10.0.0.2") for _ in range(4))]
    turned_out = [lobby.enter(guest) for guest in guests]
    assert turned_out == [None, None, None, None, flood[0]]
    assert len(lobby) == 4
    assert not lobby.leave(flood[0])
    assert lobby.leave(good)
    assert not lobby.leave(good)
    assert lobby.enter(Guest("10.0.0.3")) is None
    assert lobby.enter(Guest("10.0.0.3")) is flood[1]


def test_guests_are_late_when_their_time_is_over() -> None:
    lobby = Lobby[Guest](4)
    late = Guest("10.0.0.1", time.monotonic() - 1)
    lobby.enter(Guest("10.0.0.1"))
    lobby.enter(late)
    assert lobby.late() == [late]


def test_an_object_that_is_too_large_is_not_kept(
    root: DataRoot, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = start(max_object_mb=1)
    with Raw(receiver.address) as raw:
        raw.associate()
        answer = raw.store("1.2.3", data_set("1.2.3", pixels=bytes(1_100_000)))
        assert answer.status == OUT_OF_RESOURCES
        assert b"max_object_mb" in answer.elements[0x0902]
        assert raw.store("1.2.4", data_set("1.2.4", pixels=bytes(900_000))).status == 0
        raw.release()
    assert [r.SOPInstanceUID for _, _, r in read_journals(root, {})] == ["1.2.4"]
    files = [path for path in root.path.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000]
    assert not files
    assert "larger than receiver.max_object_mb" in caplog.text


def push(raw: Raw, part: bytes, pause: float) -> None:
    """Sends the same again and again, for much longer than the receiver should bear it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        raw.send(part)
        time.sleep(pause)


def unfinished(root: DataRoot) -> list[str]:
    """Files in the making that hold bytes, with a name or open without one."""
    found = [str(path) for path in (root.archive / ".incoming").rglob("*.part") if path.stat().st_size]
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if ".incoming/" in str(link.readlink()) and link.is_file() and link.stat().st_size:
                found.append(str(link.readlink()))
    return found


@pytest.mark.parametrize("field_", [0x0001, 0x0020])
def test_a_data_set_without_end_is_cut_off(root: DataRoot, start: Start, field_: int) -> None:
    receiver = start(max_object_mb=1)
    with Raw(receiver.address) as raw:
        raw.associate()
        raw.send(p_data(1, command_set(field_, 1, CT, "1.2.3", data=True), command=True))
        part = p_data(1, bytes(100_000), command=False, last=False)
        with pytest.raises(ConnectionError):
            push(raw, part, pause=0.02)
    wait_until(lambda: not unfinished(root))
    works(receiver.address)


def test_an_object_that_trickles_in_small_pdus_ends(root: DataRoot, start: Start) -> None:
    receiver = start(object_seconds=1, idle_seconds=30)
    with Raw(receiver.address) as raw:
        raw.associate()
        raw.send(p_data(1, command_set(1, 1, CT, "1.2.3", data=True), command=True))
        with pytest.raises(ConnectionError):
            push(raw, p_data(1, bytes(2), command=False, last=False), pause=0.1)
    wait_until(lambda: not unfinished(root))


def test_the_time_limit_is_for_one_object_and_not_for_the_association(start: Start) -> None:
    receiver = start(object_seconds=1)
    with Raw(receiver.address) as raw:
        raw.associate()
        for number in range(4):
            assert raw.store(f"1.2.{number}").status == 0
            time.sleep(0.4)


def test_more_contexts_than_the_standard_allows_are_aborted(start: Start) -> None:
    receiver = start()
    contexts = [(2 * n + 1, CT, [EXPLICIT]) for n in range(128)]
    with Raw(receiver.address) as raw:
        assert raw.associate(contexts).kind == pdu.ASSOCIATE_AC
        assert raw.store("1.2.3", context=255).status == 0
    with Raw(receiver.address) as raw:
        answer = raw.associate([*contexts, (1, CT, [EXPLICIT])])
        assert (answer.kind, answer.body[2:]) == (pdu.ABORT, bytes([2, 6]))


def test_a_full_lobby_lets_the_next_one_through(start: Start) -> None:
    receiver = start(max_pending=8, artim_seconds=60)
    slow = [Raw(receiver.address) for _ in range(20)]
    for raw in slow[10:]:
        raw.send(associate_request()[:20])  # it has a thread, and no association
    works(receiver.address)
    assert sum(raw.closed() for raw in slow[:12]) == 12, "the oldest gave way"
    last = slow[-1]
    last.send(associate_request()[20:])
    assert last.receive().kind == pdu.ASSOCIATE_AC
    for raw in slow:
        raw.sock.close()


def test_associations_never_give_way(start: Start) -> None:
    receiver = start(max_pending=2, max_associations=50)
    good = [Raw(receiver.address) for _ in range(2)]
    for raw in good:
        assert raw.associate().kind == pdu.ASSOCIATE_AC
    crowd = [Raw(receiver.address) for _ in range(30)]
    for number, raw in enumerate(good):
        assert raw.store(f"1.2.{number}").status == 0
    for raw in [*good, *crowd]:
        raw.sock.close()


GARBAGE = (
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
    struct.pack(">BBI", 4, 0, 0xFFFFFFFF) + bytes(5000),
    associate_request()[:50],
    associate_request(calling="STRANGER"),
    associate_request() + struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
    b"\x16\x03\x01\x02\x00\x01\x00" + bytes(300),
)


class Flood(threading.Thread):
    """Opens connections as fast as it can and keeps the last hundred open."""

    def __init__(self, address: tuple[str, int], source: str) -> None:
        super().__init__()
        self.count = 0
        self.over = threading.Event()
        self._address, self._source = address, source

    def run(self) -> None:
        kept: list[socket.socket] = []
        while not self.over.is_set():
            try:
                sock = socket.create_connection(self._address, 5, source_address=(self._source, 0))
                sock.setblocking(False)
                sock.send(GARBAGE[self.count % len(GARBAGE)] or b"\0")
                kept.append(sock)
            except OSError:
                continue
            self.count += 1
            if len(kept) > 100:
                kept.pop(0).close()
        for sock in kept:
            sock.close()


@contextmanager
def flooded(address: tuple[str, int], source: str) -> Iterator[list[Flood]]:
    floods = [Flood(address, source) for _ in range(2)]
    for flood in floods:
        flood.start()
    try:
        yield floods
    finally:
        for flood in floods:
            flood.over.set()
        for flood in floods:
            flood.join(30)


def memory_mb(pid: int) -> float:
    """Private memory of a process and its children, MiB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0.0
    for number in (str(pid), *children):
        for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) / 1024
    return total


@pytest.mark.parametrize("source", ["127.0.0.1", "127.0.0.2"])
def test_a_flood_of_garbage_stops_nobody_who_sends(root: DataRoot, process: Process, source: str) -> None:
    """The flood comes from the very address of the good sender, or from another one."""
    address = process.start(processes=2, accept_unknown=False, allowed_callers=["GOOD"], artim_seconds=5)
    with flooded(address, source) as floods:
        wait_until(lambda: sum(flood.count for flood in floods) > 500, 170)
        sent = 0
        for number in range(5):
            with Raw(address, timeout=30) as raw:
                assert raw.associate(calling="GOOD").kind == pdu.ASSOCIATE_AC
                for item in range(8):
                    assert raw.store(f"1.2.{number}.{item}", data_set(f"1.2.{number}.{item}")).status == 0
                    sent += 1
                assert raw.release().kind == pdu.RELEASE_RP
        assert process.process is not None
        assert memory_mb(process.process.pid) < 120
    assert process.terminate() == 0
    assert len({r.SOPInstanceUID for _, _, r in read_journals(root, {})}) == sent
    assert len(process.log.read_text().splitlines()) < 400


def test_who_asks_while_the_receiver_drains_may_try_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.server._QUIET_DRAIN", 60.0)
    receiver = start(drain_seconds=20)
    request = associate_request()
    with Raw(receiver.address) as busy, Raw(receiver.address) as silent, Raw(receiver.address) as half:
        busy.associate()
        data = data_set("1.2.3")
        busy.send(p_data(1, command_set(1, 1, CT, "1.2.3", data=True), command=True))
        busy.send(p_data(1, data[:50], command=False, last=False))
        half.send(request[:30])
        time.sleep(0.3)
        receiver.stop()
        time.sleep(0.3)
        half.send(request[30:])
        silent.send(request)
        for raw in (half, silent):
            answer = raw.receive()
            assert (answer.kind, tuple(answer.body[1:])) == (pdu.ASSOCIATE_RJ, (2, 3, 1))
        busy.send(p_data(1, data[50:], command=False))
        assert busy.receive().status == 0
        busy.release()
