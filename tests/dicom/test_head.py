from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from fiona_dagster.dicom import HeadReader, Refusal, StorageUids, judge, read_head
from fiona_dagster.dicom.head import MAX_DEPTH
from fiona_dagster.errors import UnreadableDicom
from tests.making import CT, EXPLICIT, IMPLICIT, SERIES, STUDY, data_set, element

BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPECTED = StorageUids(study=STUDY, series=SERIES, sop_instance="1.2.3.9", sop_class=CT, modality="CT")


def written(ds: Dataset, syntax: str) -> bytes:
    """The data set as pydicom writes it."""
    file = DicomBytesIO()
    file.is_implicit_VR = syntax == IMPLICIT
    file.is_little_endian = syntax != BIG
    write_dataset(file, ds)
    raw = file.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(raw) + packer.flush()
    return bytes(raw)


def example(undefined: bool = True, depth: int = 3) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CT, "1.2.3.9", "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    inner = Dataset()
    inner.SOPInstanceUID = "9.9.9"
    inner.StudyInstanceUID = "9.9.9"
    for _ in range(depth):
        outer = Dataset()
        outer.StudyInstanceUID = "9.9"
        outer.ReferencedSeriesSequence = Sequence([inner, Dataset(), inner])
        outer["ReferencedSeriesSequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        inner = outer
    ds.ReferencedStudySequence = Sequence([inner])
    ds["ReferencedStudySequence"].is_undefined_length = undefined
    ds.PatientName = "Planted^Name"
    ds.PixelData = b"\0" * 32
    ds["PixelData"].VR = "OW"
    return ds


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.840.10008.1.2.4.70", "1.3.9.9"])
@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_the_uids_are_found_in_every_encoding_and_any_slicing(
    syntax: str, undefined: bool, step: int
) -> None:
    data = written(example(undefined), syntax)
    head = HeadReader(syntax)
    for at in range(0, len(data), step):
        if head.feed(data[at : at + step]):
            break
    head.end()
    assert judge(head) == EXPECTED


def test_an_unknown_syntax_may_also_be_implicit() -> None:
    assert read_head(written(example(), IMPLICIT), "1.3.9.9.9") == EXPECTED


def end_of_head(data: bytes) -> int:
    last = element(0x0020000E, b"UI", SERIES)
    return data.index(last) + len(last)


def test_nothing_behind_the_last_uid_is_looked_at() -> None:
    data = data_set("1.2.3.9")
    assert read_head(data[: end_of_head(data)] + b"\xff" * 50, EXPLICIT) == EXPECTED


def test_an_unknown_element_of_undefined_length_holds_implicit_items() -> None:
    item = struct.pack("<HHI", 0x0009, 0x1002, 4) + b"abcd"
    un = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    un += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item
    un += struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = data_set("1.2.3.9")
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    assert read_head(data[:at] + un + data[at:], EXPLICIT) == EXPECTED


def test_a_large_element_before_the_uids_is_skipped_and_not_kept() -> None:
    data = data_set("1.2.3.9")
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    head = HeadReader(EXPLICIT)
    head.feed(data[:at])
    size = 64 * 1024 * 1024
    head.feed(struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size))
    chunk = bytes(1024 * 1024)
    for _ in range(64):
        head.feed(chunk)
        assert len(head._buffer) < 1024
    head.feed(data[at:])
    assert judge(head) == EXPECTED


@pytest.mark.parametrize(
    ("changes", "code", "status", "tag"),
    [
        ({"study": ""}, "missing_uid", 0xA900, 0x0020000D),
        ({"series": ""}, "missing_uid", 0xA900, 0x0020000E),
        ({"instance": ""}, "missing_uid", 0xA900, 0x00080018),
        ({"sop_class": ""}, "missing_uid", 0xA900, 0x00080016),
        ({"study": "../../etc"}, "malformed_uid", 0xC000, 0x0020000D),
        ({"series": "1." * 33 + "1"}, "malformed_uid", 0xC000, 0x0020000E),
        ({"instance": "1.2.x"}, "malformed_uid", 0xC000, 0x00080018),
        ({"sop_class": "1.2.840.10008.1.1"}, "not_storage", 0xA900, 0x00080016),
    ],
)
def test_wrong_uids_are_named(changes: dict[str, str], code: str, status: int, tag: int) -> None:
    keywords: dict[str, Any] = {"instance": "1.2.3.9", **changes}
    head = HeadReader(EXPLICIT)
    head.feed(data_set(keywords.pop("instance"), **keywords))
    head.end()
    verdict = judge(head)
    assert isinstance(verdict, Refusal)
    assert (verdict.code, verdict.status, verdict.element) == (code, status, tag)
    assert len(verdict.message) <= 64


def test_what_was_announced_must_be_what_comes() -> None:
    head = HeadReader(EXPLICIT)
    head.feed(data_set("1.2.3.9"))
    assert judge(head, CT, "1.2.3.9") == EXPECTED
    assert judge(head, "", "") == EXPECTED
    for announced in ((CT, "1.2.3.8"), ("1.2.840.10008.5.1.4.1.1.4", "1.2.3.9")):
        verdict = judge(head, *announced)
        assert isinstance(verdict, Refusal)
        assert verdict.code == "contradicting_uid"
        assert verdict.status == 0xA900


def test_an_element_twice_with_different_values_is_refused() -> None:
    data = element(0x00080018, b"UI", "1.2.3.8") + data_set("1.2.3.9")
    with pytest.raises(UnreadableDicom, match="twice"):
        read_head(data, EXPLICIT)


def test_nesting_is_limited() -> None:
    level = struct.pack("<HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF)
    level += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(UnreadableDicom, match="nested too deeply"):
        read_head(level * MAX_DEPTH, EXPLICIT)


def test_a_deflate_bomb_ends_early() -> None:
    packer = zlib.compressobj(wbits=-15)
    bomb = struct.pack("<HH2sHI", 0x0008, 0x0005, b"UN", 0, 1 << 31)
    raw = packer.compress(bomb + bytes(64 * 1024 * 1024)) + packer.flush()
    head = HeadReader(DEFLATED)
    head.feed(raw)
    assert head.problem == "too much deflated data before the UIDs"


def test_a_syntax_that_lies_is_noticed() -> None:
    data = data_set("1.2.3.9")
    for lie in (BIG, IMPLICIT, DEFLATED):
        with pytest.raises(UnreadableDicom):
            read_head(data, lie)


@given(st.binary(max_size=400), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.3.9"]))
def test_garbage_is_unreadable_and_nothing_else(data: bytes, syntax: str) -> None:
    try:
        uids = read_head(data, syntax)
    except UnreadableDicom:
        return
    assert uids.study.encode() in data or syntax == DEFLATED


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_cut_head_is_unreadable_a_cut_rest_is_not(data: st.DataObject) -> None:
    raw = data_set("1.2.3.9")
    end = end_of_head(raw)
    cut = data.draw(st.integers(0, len(raw)))
    if cut < end:
        with pytest.raises(UnreadableDicom):
            read_head(raw[:cut], EXPLICIT)
    else:
        assert read_head(raw[:cut], EXPLICIT) == EXPECTED


uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,5}", fullmatch=True)


@given(st.tuples(uids, uids, uids), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED]))
def test_values_agree_with_pydicom(values: tuple[str, str, str], syntax: str) -> None:
    ds = example(depth=1)
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = values
    found = read_head(written(ds, syntax), syntax)
    assert (found.sop_instance, found.study, found.series) == values


def test_reading_from_memoryviews_is_the_same() -> None:
    assert read_head(memoryview(io.BytesIO(data_set("1.2.3.9")).getvalue()), EXPLICIT) == EXPECTED
