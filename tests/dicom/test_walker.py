"""The element walker: structure, positions, and where it stops."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from fiona_dagster.dicom import walker
from fiona_dagster.dicom.walker import UNDEFINED, BytesSource, Element, FileSource, Problem, Walk


def encoded(ds: Dataset, *, explicit: bool, big: bool) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = not explicit, not big
    write_dataset(out, ds)
    return out.getvalue()


def flat(ds: Dataset, depth: int = 0) -> list[tuple[int, int]]:
    """(tag, depth) in file order, as the walker gives them."""
    found = []
    for element in ds:
        found.append((int(element.tag), depth))
        if element.VR == "SQ":
            for item in element.value:
                found.append((0xFFFEE000, depth + 1))
                found.extend(flat(item, depth + 1))
    return found


@st.composite
def datasets(draw: st.DrawFn, depth: int = 0) -> Dataset:
    ds = Dataset()
    if draw(st.booleans()):
        ds.PatientID = draw(st.sampled_from(["", "A", "LONGER"]))
    if draw(st.booleans()):
        ds.Rows = 5
    for keyword in ("ReferencedStudySequence", "ReferencedSeriesSequence"):
        if depth < 3 and draw(st.booleans()):
            items = draw(st.lists(datasets(depth + 1), max_size=2))
            setattr(ds, keyword, Sequence(items))
            ds[keyword].is_undefined_length = draw(st.booleans())
            for item in items:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    return ds


@pytest.mark.parametrize(("explicit", "big"), [(True, False), (False, False), (True, True)])
@given(ds=datasets())
def test_structure_is_as_written(ds: Dataset, explicit: bool, big: bool) -> None:
    data = encoded(ds, explicit=explicit, big=big)
    walk = Walk(BytesSource(data), explicit=explicit, big=big)

    assert [(element.tag, element.depth) for element in walk] == flat(ds)
    assert walk.problem is None
    assert walk.end == len(data)


@given(ds=datasets(), cut=st.integers(1, 200))
def test_a_cut_is_noticed_or_leaves_whole_elements(ds: Dataset, cut: int) -> None:
    data = encoded(ds, explicit=True, big=False)
    short = data[: max(0, len(data) - cut)]
    whole = list(Walk(BytesSource(data)))
    walk = Walk(BytesSource(short))
    found = list(walk)

    assert found == whole[: len(found)]
    ends = {0} | {element.offset + element.length for element in whole if element.depth == 0}
    if walk.problem is None:
        assert len(short) in ends or any(e.length == UNDEFINED and e.depth == 0 for e in whole)


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes_end(data: bytes, explicit: bool, big: bool) -> None:
    walk = Walk(BytesSource(data), explicit=explicit, big=big)

    for element in walk:
        assert 0 <= element.offset <= len(data)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", None),
        (b"\0" * 6, None),
        (b"\x08\0\x60\0CS", Problem("truncated", 0)),
        (b"\x08\0\x60\0CS\x02\0M", Problem("truncated", 0)),
        (b"\x08\0\x60\0\1\2\x02\0MR", Problem("structure_broken", 0)),
        (b"\xfe\xff\x00\xe0\0\0\0\0", Problem("structure_broken", 0)),
        (b"\xfe\xff\xdd\xe0\0\0\0\0", Problem("structure_broken", 0)),
        (b"\x08\0\x10\x11SQ\0\0\x08\0\0\0\x08\0\x60\0CS\0\0", Problem("structure_broken", 12)),
        (b"\x08\0\x10\x11SQ\0\0\x08\0\0\0\xfe\xff\x00\xe0\x04\0\0\0abcd", Problem("structure_broken", 12)),
        (b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff", Problem("truncated", 12)),
        (b"\x08\0\x60\0CS\x02\0MR\x08\0\x10\x11SQ\0\0\x10\0\0\0", Problem("truncated", 22)),
    ],
)
def test_problems_have_reason_and_position(data: bytes, problem: Problem | None) -> None:
    walk = Walk(BytesSource(data))
    list(walk)

    assert walk.problem == problem


def test_fragments_and_values() -> None:
    data = (
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
        b"\xfe\xff\x00\xe0\0\0\0\0"
        b"\xfe\xff\x00\xe0\x02\0\0\0ab"
        b"\xfe\xff\xdd\xe0\0\0\0\0"
        b"\xfc\xff\xfc\xffOB\0\0\x02\0\0\0zz"
    )
    walk = Walk(FileSource(io.BytesIO(data), len(data)))

    found = [(element, walk.value(element) if element.length != UNDEFINED else None) for element in walk]

    assert found == [
        (Element(0x7FE00010, "OB", 12, UNDEFINED, 0), None),
        (Element(0xFFFEE000, "", 20, 0, 1), b""),
        (Element(0xFFFEE000, "", 28, 2, 1), b"ab"),
        (Element(0xFFFCFFFC, "OB", 50, 2, 0), b"zz"),
    ]


def test_a_sequence_of_unknown_vr_is_implicit_inside() -> None:
    inner = b"\x08\0\x60\0\x02\0\0\0MR"
    data = (
        b"\x09\0\x10\x11UN\0\0\xff\xff\xff\xff"
        + b"\xfe\xff\x00\xe0"
        + struct.pack("<I", len(inner))
        + inner
        + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )
    walk = Walk(BytesSource(data))

    assert [(element.tag, element.vr) for element in walk][-1] == (0x00080060, "")
    assert walk.problem is None


def test_walks_give_up_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = b"\x08\0\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    deep = Walk(BytesSource(opened * 10), max_depth=5)
    assert max(element.depth for element in deep) == 5
    assert deep.problem is not None
    assert deep.problem.reason == "nested_too_deep"

    monkeypatch.setattr(walker, "MAX_ELEMENTS", 10)
    many = Walk(BytesSource(b"\x08\0\x60\0CS\0\0" * 20))
    assert len(list(many)) == 9
    assert many.problem is not None
    assert many.problem.reason == "too_many_elements"
