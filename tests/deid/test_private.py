"""Private attributes that a project keeps: creators stay whatever a patient is called, and no name stays."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, verify_outputs
from tests.deid.hostile import Maker
from tests.deid.phantoms import EXPLICIT, IMPLICIT

CREATOR, OTHER = "QUISLING WAVES", "Wendelin Quisling"
NAME = b"scan of Quisling "


def keeping(*elements: str) -> Deidentifier:
    project = ProjectSettings.model_validate(
        {"name": "DEMO", "options": ["retain_safe_private"], "safe_private": {CREATOR: list(elements)}}
    )
    return Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )


def even(value: bytes) -> bytes:
    return value + b" " * (len(value) & 1)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("nested", [False, True])
def test_a_patient_called_like_a_maker_stops_nothing(
    tmp_path: Path, out: Path, syntax: str, nested: bool
) -> None:
    maker = Maker(syntax)
    block = maker.element(0x00990010, "LO", even(CREATOR.encode())) + maker.element(0x00991001, "DS", b"1.25")
    block += maker.element(0x00990011, "LO", even(OTHER.encode())) + maker.element(0x00991101, "DS", b"1.5 ")
    where = 0x00082218 if nested else 0x00990010
    data_set = maker.image((where, maker.sequence(where, block) if nested else block))
    source = maker.file(tmp_path / "in.dcm", data_set)

    copy = out / keeping("0099,xx01").file(source, out).name

    read = pydicom.dcmread(copy)
    inside = read.AnatomicRegionSequence[0] if nested else read
    assert (inside[0x00990010].value, 0x00991001 in inside) == (CREATOR, True)
    assert OTHER.encode() not in copy.read_bytes(), "a creator that nobody named may be anything"
    assert verify_outputs([source], out, keeping("0099,xx01")).passed
    copy.write_bytes(copy.read_bytes().replace(CREATOR.encode(), b"QUISLING WAVEX"))
    assert not verify_outputs([source], out, keeping("0099,xx01")).passed


ITEM = Maker(IMPLICIT).element(0x00100010, "PN", b"Quisling")
AS_SEQUENCE = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(ITEM)) + ITEM


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    ("vr", "value"),
    [
        ("UN", NAME),
        ("OB", NAME),
        ("OW", "Quisling".encode("utf-16-le")),
        ("UN", AS_SEQUENCE),
        ("UT", NAME),
        ("FD", b"Quisling"),
        ("UN", b"ZX83015577"),
    ],
)
def test_identity_in_what_a_project_keeps_goes_and_stops_nothing(
    tmp_path: Path, out: Path, syntax: str, vr: str, value: bytes
) -> None:
    maker = Maker(syntax)
    block = maker.element(0x00990010, "LO", even(CREATOR.encode()))
    block += maker.element(0x00991001, vr, even(value)) + maker.element(0x00991002, "OB", b"Anna" + bytes(4))
    source = maker.file(tmp_path / "in.dcm", maker.image((0x00990010, block), name=b"Quisling^Anna "))

    copy = out / keeping("0099,xx01", "0099,xx02").file(source, out).name

    content = copy.read_bytes().replace(CREATOR.encode(), b"").replace(b"\0", b"")
    assert b"uisling" not in content
    assert b"ZX83015577" not in content
    assert pydicom.dcmread(copy)[0x00991002].value[:4] == b"Anna", "four letters stand in bytes by chance"
    assert verify_outputs([source], out, keeping("0099,xx01", "0099,xx02")).passed
