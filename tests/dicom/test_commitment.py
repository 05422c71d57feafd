"""Requests for storage commitment, read without pydicom, against what pydicom writes."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from fiona_dagster.dicom.commitment import CommitmentRequest, read_request
from fiona_dagster.errors import UnreadableDicom

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
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
        f"read_request({data!r}, {IMPLICIT!r}); print('pydicom' in sys.modules, 'pynetdicom' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]
    assert BytesIO(data).read(1)
