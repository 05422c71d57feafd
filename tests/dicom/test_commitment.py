"""Requests for storage commitment, read without pydicom, against what pydicom writes."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from fiona_dagster.dicom import commitment, dimse, pdu
from fiona_dagster.dicom.commitment import (
    CommitmentReport,
    CommitmentRequest,
    read_report,
    read_request,
    request_commitment,
)
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import DeliveryRefused, UnreadableDicom
from tests.dicom.scripted import Acceptor, Connection
from tests.receiver.raw import command_set, p_data

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
COMMITMENT = "1.2.840.10008.1.20.1"
CT = "1.2.840.10008.5.1.4.1.1.2"

uids = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))


def encoded(request: CommitmentRequest, syntax: str, *, undefined: bool = False) -> bytes:
    data_set = Dataset()
    data_set.TransactionUID = request.transaction
    data_set.StorageMediaFileSetID = "IGNORED"
    data_set.ReferencedSOPSequence = []
    for sop_class, instance in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        item.is_undefined_length_sequence_item = undefined
        data_set.ReferencedSOPSequence.append(item)
    data_set["ReferencedSOPSequence"].is_undefined_length = undefined
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(buffer, data_set)
    return buffer.getvalue()


@given(
    st.builds(CommitmentRequest, uids, st.lists(st.tuples(uids, uids), min_size=1, max_size=20).map(tuple)),
    st.sampled_from([IMPLICIT, EXPLICIT, BIG]),
    st.booleans(),
)
def test_what_pydicom_writes_is_read(request_: CommitmentRequest, syntax: str, undefined: bool) -> None:
    assert read_request(encoded(request_, syntax, undefined=undefined), syntax) == request_


@given(st.binary(max_size=400), st.sampled_from([IMPLICIT, EXPLICIT]))
def test_any_bytes_are_read_or_refused(data: bytes, syntax: str) -> None:
    try:
        found = read_request(data, syntax)
    except UnreadableDicom:
        return
    assert found.references


@given(st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    sound = bytearray(encoded(CommitmentRequest("1.2.3", ((CT, "1.2.4"), (CT, "1.2.5"))), EXPLICIT))
    at = data.draw(st.integers(0, len(sound) - 1))
    sound[at] = data.draw(st.integers(0, 255))
    try:
        read_request(bytes(sound), EXPLICIT)
    except UnreadableDicom as error:
        assert str(error)  # noqa: PT017 - the message is for a person


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (CommitmentRequest("", ((CT, "1.2.4"),)), "Transaction UID"),
        (CommitmentRequest("1.2.3", ()), "missing or malformed"),
        (CommitmentRequest("1.2.3", ((CT, ""),)), "missing or malformed"),
        (CommitmentRequest("1.2.3", (("", "1.2.4"),)), "missing or malformed"),
    ],
)
def test_what_is_missing_is_named(request_: CommitmentRequest, why: str) -> None:
    with pytest.raises(UnreadableDicom, match=why):
        read_request(encoded(request_, EXPLICIT), EXPLICIT)


def test_a_request_that_is_cut_is_refused() -> None:
    data = encoded(CommitmentRequest("1.2.3", ((CT, "1.2.4"),)), EXPLICIT)
    with pytest.raises(UnreadableDicom, match="broken"):
        read_request(data[:-3], EXPLICIT)


def test_reading_imports_no_library() -> None:
    data = encoded(CommitmentRequest("1.2.3", ((CT, "1.2.4"),)), IMPLICIT)
    code = (
        "import sys, receiver.commitment; from fiona_dagster.dicom.commitment import read_request; "
        f"read_request({data!r}, {IMPLICIT!r}); "
        "print(*(name in sys.modules for name in ('pydicom', 'pynetdicom', 'ssl')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False"] * 3
    assert BytesIO(data).read(1)


def report_of(report: CommitmentReport, syntax: str) -> bytes:
    data_set = Dataset()
    data_set.TransactionUID = report.transaction
    data_set.RetrieveAETitle = "IGNORED"
    sequences: dict[str, list[Dataset]] = {"ReferencedSOPSequence": [], "FailedSOPSequence": []}
    for reference in [*report.committed, *report.failed]:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
        if reference in report.failed:
            item.FailureReason = report.failed[reference]
        sequences["FailedSOPSequence" if reference in report.failed else "ReferencedSOPSequence"].append(item)
    for keyword, items in sequences.items():
        if items:
            setattr(data_set, keyword, items)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(buffer, data_set)
    return buffer.getvalue()


MIXED = CommitmentReport("1.2.3", ((CT, "1.2.4"), (CT, "1.2.5")), {(CT, "1.2.6"): 0x0112})


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize("report", [MIXED, replace(MIXED, failed={}), replace(MIXED, committed=())])
def test_reports_that_pydicom_writes_are_read(report: CommitmentReport, syntax: str) -> None:
    assert read_report(report_of(report, syntax), syntax) == report


def test_a_report_about_nothing_is_refused() -> None:
    with pytest.raises(UnreadableDicom, match="no instance"):
        read_report(report_of(replace(MIXED, committed=(), failed={}), EXPLICIT), EXPLICIT)


@settings(max_examples=40)
@given(st.binary(max_size=400), st.sampled_from([IMPLICIT, EXPLICIT]))
def test_any_bytes_are_a_report_or_refused(data: bytes, syntax: str) -> None:
    try:
        found = read_report(data, syntax)
    except UnreadableDicom:
        return
    assert found.committed or found.failed


class Pacs:
    """Takes one N-ACTION, answers with a status, and may report on the same association."""

    def __init__(
        self,
        status: int = 0,
        report: CommitmentReport | None = None,
        *,
        lies: bool = False,
        leaves: bool = False,
    ) -> None:
        self.status, self.report, self.lies, self.leaves = status, report, lies, leaves
        self.asked: CommitmentRequest | None = None
        self.answered = -1

    def __call__(self, connection: Connection, _: int) -> None:
        connection.accept()
        command, data = connection.message()
        assert (command.field, command.sop_class, command.action) == (dimse.N_ACTION_RQ, COMMITMENT, 1)
        assert command.sop_instance == "1.2.840.10008.1.20.1.1"
        self.asked = read_request(data, EXPLICIT)
        connection.respond(command, self.status)
        if self.report is not None:
            transaction = "1.2.999" if self.lies else self.asked.transaction
            raw = report_of(replace(self.report, transaction=transaction), EXPLICIT)
            event = command_set(0x0100, 9, COMMITMENT, "1.2.840.10008.1.20.1.1", data=True)
            connection.sock.sendall(p_data(1, event, command=True) + p_data(1, raw, command=False))
            if self.leaves:  # a reset, so that our answer can't be taken
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sock.close()
                return
            _, body = connection.read()
            ((_control, answer),) = pdu.data_values(body)
            self.answered = dimse.decode_response(answer).status
        connection.read()
        connection.sock.sendall(pdu.encode_release_response())


def ask(pacs: Pacs) -> CommitmentReport | None:
    with Acceptor(pacs) as acceptor:
        peer = Peer("127.0.0.1", acceptor.port, "PACS", timeout=5)
        kept: list[CommitmentReport] = []
        request_commitment(peer, "2.25.7", [(CT, "1.2.4"), (CT, "1.2.6")], kept.append)
        return kept[0] if kept else None


def test_a_report_on_the_same_association_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pacs = Pacs(report=MIXED)
    assert ask(pacs) == replace(MIXED, transaction="2.25.7")
    assert pacs.asked == CommitmentRequest("2.25.7", ((CT, "1.2.4"), (CT, "1.2.6")))
    assert pacs.answered == 0

    gone = Pacs(report=MIXED, leaves=True)
    assert ask(gone) == replace(MIXED, transaction="2.25.7")

    liar = Pacs(report=MIXED, lies=True)
    assert ask(liar) is None
    assert liar.answered == dimse.INVALID_ARGUMENT

    monkeypatch.setattr(commitment, "ON_THE_SPOT_SECONDS", 0.1)
    assert ask(Pacs()) is None


def test_who_refuses_the_request_does_not_offer_the_service() -> None:
    with pytest.raises(DeliveryRefused, match="status 0110"):
        ask(Pacs(status=0x0110))
