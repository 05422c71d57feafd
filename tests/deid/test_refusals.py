"""What would hide identity from the search is refused or blocks, and says so without quoting it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.deid import deidentify_study, verify_outputs
from fiona_dagster.errors import RefusedDicom, UnreadableDicom
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import BIG, EXPLICIT, IMPLICIT

NAME = b"Oblomov^Ilja"


def name_element(syntax: str, value: bytes = NAME, tag: bytes = b"\x10\x00\x10\x00") -> bytes:
    order: Literal["big", "little"] = "big" if syntax == BIG else "little"
    if syntax == BIG:
        tag = tag[1::-1] + tag[3:1:-1]
    if syntax == IMPLICIT:
        return tag + len(value).to_bytes(4, "little") + value
    return tag + b"PN" + len(value).to_bytes(2, order) + value


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_name_after_the_pixel_data_is_refused(make: Make, tmp_path: Path, out: Path, syntax: str) -> None:
    ds = phantoms.image(syntax=syntax)
    ds.SoftwareVersions = "for Oblomov"
    source = phantoms.write(ds, tmp_path / "in.dcm", tail=name_element(syntax))

    report = deidentify_study(make(), [source], out)

    assert [failure.kind for failure in report.failures] == ["RefusedDicom"]
    assert "(0010,0010)" in report.failures[0].reason
    assert "blomov" not in report.failures[0].reason
    assert not list(out.iterdir())


PADDING = {EXPLICIT: b"\xfc\xff\xfc\xffOB\0\0", IMPLICIT: b"\xfc\xff\xfc\xff", BIG: b"\xff\xfc\xff\xfcOB\0\0"}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("tail", [b"", bytes(1), bytes(64), None, b"no element at all"])
def test_padding_after_the_pixel_data_is_dropped(
    make: Make, tmp_path: Path, out: Path, syntax: str, tail: bytes | None
) -> None:
    if tail is None:  # Data Set Trailing Padding
        tail = PADDING[syntax] + (4).to_bytes(4, "big" if syntax == BIG else "little") + b"abcd"
    source = phantoms.write(phantoms.image(syntax=syntax), tmp_path / "in.dcm", tail=tail)

    report = make().file(source, out)

    assert pydicom.dcmread(out / report.name)["PixelData"].value == phantoms.image().PixelData
    assert verify_outputs([source], out, make()).passed


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_an_attribute_that_stands_twice_is_refused(
    make: Make, tmp_path: Path, out: Path, syntax: str
) -> None:
    source = phantoms.write(phantoms.image(syntax=syntax), tmp_path / "in.dcm")
    raw = source.read_bytes()
    there = name_element(syntax, b"Quisling^Wendelin ")
    assert there in raw
    source.write_bytes(raw.replace(there, name_element(syntax) + there, 1))

    with pytest.raises(RefusedDicom, match=r"\(0010,0010\) stands twice"):
        make().file(source, out)

    source.write_bytes(raw.replace(there, there + there, 1))  # twice the same says nothing new
    assert make().file(source, out).name


def test_a_copy_whose_original_cant_be_searched_blocks(
    make: Make, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = []
    for number in (1, 2):
        sources.append(phantoms.write(phantoms.image(number), tmp_path / f"{number}.dcm"))
    report = deidentify_study(make(), sources, out)
    assert verify_outputs(sources, out, make()).passed
    from fiona_dagster.deid import reading, verify

    read = reading.read_original

    def failing(source: Path) -> object:
        if source == sources[1]:
            raise UnreadableDicom("pydicom can't read it")
        return read(source)

    monkeypatch.setattr(verify, "read_original", failing)

    result = verify_outputs(sources, out, make())

    assert [(finding.file, finding.rule) for finding in result.findings] == [
        (report.files[1].name, "its original can't be searched")
    ]


def test_an_original_that_nobody_can_read_needs_no_search(make: Make, tmp_path: Path, out: Path) -> None:
    good = phantoms.write(phantoms.image(), tmp_path / "good.dcm")
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x14\x001.2")
    make().file(good, out)

    assert verify_outputs([good, bad], out, make()).passed


def test_an_unknown_transfer_syntax_is_not_quoted(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    raw = source.read_bytes()
    source.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.48151623.1972.3\0", 1))

    report = deidentify_study(make(), [source], out)

    assert "transfer syntax" in report.failures[0].reason
    assert "(0002,0010)" in report.failures[0].reason
    assert "48151623" not in report.failures[0].reason


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_words_in_a_number_are_emptied(make: Make, tmp_path: Path, out: Path, syntax: str) -> None:
    ds = phantoms.image(syntax=syntax)
    ds.add_new(0x00180081, "DS", "88888888")
    source = phantoms.write(ds, tmp_path / "in.dcm")
    raw = source.read_bytes()
    assert b"88888888" in raw
    source.write_bytes(raw.replace(b"88888888", b"Quisling"))

    report = make().file(source, out)

    assert b"Quisling" not in (out / report.name).read_bytes()
    copy = pydicom.dcmread(out / report.name)
    assert copy.EchoTime is None
    assert copy.SliceThickness == 1.5
    assert verify_outputs([source], out, make()).passed


DAMAGE = st.lists(
    st.tuples(st.integers(0, 3000), st.binary(max_size=6), st.integers(0, 8)), min_size=1, max_size=6
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DAMAGE, st.booleans())
def test_damaged_files_are_refused_or_searched_and_break_nothing(
    make: Make, tmp_path: Path, damage: list[tuple[int, bytes, int]], original: bool
) -> None:
    folder = tmp_path / "copies"
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")

    def hurt(path: Path) -> None:
        raw = path.read_bytes()
        for at, new, gone in damage:
            place = at % len(raw) if raw else 0
            raw = raw[:place] + new + raw[place + gone :]
        path.write_bytes(raw)

    if original:
        hurt(source)
    report = deidentify_study(make(), [source], folder)
    copies = [folder / file.name for file in report.files]
    if not original:
        hurt(copies[0])

    result = verify_outputs([source], folder, make())

    assert len(copies) + len(report.failures) == 1
    assert "uisling" not in str(result.to_json()) + str(report.to_json())
    for copy in copies:
        copy.unlink(missing_ok=True)
