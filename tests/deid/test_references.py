"""References to instances of the usual form are treated by their bytes: as the exact engine treats them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.deid import passage
from fiona_dagster.deid.learned import tells
from fiona_dagster.deid.notes import Notes
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import EXPLICIT
from tests.deid.test_fast_way import OPTIONS, both
from tests.deid.test_stretches import elements, write

CLASS, INSTANCE = b"\x08\0\x50\x11UI", b"\x08\0\x55\x11UI"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ITEM, UNDEFINED, ITEM_END, END = (
    b"\xfe\xff\0\xe0",
    b"\xff" * 4,
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
)


def uid(head: bytes, value: bytes) -> bytes:
    """An odd length is no mistake here."""
    return head + len(value).to_bytes(2, "little") + value


def item(*parts: bytes, more: int = 0) -> bytes:
    value = b"".join(parts)
    return ITEM + (len(value) + more).to_bytes(4, "little") + value


def sequence(value: bytes, more: int = 0) -> bytes:
    return b"\x08\0\x40\x11SQ\0\0" + (len(value) + more).to_bytes(4, "little") + value


class_uid = uid(CLASS, phantoms.CT.encode() + b"\0")
usual = item(class_uid, uid(INSTANCE, f"{phantoms.ROOT}.3.99".encode()))
frames = b"\x08\0\x60\x11IS\x02\x003 "
uids = st.sampled_from([
    phantoms.SERIES.encode(),
    phantoms.SERIES.encode() + b"\0",
    f"{phantoms.ROOT}.3.99".encode(),
    b"1.2.840.10008.1.2",
    b"1.2.3\\4.5.6.7.8",
    b" 1.2.3.4.5 ",
    b"Quisling",
    b"\xff\xfe.1.2",
    b"",
])  # fmt: skip
heads = st.sampled_from(
    [CLASS, CLASS, CLASS, INSTANCE, INSTANCE, INSTANCE, b"\x08\0\x55\x11UN", b"\x08\0\x50\x11LO"]
)
parts = st.one_of(st.builds(uid, heads, uids), st.just(frames), st.just(class_uid))
classes = st.one_of(
    st.just(class_uid), st.just(class_uid), st.builds(uid, st.just(CLASS), uids), st.just(class_uid[:-1])
)
items = st.one_of(
    st.just(usual),
    st.builds(lambda a, b: item(a, uid(INSTANCE, b)), classes, uids),
    st.builds(lambda a, b: item(a, uid(INSTANCE, b)), classes, uids),
    st.lists(parts, max_size=3).map(lambda several: item(*several)),
    st.lists(parts, min_size=1, max_size=2).map(lambda several: item(*several, more=2)),
    st.lists(parts, max_size=2).map(lambda several: ITEM + UNDEFINED + b"".join(several) + ITEM_END),
)
sequences = st.one_of(
    st.lists(items, max_size=2).map(lambda several: sequence(b"".join(several))),
    st.lists(items, max_size=2).map(lambda several: sequence(b"".join(several))),
    st.builds(
        lambda several, more: sequence(b"".join(several), more),
        st.lists(items, min_size=1, max_size=2),
        st.sampled_from([2, -2]),
    ),
    st.lists(items, max_size=2).map(
        lambda several: b"\x08\0\x40\x11SQ\0\0" + UNDEFINED + b"".join(several) + END
    ),
)


def with_references(made: bytes) -> list[bytes]:
    """In the functional groups of a frame: there the standard keeps the references."""
    plain = elements(phantoms.image(1, EXPLICIT, ENHANCED_MR))
    frame = item(made)
    groups = b"\x00\x52\x30\x92SQ\0\0" + len(frame).to_bytes(4, "little") + frame
    return [*plain[:-1], groups, plain[-1]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(sequences, min_size=1, max_size=8), options=st.sampled_from(OPTIONS), unlike=st.booleans()
)
def test_references_of_any_form(
    make: Make, tmp_path: Path, made: list[bytes], options: tuple[str, ...], unlike: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(passage, "_UNLIKE", -1 if unlike else 100)
    fast = make(*options)
    assert both(fast, make(*options), write(tmp_path, with_references(sequence(usual)), EXPLICIT)) == "same"
    for each in made:
        both(fast, make(*options), write(tmp_path, with_references(each), EXPLICIT))


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (sequence(item(class_uid, uid(INSTANCE, b"1.2.3\\4.5.6.7.8 "))), "same"),
        (sequence(item(class_uid[:6] + b"\x19\0" + class_uid[8:-1], uid(INSTANCE, b"1.2.3.4.5.6"))), "same"),
        (sequence(usual + usual, more=-len(usual) + 8), "refused"),
        (sequence(usual, more=-2), "refused"),
        (sequence(item(uid(CLASS, phantoms.SERIES.encode() + b"\0"), uid(INSTANCE, b"1.2.3"))), "left"),
    ],
)
def test_references_that_look_like_usual_ones(make: Make, tmp_path: Path, made: bytes, found: str) -> None:
    got = both(make(), make(), write(tmp_path, with_references(made), EXPLICIT))
    assert got == found or (found == "refused" and got == "left")


def test_the_usual_form_is_taken_for_it(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    own = Notes._references

    def watched(self: Notes, *args: Any) -> int:
        found.append(own(self, *args))
        return found[-1]

    monkeypatch.setattr(Notes, "_references", watched)
    unusual = sequence(item(class_uid, uid(INSTANCE, b"1.2.3.4.5\0"), frames))
    for made, is_usual in ((sequence(usual + usual), True), (sequence(b""), True), (unusual, False)):
        found.clear()
        deidentifier = make()
        assert both(deidentifier, make(), write(tmp_path, with_references(made), EXPLICIT)) == "same"
        assert found
        assert all((stop >= 0) == is_usual for stop in found)
        assert len(found) > 1
        deidentifier.file(tmp_path / "in.dcm", tmp_path / "out.dcm")
        copy = (tmp_path / "out.dcm").read_bytes()
        assert f"{phantoms.ROOT}.3.99".encode() not in copy
        assert copy.count(INSTANCE) == made.count(INSTANCE)


def test_neither_element_of_a_reference_tells_of_the_person() -> None:
    """Or the listening pass would have to look into them."""
    assert not tells(0x00081150, "UI")
    assert not tells(0x00081155, "UI")
