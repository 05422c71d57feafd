"""Objects like those before are read in one step, and say exactly what the walk would have said."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.dicom.head import NAMES, HeadReader
from fiona_dagster.dicom.known_heads import MAX_KNOWN, MAX_LEARNED, KnownHeads
from fiona_dagster.dicom.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests.making import data_set

_SHORT, _LONG = (b"CS", b"UI", b"LO"), (b"OB", b"SQ", b"UN")
_TAGS = sorted([*NAMES, 0x00080005, 0x00080060, 0x00081140, 0x00100010, 0xFFFEE00D])


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    count = len(value) if length is None else length
    return head + (struct.pack("<HI", 0, count) if vr in _LONG else struct.pack("<H", count)) + value


ELEMENTS = st.builds(
    element,
    st.sampled_from(_TAGS),
    st.sampled_from(_SHORT + _LONG),
    st.binary(max_size=6) | st.just(b"1.2.3\0") | st.just(bytes(140)),
    st.none() | st.none() | st.sampled_from([0, 7, 0xFFFF]),
)
OBJECTS = st.lists(ELEMENTS, max_size=7).map(b"".join) | st.sampled_from(
    [data_set(uid, study=study) for uid in ("1.2.3", "1.2.4", "1.2.30") for study in ("1.9", "1.999")]
)


def read(data: bytes, known: KnownHeads | None, syntax: str, step: int) -> tuple[object, ...]:
    head = HeadReader(syntax, known)
    for at in range(0, len(data), step):
        head.feed(memoryview(data)[at : at + step])
    head.end()
    return head.values, head.problem, head.done


@given(
    st.lists(OBJECTS, min_size=2, max_size=6),
    st.sampled_from([EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG]),
    st.sampled_from([1, 16, 10_000]),
)
def test_what_was_before_changes_nothing(objects: list[bytes], syntax: str, step: int) -> None:
    known = KnownHeads()
    for data in (*objects, *objects):
        assert read(data, known, syntax, step) == read(data, None, syntax, step)


def test_the_second_of_a_series_is_known() -> None:
    known = KnownHeads()
    first, second, longer = (data_set(uid) for uid in ("1.2.3", "1.2.4", "1.2.3.4.5"))
    assert known.find(first) is None
    read(first, known, EXPLICIT_LITTLE, len(first))
    assert known.find(second) == walked(second)
    assert known.find(second[:60]) is None
    assert known.find(longer) is None
    read(longer, known, EXPLICIT_LITTLE, len(longer))
    assert known.find(longer) == walked(longer)
    assert known.find(second) == walked(second)


def walked(data: bytes) -> dict[int, bytes]:
    head = HeadReader(EXPLICIT_LITTLE)
    head.feed(data)
    return head.values


def test_memory_is_bounded() -> None:
    known = KnownHeads()
    for length in range(2 * MAX_LEARNED):
        data = element(0x00080005, b"LO", bytes(2 * length)) + data_set("1.2.3")
        read(data, known, EXPLICIT_LITTLE, len(data))
        assert len(known._layouts) <= MAX_KNOWN
    assert known._learned == MAX_LEARNED


@given(st.data())
def test_values_may_differ_anywhere(data: st.DataObject) -> None:
    """Objects of two layouts of one size: whatever differs, and however often, is read as walked."""
    uid_tags = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
    orders = [data.draw(st.permutations([0x00080005, 0x00080060, 0x00100010, *uid_tags])) for _ in range(2)]
    known = KnownHeads()
    for _ in range(data.draw(st.integers(2, 8))):
        tags = data.draw(st.sampled_from(orders))
        values = {tag: data.draw(st.sampled_from([b"1.2.3\0", b"1.2.4\0"])) for tag in tags}
        content = b"".join(element(tag, b"UI", values[tag]) for tag in tags)
        assert read(content, known, EXPLICIT_LITTLE, len(content)) == read(
            content, None, EXPLICIT_LITTLE, len(content)
        )


def test_what_differed_once_is_compared_no_more() -> None:
    known = KnownHeads()
    for uid, series in (("1.2.3", "1.5"), ("1.2.4", "1.5"), ("1.2.5", "1.6"), ("1.2.6", "1.7")):
        content = data_set(uid, series=series)
        read(content, known, EXPLICIT_LITTLE, len(content))
        assert known.find(content) == walked(content)
    (layout,) = known._layouts
    assert [element.tag for element in sorted(layout._differing)] == [0x00080018, 0x0020000E]
