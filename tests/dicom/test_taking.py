"""The listener that a C-MOVE of ours goes to: what it takes, from whom, and what it survives."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
import threading
from pathlib import Path

import pytest

from fiona_dagster.dicom import dimse, taking
from fiona_dagster.dicom.instances import Instance, read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Requestor
from fiona_dagster.dicom.taking import Listener, networks_of
from tests.making import data_set, part10

LOOPBACK = [ipaddress.ip_network("127.0.0.1")]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    path = tmp_path / "1.dcm"
    path.write_bytes(part10(data_set("1.2.3.1"), "1.2.3.1"))
    return read_instance(path)


def listening() -> Listener:
    return Listener("127.0.0.1", 0, "CHECK", 5.0, admitted=LOOPBACK, originator="FIONA")


def port_of(listener: Listener) -> int:
    return int(listener._server.getsockname()[1])


def store(listener: Listener, instance: Instance, *, sop_class: str = "", originator: str = "") -> int:
    """The status with which a C-STORE is answered."""
    peer = Peer("127.0.0.1", port_of(listener), "CHECK", "PACS", timeout=5)
    with Requestor(peer, [instance.context]) as association:
        command = dimse.encode_store_request(
            association.next_message_id(), sop_class or instance.sop_class, instance.sop_instance
        )
        if originator:
            title = originator.ljust(16).encode()
            command += struct.pack("<HHI", 0, 0x1030, len(title)) + title
            command = command[:8] + struct.pack("<I", len(command) - 12) + command[12:]
        data = instance.path.read_bytes()[instance.data_set_offset :]
        answer, _ = association.ask(dimse.C_STORE_RQ, instance.context, command, data)
        return answer.status


@pytest.mark.parametrize("originator", ["", "FIONA"])
def test_what_is_expected_comes_once(instance: Instance, originator: str) -> None:
    got = bytearray()
    with listening() as listener, listener.expecting(instance, got.extend) as arrival:
        assert store(listener, instance, originator=originator) == 0
        assert arrival.wait(5)
        assert store(listener, instance) != 0, "it comes once"
    assert got == instance.path.read_bytes()[instance.data_set_offset :]
    assert not listener.turned_away


def test_what_answers_somebody_else_is_not_taken(instance: Instance) -> None:
    got = bytearray()
    with listening() as listener, listener.expecting(instance, got.extend) as arrival:
        assert store(listener, instance, originator="OTHER") != 0
        assert store(listener, instance, sop_class="1.2.840.10008.5.1.4.1.1.7") != 0
        assert not got
        assert not arrival.wait(0)
        assert store(listener, instance) == 0, "it may still come"


def test_who_calls_from_elsewhere_is_turned_away(instance: Instance) -> None:
    with listening() as listener, listener.expecting(instance, lambda _: None):
        elsewhere = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", port_of(listener)), 5, source_address=elsewhere) as one:
            assert one.recv(1) == b""
        assert listener.turned_away == {"127.0.0.2"}
        assert store(listener, instance) == 0


def test_addresses_of_a_host() -> None:
    assert networks_of("127.0.0.1") == LOOPBACK
    assert LOOPBACK[0] in networks_of("localhost")
    assert networks_of("no.such.host.invalid") == []


def test_without_descriptors_it_waits_for_some(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that can't be accepted stays in the queue: asking for it at once again would not end."""
    asked = 0
    waited = threading.Event()
    monkeypatch.setattr(taking, "_POLL_SECONDS", 0.05)

    class Exhausted:
        def accept(self) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise OSError(errno.EMFILE, "none")
            waited.set()
            raise TimeoutError

        def close(self) -> None:
            pass

    with listening() as listener:
        pauses: list[float] = []
        wait = listener._stop.wait

        def noted(seconds: float) -> bool:
            pauses.append(seconds)
            return wait(seconds)

        monkeypatch.setattr(listener._stop, "wait", noted)
        server, listener._server = listener._server, Exhausted()  # type: ignore[assignment]
        assert waited.wait(10)
        listener._server = server
        assert pauses == [0.05]
        with listener.expecting(instance, lambda _: None):
            assert store(listener, instance) == 0
