"""The example of rules in the style of the ABCD study, on headers made for the purpose."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from fiona_dagster.studies import InstanceHeader, classify, parse_rules

TEXT = resources.files("fiona_dagster.studies").joinpath("data/abcd-style.json").read_text("utf-8")
RULES = parse_rules(TEXT, "abcd-style.json")
FULL = b"\0\0\0\1\0\1\0\0"  # 0, 256, 256, 0


def matrix(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "little") for value in values)


def types(vendor: str | None = None, /, **elements: tuple[int, str, bytes]) -> set[str]:
    header = InstanceHeader(Path("none"))
    header.elements = {tag: (vr, value) for tag, vr, value in elements.values()}
    header.say({name: value for name, value in (("NumSlices", vendor),) if value is not None})
    return set(classify([header], RULES))


SIEMENS = (0x00080070, "LO", b"SIEMENS")
GE = (0x00080070, "LO", b"GE MEDICAL SYSTEMS")
PHILIPS = (0x00080070, "LO", b"Philips Healthcare")
COIL = (0x0051100F, "LO", b"HEA;HEP")
SIEMENS_T1 = {
    "a": SIEMENS,
    "rows": (0x00280010, "US", matrix(256)),
    "steps": (0x00180089, "IS", b"255"),
    "matrix": (0x00181310, "US", FULL),
    "sequence": (0x00180024, "SH", b"*tfl3d1_16ns"),
    "coil": (0x0051100F, "LO", b"HC1-7"),
}
BOLD = {
    "a": SIEMENS,
    "image": (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\M\\MB\\ND\\MOSAIC"),
    "rows": (0x00280010, "US", matrix(720)),
    "steps": (0x00180089, "IS", b"90"),
    "matrix": (0x00181310, "US", matrix(90, 0, 0, 90)),
    "sequence": (0x00180024, "SH", b"epfid2d1_90"),
    "length": (0x0051100A, "LO", b"TA 05:11"),
}


def test_it_holds_all_rulesets_and_types() -> None:
    assert len(RULES.rulesets) == 67
    assert len({ruleset.type for ruleset in RULES.rulesets}) == 30
    assert len(RULES.order) == 67  # none is inactive


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (b"ORIGINAL\\PRIMARY\\M\\ND\\NORM", {"ABCD-T1-NORM"}),
        (b"ORIGINAL\\PRIMARY\\M\\ND", {"ABCD-T1"}),
        (b"ORIGINAL\\PRIMARY\\M\\DIS2D\\ND", {"ABCD-T1"}),  # DIS2D is another element than DIS
        (b"ORIGINAL\\PRIMARY\\M\\DIS", set()),
    ],
)
def test_siemens_t1(image: bytes, expected: set[str]) -> None:
    found = types(**SIEMENS_T1, image=(0x00080008, "CS", image)) - {"SIEMENS", "original", "Coil Error"}

    assert found == expected


def test_a_functional_series_needs_what_siemens_own_header_says() -> None:
    assert "ABCD-rsfMRI" in types("60", **BOLD)
    assert "ABCD-rsfMRI" not in types(None, **BOLD)
    assert "ABCD-nBack-fMRI" in types("60", **{**BOLD, "length": (0x0051100A, "LO", b"TA 05:00")})


def test_ge_and_philips() -> None:
    matrix_ = (0x00181310, "US", FULL)
    promo = (0x0019109C, "LO", b"research/ABCD/mprage_promo")
    assert types(a=GE, m=matrix_, p=promo) == {"GE", "ABCD-T1"}
    assert types(a=GE, m=matrix_, p=promo, o=(0x00180022, "CS", b"FAST_GEMS\\FILTERED_GEMS")) == {
        "GE",
        "ABCD-T1-NORM",
    }
    philips = {"a": PHILIPS, "m": matrix_, "s": (0x00180020, "CS", b"GR"), "v": (0x00180021, "CS", b"MP")}
    assert types(**philips) == {"PHILIPS", "ABCD-T1"}


def test_coil_error_is_a_siemens_image_without_a_known_coil() -> None:
    image = (0x00080008, "CS", b"ORIGINAL\\PRIMARY")
    assert "Coil Error" in types(a=SIEMENS, i=image)
    assert "Coil Error" not in types(a=SIEMENS, i=image, c=COIL)


def test_physiology_and_spectroscopy_are_told_apart() -> None:
    raw = (0x00080016, "UI", b"1.3.12.2.1107.5.9.1")
    assert types("1", a=SIEMENS, c=raw) == {"SIEMENS", "ABCD-MRS"}
    assert types("60", a=SIEMENS, c=raw) == {"SIEMENS", "ABCD-Physio"}
