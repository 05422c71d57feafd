"""The sender against peers that answer with whatever they like; tests/peers/test_sender.py has real ones."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.dicom import dimse, instances, pdu, sender
from fiona_dagster.dicom.instances import Instance, StoreResult, read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Requestor
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import (
    CopyUnavailable,
    DeliveryRefused,
    NotVerified,
    PeerUnavailable,
    SendingHeld,
    UnreadableDicom,
)
from tests.dicom.scripted import Acceptor, Connection
from tests.making import CT, EXPLICIT, IMPLICIT, MR, data_set, part10

Script = Callable[[Connection, int], None]


def peer(acceptor: Acceptor, timeout: float = 5.0) -> Peer:
    return Peer("127.0.0.1", acceptor.port, "PACS", timeout=timeout)


def make(folder: Path, count: int, pixels: int = 128) -> list[Instance]:
    made = []
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number}.dcm"
        data = data_set(f"1.2.3.{number}", pixels=os.urandom(pixels))
        path.write_bytes(part10(data, f"1.2.3.{number}"))
        made.append(read_instance(path))
    return made


def body_of(instance: Instance) -> bytes:
    return instance.path.read_bytes()[instance.data_set_offset :]


def serve(connection: Connection, got: list[tuple[str, bytes]], max_pdu: int = 16384) -> None:
    """Stores whatever comes, with Success, until the requestor releases."""
    connection.accept(max_pdu)
    while True:
        try:
            command, data = connection.message()
        except EOFError:
            connection.sock.sendall(pdu.encode_release_response())
            raise
        got.append((command.sop_instance, data))
        connection.respond(command, 0)


# -- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 128, 4096, 16384, 40001, 131072, 2**32 - 1])
@pytest.mark.parametrize("memory", [1 << 24, 0], ids=["in memory", "from the page cache"])
def test_the_bytes_of_the_files_arrive_in_pdus_that_the_peer_takes(
    tmp_path: Path, limit: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "IN_MEMORY", memory)
    files = [*make(tmp_path, 3, 300_000), *make(tmp_path, 1, 16384 - 6)]
    got: list[tuple[str, bytes]] = []
    largest = []

    def script(connection: Connection, _: int) -> None:
        try:
            serve(connection, got, limit)
        finally:
            largest.append(connection.largest)

    with Acceptor(script) as acceptor:
        digests = {str(each.path): hashlib.sha256(each.path.read_bytes()).hexdigest() for each in files}
        results = store_files(peer(acceptor), files, digests=digests)
    assert [result.status for result in results] == [0] * 4
    assert got == [(each.sop_instance, body_of(each)) for each in files]
    assert largest[0] <= (limit or 2**32)


def test_only_one_operation_is_open_on_an_association(tmp_path: Path) -> None:
    early = []

    def script(connection: Connection, _: int) -> None:
        connection.accept()
        for _ in range(3):
            command, _data = connection.message()
            connection.sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                early.append(connection.sock.recv(1))
            connection.sock.settimeout(10)
            connection.respond(command, 0)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 3))
    assert early == []
    assert [result.status for result in results] == [0, 0, 0]


def test_message_ids_begin_again_behind_65535(tmp_path: Path) -> None:
    got: list[tuple[str, bytes]] = []
    (instance,) = make(tmp_path, 1)
    with (
        Acceptor(lambda connection, _: serve(connection, got)) as acceptor,
        Requestor(peer(acceptor), [instance.context]) as association,
    ):
        association._message = 0xFFFE
        for _ in range(3):
            association.store(instance.context, instance.sop_instance, memoryview(body_of(instance)))
            assert association.answer(5) == 0
        assert association._message == 2
    assert len(got) == 3


def test_statuses_are_kept_as_they_came(tmp_path: Path) -> None:
    statuses = iter([0x0000, 0xB000, 0xA700, 0xC123, 0xB007, 0x0122])

    def script(connection: Connection, _: int) -> None:
        connection.accept()
        for status in statuses:
            connection.respond(connection.message()[0], status, max_pdu=64)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 6))
    assert [(f"{result.status:04X}", result.stored, result.may_pass) for result in results] == [
        ("0000", True, False),
        ("B000", True, False),
        ("A700", False, True),
        ("C123", False, False),
        ("B007", True, False),
        ("0122", False, False),
    ]


@pytest.mark.parametrize(
    ("result", "syntax"),
    [(3, ""), (4, ""), (pdu.ACCEPTED, IMPLICIT)],
    ids=["class", "syntax", "another syntax"],
)
def test_what_the_peer_does_not_take_as_it_is_stored_is_not_sent(
    tmp_path: Path, result: int, syntax: str
) -> None:
    seen = []

    def script(connection: Connection, _: int) -> None:
        connection.accept(result=result, syntax=syntax)
        seen.append(connection.read()[0])

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 2))
    assert [(each.status, each.reason, each.may_pass) for each in results] == [
        (None, "SOP class or transfer syntax not accepted", False)
    ] * 2
    assert seen == [pdu.RELEASE_RQ]


def test_more_contexts_than_one_association_holds(tmp_path: Path) -> None:
    files = []
    for number in range(130):
        sop_class, path = f"1.2.99.{number}", tmp_path / f"{number}.dcm"
        data = data_set(f"1.2.3.{number}", sop_class=sop_class)
        path.write_bytes(part10(data, f"1.2.3.{number}", sop_class=sop_class))
        files.append(read_instance(path))
    got: list[tuple[str, bytes]] = []
    with Acceptor(lambda connection, _: serve(connection, got)) as acceptor:
        results = store_files(peer(acceptor), files)
        assert acceptor.connections == 2
    assert len(got) == 130
    assert all(result.status == 0 for result in results)


# -- the gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1 << 24, 0], ids=["in memory", "from the page cache"])
def test_a_file_that_changed_is_not_sent_and_what_went_before_has_its_answer(
    tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "IN_MEMORY", memory)
    files = make(tmp_path, 3)
    digests = {str(each.path): hashlib.sha256(each.path.read_bytes()).hexdigest() for each in files}
    files[1].path.write_bytes(files[1].path.read_bytes().replace(b"Planted", b"Changed"))
    got: list[tuple[str, bytes]] = []
    results: list[StoreResult] = []
    with (
        Acceptor(lambda connection, _: serve(connection, got)) as acceptor,
        pytest.raises(NotVerified, match="differs from its verification record"),
    ):
        store_files(peer(acceptor), files, digests=digests, after=results.append)
    assert [uid for uid, _ in got] == ["1.2.3.0"]
    assert [result.status for result in results] == [0]


def test_a_large_file_that_is_written_to_while_it_is_sent_never_gets_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "IN_MEMORY", 0)
    files = make(tmp_path, 1, 8_000_000)
    complete = []

    def script(connection: Connection, _: int) -> None:
        connection.accept(131072)
        connection.read()
        os.utime(files[0].path, ns=(1, 1))
        connection.message()
        complete.append(True)

    with Acceptor(script) as acceptor, pytest.raises(NotVerified, match="changed while it was sent"):
        store_files(peer(acceptor), files)
    assert not complete


@pytest.mark.parametrize("limit", [16384, 131072], ids=["read", "from the page cache"])
def test_a_large_file_that_is_not_the_one_never_gets_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """It is compared while it is sent; the last byte alone differs, and what went before is answered."""
    monkeypatch.setattr(instances, "IN_MEMORY", 1_000_000)
    files = [*make(tmp_path, 1), *make(tmp_path / "large", 1, 9_000_000)]
    digests = {str(each.path): hashlib.sha256(each.path.read_bytes()).hexdigest() for each in files}
    whole = files[1].path.read_bytes()
    files[1].path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    kinds: list[int] = []
    received = 0

    def script(connection: Connection, _: int) -> None:
        nonlocal received
        connection.accept(limit)
        command, _data = connection.message()
        connection.respond(command, 0)
        while True:
            kind, body = connection.read()
            kinds.append(kind)
            if kind == pdu.P_DATA:
                for control, part in pdu.data_values(body):
                    assert control in (0, 3)
                    received += len(part) if control == 0 else 0

    results: list[StoreResult] = []
    with (
        Acceptor(script) as acceptor,
        pytest.raises(NotVerified, match="differs from its verification record"),
    ):
        store_files(peer(acceptor), files, digests=digests, after=results.append)
    assert [result.status for result in results] == [0]
    assert kinds[-1] == pdu.ABORT
    assert kinds.count(pdu.ABORT) == 1
    assert 0 < received < len(body_of(files[1]))


def test_a_large_file_is_compared_each_time_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "IN_MEMORY", 0)
    files = make(tmp_path, 2, 3_000_000)
    digests = {str(each.path): hashlib.sha256(each.path.read_bytes()).hexdigest() for each in files}
    got: list[tuple[str, bytes]] = []

    def script(connection: Connection, number: int) -> None:
        if number == 2:
            serve(connection, got)
        connection.accept(131072)
        connection.read()  # and then it breaks off

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), files, digests=digests)
    assert [result.status for result in results] == [0, 0]
    assert [data for _, data in got] == [body_of(each) for each in files]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store-digest")]


@pytest.mark.parametrize("memory", [1 << 24, 0], ids=["in memory", "from the page cache"])
def test_what_the_disk_does_not_give_is_no_changed_file(
    tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, 1)
    digests = {str(made[0].path): hashlib.sha256(made[0].path.read_bytes()).hexdigest()}
    monkeypatch.setattr(instances, "IN_MEMORY", memory)

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    got: list[tuple[str, bytes]] = []
    monkeypatch.setattr(os, "preadv", broken)
    with Acceptor(lambda connection, _: serve(connection, got)) as acceptor:
        with pytest.raises(CopyUnavailable, match="Input/output error"):
            store_files(peer(acceptor), made, digests=digests)
        made[0].path.unlink()
        with pytest.raises(NotVerified):
            store_files(peer(acceptor), made, digests=digests)
    assert got == []


def test_what_happens_to_a_file_that_was_sent_reaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it waits in the socket's buffers when the file is written to, and the peer has read nothing."""
    monkeypatch.setattr(instances, "IN_MEMORY", 100_000)
    [file] = make(tmp_path, 1, 600_000)
    true = file.path.read_bytes()
    got: list[bytes] = []

    def script(connection: Connection, _: int) -> None:
        connection.accept(131072)
        time.sleep(0.3)
        with file.path.open("r+b") as stream:
            stream.seek(len(true) - 200_000)
            stream.write(b"Wagner^Eva")
        command, data = connection.message()
        got.append(data)
        connection.respond(command, 0)
        connection.read()

    with Acceptor(script) as acceptor:
        store_files(peer(acceptor), [file], digests={str(file.path): hashlib.sha256(true).hexdigest()})
    assert got == [true[-len(got[0]) :]]
    assert b"Wagner" in file.path.read_bytes()


def test_a_stop_ends_the_sending_behind_the_answer_that_is_awaited(tmp_path: Path) -> None:
    got: list[tuple[str, bytes]] = []
    results: list[StoreResult] = []

    asked: list[str] = []

    def before(instance: Instance) -> None:
        asked.append(instance.sop_instance)
        if len(asked) > 2:
            raise SendingHeld("held")

    for associations in (1, 2):
        got.clear()
        asked.clear()
        with Acceptor(lambda connection, _: serve(connection, got)) as acceptor, pytest.raises(SendingHeld):
            store_files(
                peer(acceptor),
                make(tmp_path, 6),
                before=before,
                after=results.append,
                associations=associations,
            )
        assert sorted(uid for uid, _ in got) == sorted(asked[:2])
    assert [result.status for result in results[:2]] == [0, 0]


def test_a_stop_reaches_what_was_handed_out_already(tmp_path: Path) -> None:
    """Several associations: what a lane holds already, and what it looks ahead at, is asked about, too."""
    got: list[tuple[str, bytes]] = []
    asked: list[str] = []

    def before(instance: Instance) -> None:
        asked.append(instance.sop_instance)
        if len(asked) > 2:  # all four were handed out
            raise SendingHeld("held")

    def slow(connection: Connection, _: int) -> None:
        connection.accept()
        while True:
            command, data = connection.message()
            got.append((command.sop_instance, data))
            time.sleep(0.3)
            connection.respond(command, 0)

    with Acceptor(slow) as acceptor, pytest.raises(SendingHeld):
        store_files(peer(acceptor), make(tmp_path, 4), before=before, associations=2)
    assert sorted(uid for uid, _ in got) == sorted(asked[:2])


def test_a_changed_file_is_told_of_though_its_association_breaks(tmp_path: Path) -> None:
    """Looking ahead meets it; then the peer is gone. Nothing may wait for ever."""
    files = make(tmp_path, 4)
    digests = {str(each.path): hashlib.sha256(each.path.read_bytes()).hexdigest() for each in files}
    changed = [each for each in files if each.sop_instance in ("1.2.3.2", "1.2.3.3")]
    for each in changed:
        each.path.write_bytes(each.path.read_bytes()[:-2] + b"\1\1")

    def leave(connection: Connection, number: int) -> None:
        if number > 2:
            connection.sock.close()
            return
        connection.accept()
        connection.message()
        time.sleep(0.2)
        connection.sock.sendall(pdu.encode_abort(0))

    with Acceptor(leave) as acceptor, pytest.raises(NotVerified):
        store_files(peer(acceptor), files, digests=digests, associations=2)


# -- peers that misbehave -------------------------------------------------------------------------


def _abort(connection: Connection, _: int) -> None:
    connection.accept()
    connection.message()
    connection.sock.sendall(pdu.encode_abort(0))


def _release(connection: Connection, _: int) -> None:
    connection.accept()
    connection.message()
    connection.sock.sendall(pdu.encode_release_request())
    assert connection.read()[0] == pdu.RELEASE_RP


def _wrong_message(connection: Connection, _: int) -> None:
    connection.accept()
    command, _data = connection.message()
    connection.respond(dimse.Command(command.field, command.message_id + 1, CT, "1.2", has_data_set=False), 0)
    connection.read()


def _other_operation(connection: Connection, _: int) -> None:
    connection.accept()
    command, _data = connection.message()
    connection.respond(dimse.Command(dimse.C_ECHO_RQ, command.message_id, CT, "1.2", has_data_set=False), 0)
    connection.read()


def _close(connection: Connection, _: int) -> None:
    connection.accept()
    connection.message()


def _then(raw: bytes) -> Script:
    def script(connection: Connection, _: int) -> None:
        connection.accept()
        connection.message()
        connection.sock.sendall(raw)
        connection.read()

    return script


def _pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


ODD_ANSWERS: dict[str, Script] = {
    "abort": _abort,
    "release": _release,
    "the answer to another request": _wrong_message,
    "another kind of answer": _other_operation,
    "four GiB": _then(_pdu(pdu.P_DATA, b"", 2**32 - 1)),
    "a PDV of four GiB": _then(_pdu(pdu.P_DATA, struct.pack(">IBB", 2**32 - 1, 1, 3))),
    "a PDV without length": _then(_pdu(pdu.P_DATA, struct.pack(">IBB", 0, 1, 3))),
    "cut": _then(_pdu(pdu.P_DATA, b"\0\0", 2)),
    "an unknown PDU": _then(_pdu(0x99, b"")),
    "an A-ASSOCIATE-AC": _then(_pdu(pdu.ASSOCIATE_AC, b"")),
    "a data set": _then(_pdu(pdu.P_DATA, struct.pack(">IBB", 4, 1, 2) + b"ab")),
    "a command without status": _then(pdu.encode_command(1, struct.pack("<HHIH", 0, 0x0100, 2, 0x8001), 0)),
    "closed": _close,
}


@pytest.mark.parametrize("odd", ODD_ANSWERS)
def test_an_odd_answer_is_no_answer_and_the_instance_is_sent_again(tmp_path: Path, odd: str) -> None:
    got: list[tuple[str, bytes]] = []

    def script(connection: Connection, number: int) -> None:
        if number == 1:
            ODD_ANSWERS[odd](connection, number)
        else:
            serve(connection, got)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 2))
        assert acceptor.connections == 2
    assert [result.status for result in results] == [0, 0]
    assert [uid for uid, _ in got] == ["1.2.3.0", "1.2.3.1"]


def test_an_instance_that_the_peer_always_breaks_off_at_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    def script(connection: Connection, _: int) -> None:
        connection.accept()
        while True:
            command, _data = connection.message()
            if command.sop_instance == "1.2.3.1":
                connection.sock.sendall(pdu.encode_abort(0))
                return
            connection.respond(command, 0)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 4))
        assert acceptor.connections == 1 + sender.ATTEMPTS
    assert {each.instance.sop_instance: (each.status, each.reason) for each in results} == {
        "1.2.3.0": (0, ""),
        "1.2.3.1": (None, "no answer"),
        "1.2.3.2": (0, ""),
        "1.2.3.3": (0, ""),
    }


@pytest.mark.parametrize("associations", [1, 3])
def test_a_peer_that_takes_everything_and_says_nothing_is_given_up(tmp_path: Path, associations: int) -> None:
    def script(connection: Connection, _: int) -> None:
        connection.accept()
        connection.message()
        connection.read()

    with Acceptor(script) as acceptor, pytest.raises(PeerUnavailable, match="no answer in time"):
        store_files(peer(acceptor, timeout=0.1), make(tmp_path, 20), associations=associations)
    assert acceptor.connections <= sender.ATTEMPTS * associations


def test_a_peer_that_trickles_is_given_up(tmp_path: Path) -> None:
    def script(connection: Connection, _: int) -> None:
        connection.accept()
        connection.message()
        for byte in _pdu(pdu.P_DATA, bytes(4000)):
            connection.sock.sendall(bytes([byte]))
            connection.sock.settimeout(0.05)
            try:
                if not connection.sock.recv(10):
                    return
            except TimeoutError:
                continue

    with Acceptor(script) as acceptor, pytest.raises(PeerUnavailable, match="no answer in time"):
        store_files(peer(acceptor, timeout=0.3), make(tmp_path, 1))


@pytest.mark.parametrize(
    ("raw", "error", "match"),
    [
        (pdu.encode_reject(pdu.REJECT_CALLED_AE), DeliveryRefused, "AE titles"),
        (pdu.encode_reject(pdu.REJECT_LIMIT), PeerUnavailable, "for now"),
        (_pdu(pdu.ASSOCIATE_RJ, b"\0"), PeerUnavailable, "cut"),
        (pdu.encode_abort(0), PeerUnavailable, "aborts"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", PeerUnavailable, "does not speak DICOM"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PeerUnavailable, "does not speak DICOM"),
        (_pdu(pdu.ASSOCIATE_AC, b"", 2**32 - 1), PeerUnavailable, "longer PDUs"),
        (_pdu(pdu.ASSOCIATE_AC, bytes(20)), PeerUnavailable, "cut"),
        (_pdu(pdu.ASSOCIATE_AC, bytes(68) + struct.pack(">BxH", 0x50, 0xFFFF)), PeerUnavailable, "longer"),
        (_pdu(pdu.RELEASE_RP, bytes(4)), PeerUnavailable, "something else"),
        (b"", PeerUnavailable, "closed"),
    ],
)
def test_answers_to_an_association_are_the_right_kind_of_error(
    tmp_path: Path, raw: bytes, error: type[Exception], match: str
) -> None:
    def script(connection: Connection, _: int) -> None:
        connection.read()
        connection.sock.sendall(raw)

    with Acceptor(script) as acceptor, pytest.raises(error, match=match):
        store_files(peer(acceptor), make(tmp_path, 1))


def test_pdus_that_nothing_fits_in(tmp_path: Path) -> None:
    with (
        Acceptor(lambda connection, _: connection.accept(max_pdu=7)) as acceptor,
        pytest.raises(PeerUnavailable, match="PDUs of 7 bytes"),
    ):
        store_files(peer(acceptor), make(tmp_path, 1))


def test_nothing_listens(tmp_path: Path) -> None:
    with Acceptor(lambda *_: None) as acceptor:
        nobody = peer(acceptor)
    with pytest.raises(PeerUnavailable, match="no connection"):
        store_files(nobody, make(tmp_path, 1))


@settings(max_examples=12, deadline=None)
@given(raw=st.binary(max_size=200), kind=st.integers(1, 7))
def test_no_answer_whatever_takes_memory_or_another_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, kind: int
) -> None:
    def script(connection: Connection, number: int) -> None:
        if number % 2:
            connection.accept()
            connection.message()
        else:
            connection.read()
        connection.sock.sendall(_pdu(kind, raw))

    files = make(tmp_path_factory.mktemp("hostile"), 1)
    tracemalloc.start()
    try:
        with Acceptor(script) as acceptor:
            try:
                results = store_files(peer(acceptor, timeout=1.0), files)
            except (PeerUnavailable, DeliveryRefused):
                results = []
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert all(result.status is None for result in results)


# -- several associations -------------------------------------------------------------------------


def test_several_associations_share_the_instances(tmp_path: Path) -> None:
    got: list[tuple[str, bytes]] = []
    all_here = threading.Barrier(4)

    def script(connection: Connection, _: int) -> None:
        all_here.wait(170)
        serve(connection, got)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 40), associations=4)
        assert acceptor.connections == 4
    assert sorted(uid for uid, _ in got) == sorted(f"1.2.3.{n}" for n in range(40))
    assert sorted(each.instance.sop_instance for each in results) == sorted(uid for uid, _ in got)


def test_associations_that_the_peer_has_no_place_for_are_done_without(tmp_path: Path) -> None:
    got: list[tuple[str, bytes]] = []

    def script(connection: Connection, number: int) -> None:
        if number > 1:
            connection.read()
            connection.sock.sendall(pdu.encode_reject(pdu.REJECT_LIMIT))
        else:
            serve(connection, got)

    with Acceptor(script) as acceptor:
        results = store_files(peer(acceptor), make(tmp_path, 12), associations=3)
    assert len(got) == 12
    assert sorted(each.instance.sop_instance for each in results) == sorted(uid for uid, _ in got)


# -- files ----------------------------------------------------------------------------------------


def test_what_is_read_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    data = data_set("1.2.3", study="1.2", series="1.2.9", sop_class=MR, name="x" * 60_000)
    path.write_bytes(part10(data, "1.2.3"))
    found = read_instance(path)
    assert (found.sop_class, found.sop_instance, found.study, found.series) == (MR, "1.2.3", "1.2", "1.2.9")
    assert found.context == (MR, EXPLICIT)


def test_files_that_can_not_be_sent(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no DICOM" * 100)
    (tmp_path / "b").write_bytes(part10(data_set("1.2.3", series=""), "1.2.3"))
    for name, match in (("a", "DICM prefix"), ("b", "SeriesInstanceUID is missing"), ("c", "No such file")):
        with pytest.raises(UnreadableDicom, match=match):
            read_instance(tmp_path / name)
