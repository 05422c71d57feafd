from __future__ import annotations

import io

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.dicom import build_file_meta, read_file_meta
from fiona_dagster.errors import UnreadableDicom
from tests.making import CT, EXPLICIT, data_set, part10


def test_pydicom_reads_what_we_write() -> None:
    meta = build_file_meta(CT, "1.2.3.9", EXPLICIT, "SCANNER")
    ds = pydicom.dcmread(io.BytesIO(meta + data_set("1.2.3.9")))
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3.9"
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    assert ds.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert ds.file_meta.FileMetaInformationGroupLength == len(meta) - 132 - 12
    assert ds.StudyInstanceUID == "1.2.3.100"


@given(st.sampled_from([CT, "1.2.3"]), st.from_regex(r"[1-9](\.[0-9]{1,9}){1,6}", fullmatch=True))
def test_we_read_what_we_write(sop_class: str, instance: str) -> None:
    raw = build_file_meta(sop_class, instance, EXPLICIT)
    meta = read_file_meta(io.BytesIO(raw + b"\x08\0\5\0CS\0\0"))
    assert (meta.sop_class, meta.sop_instance, meta.transfer_syntax) == (sop_class, instance, EXPLICIT)
    assert meta.data_set_offset == len(raw)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty"),
        (b"<html>", "no DICM prefix"),
        (bytes(128) + b"DICM", "no TransferSyntaxUID"),
        (part10(b"", "1.2", syntax=""), "no TransferSyntaxUID"),
        (part10(b"", "1.2")[:-3], "ends inside"),
        (bytes(128) + b"DICM\2\0\2\0UN\0\0\xff\xff\xff\xff", "too long"),
        (bytes(128) + b"DICM\2\0\2\0\1\0\0\0", "no VR"),
    ],
)
def test_broken_meta_is_unreadable(raw: bytes, why: str) -> None:
    with pytest.raises(UnreadableDicom, match=why):
        read_file_meta(io.BytesIO(raw))


@given(st.binary(max_size=300))
def test_garbage_is_unreadable_or_read(data: bytes) -> None:
    try:
        meta = read_file_meta(io.BytesIO(bytes(128) + b"DICM" + data))
    except UnreadableDicom:
        return
    assert meta.data_set_offset <= 132 + len(data)
