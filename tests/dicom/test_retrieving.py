"""Getting instances back from peers that do not come to an end; tests/peers/ has real ones."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path

import pytest

from fiona_dagster.dicom import dimse, pdu, retrieving
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.retrieving import Getter
from fiona_dagster.errors import PeerUnavailable
from tests.dicom.scripted import Acceptor, Connection
from tests.making import data_set, part10


@pytest.mark.parametrize("what", ["pending answers", "another instance"])
def test_what_has_no_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Each of them comes in time: no time limit of a single wait ends it."""
    path = tmp_path / "1.dcm"
    path.write_bytes(part10(data_set("1.2.3.1"), "1.2.3.1"))
    instance = read_instance(path)
    monkeypatch.setattr(retrieving, "LONGEST_SECONDS", 0.2)

    def script(connection: Connection, _: int) -> None:
        connection.accept()
        command, _data = connection.message()
        store = dimse.encode_store_request(1, instance.sop_class, "1.2.3.9")
        if what == "another instance":
            connection.sock.sendall(pdu.encode_command(5, store, 0))
        with contextlib.suppress(OSError):
            for _ in range(600):
                time.sleep(0.01)
                if what == "another instance":
                    connection.sock.sendall(pdu.encode_command(5, bytes(100), 0).replace(b"\5\3", b"\5\0"))
                else:
                    connection.respond(command, 0xFF00)

    with Acceptor(script) as acceptor:
        peer = Peer("127.0.0.1", acceptor.port, "PACS", timeout=5)
        with Getter(peer) as getter, pytest.raises(PeerUnavailable, match=r"end"):
            getter.fetch(instance, io.BytesIO(), 100)
        assert acceptor.connections == 1
