"""Peers that break the rules: they are sent away, and nobody else notices."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import pdu
from fiona_dagster.landing import open_associations, read_journals
from tests.making import CT, EXPLICIT, STUDY, data_set
from tests.receiver.conftest import Start
from tests.receiver.raw import Asked, Raw, associate_request, command_set, p_data


def works(address: tuple[str, int], instance: str = "1.2.3") -> None:
    with Raw(address) as raw:
        assert raw.associate().kind == pdu.ASSOCIATE_AC
        assert raw.store(instance).status == 0
        raw.release()


def wait_until(condition: Callable[[], bool], seconds: float = 170) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.mark.parametrize(
    ("keywords", "cause"),
    [
        ({"calling": "STRANGER"}, (1, 1, 3)),
        ({"calling": ""}, (1, 1, 3)),
        ({"calling": "A\\B"}, (1, 1, 3)),
        ({"calling": "A\nFORGED"}, (1, 1, 3)),
        ({"calling": "KNOWN", "application": "1.2.3"}, (1, 1, 2)),
        ({"calling": "KNOWN", "version": 2}, (1, 2, 2)),
    ],
)
def test_rejections_use_the_standards_codes(
    start: Start, caplog: pytest.LogCaptureFixture, keywords: Asked, cause: tuple[int, int, int]
) -> None:
    with Raw(start(accept_unknown=False, allowed_callers=["KNOWN"]).address) as raw:
        answer = raw.associate(**keywords)
        assert answer.kind == pdu.ASSOCIATE_RJ
        assert tuple(answer.body[1:]) == cause
        assert raw.closed()
    assert "rejected" in caplog.text
    assert "\nFORGED" not in caplog.text


def test_listed_callers_may_send_to_any_title(start: Start) -> None:
    with Raw(start(accept_unknown=False, allowed_callers=["KNOWN"]).address) as raw:
        assert raw.associate(calling="KNOWN", called="WHATEVER").kind == pdu.ASSOCIATE_AC
        assert raw.store("1.2.3").status == 0


def test_a_closed_receiver_rejects_everybody(start: Start) -> None:
    with Raw(start(accept_unknown=False).address) as raw:
        assert raw.associate().kind == pdu.ASSOCIATE_RJ


def test_a_strange_called_title_stays_within_its_line_and_file(root: DataRoot, start: Start) -> None:
    with Raw(start().address) as raw:
        assert raw.associate(called="../..\n\r\0Ä").kind == pdu.ASSOCIATE_AC
        assert raw.store("1.2.3").status == 0
    ((name, _, receipt),) = read_journals(root, {})
    assert receipt.called_ae == "../..????"
    assert name == f"RAW %2E.%2F..%3F%3F%3F%3F 127.0.0.1 scp_{STUDY}"


def test_too_many_associations_are_rejected_for_now(start: Start) -> None:
    receiver = start(max_associations=2)
    with Raw(receiver.address) as one, Raw(receiver.address) as two, Raw(receiver.address) as three:
        assert one.associate().kind == pdu.ASSOCIATE_AC
        assert two.associate().kind == pdu.ASSOCIATE_AC
        answer = three.associate()
        assert answer.kind == pdu.ASSOCIATE_RJ
        assert tuple(answer.body[1:]) == (2, 3, 2)
        one.release()
        one.sock.close()
        wait_until(lambda: receiver.places.taken == 1)
        works(receiver.address)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
        struct.pack(">BBI", 1, 0, 10) + bytes(10),
        struct.pack(">BBI", 4, 0, 10) + bytes(10),
        struct.pack(">BBI", 5, 0, 4) + bytes(4),
        associate_request()[:6] + b"\xff" * (len(associate_request()) - 6),
        bytes(100),
    ],
)
def test_a_first_word_that_is_no_request_is_aborted(start: Start, first: bytes) -> None:
    receiver = start()
    with Raw(receiver.address) as raw:
        raw.send(first)
        answer = raw.receive()
        assert answer.kind in {pdu.ABORT, pdu.ASSOCIATE_RJ}
        assert raw.closed()
    works(receiver.address)


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (struct.pack(">BBI", 4, 0, 0xFFFFFFFF), 6),
        (struct.pack(">BBI", 4, 0, 4) + bytes(4), 6),
        (p_data(99, b"xx", command=True), 6),
        (struct.pack(">BBIIBB", 4, 0, 6, 500, 1, 3), 6),
        (struct.pack(">BBIIBB", 4, 0, 6, 1, 1, 3), 6),
        (p_data(1, b"a data set without a command", command=False), 2),
        (p_data(1, bytes(65_000), command=True, last=False) * 2, 6),
        (p_data(1, b"\xff" * 40, command=True), 6),
        (p_data(1, command_set(1, 1, CT, "1.2", data=True), command=True) * 2, 2),
        (associate_request(), 2),
        (b"\x63\0\0\0\0\4abcd", 1),
    ],
)
def test_a_later_word_that_breaks_the_rules_is_aborted(
    root: DataRoot, start: Start, later: bytes, reason: int
) -> None:
    receiver = start()
    with Raw(receiver.address) as raw:
        raw.associate()
        raw.send(later)
        answer = raw.receive()
        assert answer.kind == pdu.ABORT
        assert answer.body[2:] == bytes([2, reason])
        assert raw.closed()
    works(receiver.address)


def test_silence_before_and_after_the_request_ends(root: DataRoot, start: Start) -> None:
    receiver = start(artim_seconds=0.3, idle_seconds=1)
    with Raw(receiver.address) as mute, Raw(receiver.address) as slow, Raw(receiver.address) as idle:
        idle.associate()
        assert idle.store("1.2.3").status == 0
        assert open_associations(root, STUDY)
        assert mute.receive().kind == pdu.ABORT
        for byte in associate_request()[:4]:
            slow.send(bytes([byte]))
            time.sleep(0.05)
        assert slow.receive().kind == pdu.ABORT
        assert idle.receive().kind == pdu.ABORT
        assert idle.closed()
    assert not open_associations(root, STUDY)


def trickle(raw: Raw, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        raw.send(b"\0")
        time.sleep(0.1)


def test_a_pdu_that_trickles_in_ends(start: Start) -> None:
    receiver = start(idle_seconds=1)
    with Raw(receiver.address) as raw:
        raw.associate()
        raw.send(struct.pack(">BBI", 4, 0, 1000))
        with pytest.raises(ConnectionError):
            trickle(raw, seconds=30)


def test_a_peer_that_aborts_or_vanishes_leaves_no_claim(root: DataRoot, start: Start) -> None:
    receiver = start()
    for farewell in (struct.pack(">BBII", 7, 0, 4, 0), b""):
        with Raw(receiver.address) as raw:
            raw.associate()
            assert raw.store("1.2.3").status == 0
            assert open_associations(root, STUDY)
            raw.send(farewell)
        wait_until(lambda: not open_associations(root, STUDY))


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(noise=st.binary(min_size=1, max_size=300), associated=st.booleans())
def test_noise_harms_nobody(shared_receiver: tuple[str, int], noise: bytes, associated: bool) -> None:
    with Raw(shared_receiver) as raw:
        if associated:
            raw.associate()
        raw.send(noise)
    works(shared_receiver)


@pytest.fixture
def shared_receiver(start: Start) -> tuple[str, int]:
    return start(artim_seconds=2, idle_seconds=2).address


def test_a_flood_of_connections_leaves_room_for_the_next(start: Start) -> None:
    receiver = start(max_associations=4, artim_seconds=1)
    flood = [Raw(receiver.address) for _ in range(150)]
    for raw in flood:
        raw.sock.close()
    time.sleep(0.3)
    works(receiver.address)


def test_a_fault_of_ours_ends_one_association_only(
    root: DataRoot, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = start(max_associations=1)

    def broken(*values: object, **keywords: object) -> None:
        raise ValueError("Planted^Patient")

    with monkeypatch.context() as patch, Raw(receiver.address) as raw:
        raw.associate()
        patch.setattr("receiver.storage.judge", broken)
        raw.send(p_data(1, command_set(1, 1, CT, "1.2.3", data=True), command=True))
        raw.send(p_data(1, data_set("1.2.3"), command=False))
        assert raw.closed()
    wait_until(lambda: "internal fault: ValueError" in caplog.text)
    assert "Planted" not in caplog.text
    wait_until(lambda: receiver.places.taken == 0)
    works(receiver.address)
    wait_until(lambda: [p.name for p in root.archive.rglob("*") if p.is_file()] == ["CT.1.2.3"])


def test_logs_hold_nothing_of_the_patient(
    root: DataRoot, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with Raw(start().address) as raw:
        raw.associate([(1, CT, [EXPLICIT])])
        raw.store("1.2.3")
        raw.store("1.2.3", data_set("1.2.3", pixels=b"zz"))
        raw.store("1.2.3", data_set("1.2.4"))
        raw.store("1.2.5", data_set("1.2.5", study="DOE^JANE"))
        raw.release()
    wait_until(lambda: "released" in caplog.text)
    assert "conflict" in caplog.text
    for planted in ("Planted", "DOE"):
        assert planted not in caplog.text
        for path in root.path.rglob("*"):
            assert planted not in path.name
            if path.suffix == ".json":
                assert planted not in path.read_text()
    assert root.quarantine.stat().st_mode & 0o077 == 0
