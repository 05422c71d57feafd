"""What no careful writer makes: the fast way gives what the exact way gives, or leaves the object to it.

Copies are held against pydicom too: what must go is not in them, whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, person, rows, verify_outputs
from fiona_dagster.errors import RefusedDicom
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.hostile import PIXELS, Maker
from tests.deid.phantoms import BIG, EXPLICIT, IMPLICIT
from tests.deid.test_fast_way import both

RLE = "1.2.840.10008.1.2.5"
PRIVATE = {"options": ["retain_safe_private"], "safe_private": {"ACME": ["0029,xx10", "0029,xx11"]}}


def deidentifier(**more: Any) -> Deidentifier:
    project = ProjectSettings.model_validate({"name": "DEMO", **more})
    return Deidentifier(project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_1", "V01"))


def compared(tmp_path: Path, maker: Maker, *data_sets: bytes, **more: Any) -> list[str]:
    """What :func:`both` says of objects that one de-identifier sees one after the other."""
    fast = deidentifier(**more)
    paths = [maker.file(tmp_path / f"{number}.dcm", made) for number, made in enumerate(data_sets)]
    return [both(fast, deidentifier(**more), path) for path in paths]


@pytest.fixture(params=[EXPLICIT, IMPLICIT], ids=["explicit", "implicit"])
def maker(request: pytest.FixtureRequest) -> Maker:
    return Maker(request.param)


Case = Callable[[Maker], tuple[int, bytes]]
CASES: dict[str, tuple[Case, dict[str, Any]]] = {
    "odd length of a text": (lambda m: (0x00080070, m.element(0x00080070, "LO", b"ACM")), {}),
    "odd length of numbers": (lambda m: (0x00189087, m.element(0x00189087, "FD", b"1234567")), {}),
    "odd length of a character set": (lambda m: (0x00080005, m.element(0x00080005, "CS", b"ISO_IR 10")), {}),
    "words in reserved bytes": (
        lambda m: (0x00281201, m.element(0x00281201, "OW", b"ab", reserved=b"Qu")),
        {},
    ),
    "the greatest tag": (lambda m: (0xFFFFFFFF, m.element(0xFFFFFFFF, "LO", b"Quisling")), {}),
    "a group length": (lambda m: (0x00100000, m.element(0x00100000, "UL", bytes(4))), {}),
    "character set as LO": (lambda m: (0x00080005, m.element(0x00080005, "LO", b"GB18030 ")), {}),
    "character set as UN": (lambda m: (0x00080005, m.element(0x00080005, "UN", b"GB18030 ")), {}),
    "numbers as UN": (lambda m: (0x00189087, m.element(0x00189087, "UN", b"12345678")), {}),
    "no numbers as UN": (lambda m: (0x00189087, m.element(0x00189087, "UN", b"Quisling's")), {}),
    "a kept name of an institution as UN": (
        lambda m: (0x00080080, m.element(0x00080080, "UN", b"ABCD")),
        {"options": ["retain_institution_identity"]},
    ),
    "assigned codes of open length": (
        lambda m: (0x00120064, m.sequence(0x00120064, m.element(0x00080100, "SH", b"1 "), defined=False)),
        {},
    ),
    "a content sequence as text": (lambda m: (0x0040A730, m.element(0x0040A730, "LO", b"Quisling")), {}),
    "a name as sequence": (
        lambda m: (0x00100010, m.sequence(0x00100010, m.element(0x00100010, "PN", b"Quisling"))),
        {},
    ),
    "creators by case and padding": (
        lambda m: (
            0x00290010,
            b"".join(
                m.element(0x00290010 + n, "LO", creator)
                for n, creator in enumerate((b"acme", b" ACME ", b"ACME\0\0", b"ACME"))
            )
            + b"".join(m.element(0x00291010 + (n << 8), "LO", b"value%d" % n) for n in range(4)),
        ),
        PRIVATE,
    ),
    "a creator of open length": (
        lambda m: (
            0x00290010,
            m.sequence(0x00290010, m.element(0x00290010, "LO", b"ACME"), defined=False)
            + m.element(0x00291010, "LO", b"one "),
        ),
        PRIVATE,
    ),
    "a private group among the overlays": (
        lambda m: (
            0x60010001,
            m.element(0x60010001, "US", b"\1\0")
            + m.element(0x60010100, "US", b"\x10\0")
            + m.element(0x60010102, "US", b"\x0c\0"),
        ),
        PRIVATE,
    ),
    "assigned after the pixels": (
        lambda m: (0x00080070, m.element(0x00080070, "LO", b"ACME")),
        {"rules": [{"tag": "FFFC,FFFC", "action": "replace", "value": "x", "create": True}]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_unusual_elements(maker: Maker, tmp_path: Path, case: str) -> None:
    build, more = CASES[case]
    whole = maker.image(build(maker))

    first, second = compared(tmp_path, maker, whole, maker.image(build(maker), number=2), **more)

    assert first == second
    assert first in ("same", "left")


@pytest.mark.parametrize("vr", ["LO", "US", "UN", "SQ", "UT", "OF", "OB"])
def test_pixel_data_of_any_vr(tmp_path: Path, vr: str) -> None:
    """Also where the first pixels say a length that would fit if the VR had a length of four bytes."""
    maker = Maker()
    planned = (len(PIXELS) - 4).to_bytes(4, "little") + PIXELS[4:]
    images = [maker.image((0x7FE00010, maker.element(0x7FE00010, vr, p))) for p in (PIXELS, planned)]

    assert compared(tmp_path, maker, *images) == ["same" if vr in ("OB", "OF") else "left"] * 2
    if vr != "SQ":
        deidentifier().file(tmp_path / "0.dcm", tmp_path / "out.dcm")
        copy = pydicom.dcmread(tmp_path / "out.dcm")
        assert (tmp_path / "out.dcm").read_bytes().endswith(PIXELS)
        assert (copy["PixelData"].VR, copy["PixelData"].tag) == (
            vr if vr in ("OB", "OF") else "OW",
            0x7FE00010,
        )


@pytest.mark.parametrize("case", ["big endian", "compressed", "a sequence"])
def test_pixel_data_that_are_not_understood_are_never_left_out_in_silence(
    make: Make, tmp_path: Path, case: str
) -> None:
    maker = Maker(RLE if case == "compressed" else EXPLICIT)
    vr, value = ("SQ", b"") if case == "a sequence" else ("UN", PIXELS)
    path = maker.file(tmp_path / "in.dcm", maker.image((0x7FE00010, maker.element(0x7FE00010, vr, value))))
    if case == "big endian":
        phantoms.write(phantoms.image(syntax=BIG), path)
        path.write_bytes(path.read_bytes().replace(b"\x7f\xe0\0\x10OW", b"\x7f\xe0\0\x10UN"))

    with pytest.raises(RefusedDicom, match="no pixels"):
        make().file(path, tmp_path / "out.dcm")


@pytest.mark.parametrize(("value", "vr"), [(b"12345678", "FD"), (b"Quisling's", None)])
def test_what_has_no_vr_is_what_it_can_be_or_goes(tmp_path: Path, value: bytes, vr: str | None) -> None:
    maker = Maker()
    path = maker.file(tmp_path / "in.dcm", maker.image((0x00189087, maker.element(0x00189087, "UN", value))))
    deidentifier().file(path, tmp_path / "out.dcm")
    copy = pydicom.dcmread(tmp_path / "out.dcm")
    assert (copy[0x00189087].VR if 0x00189087 in copy else None) == vr


def test_what_stands_in_place_of_a_value_has_the_vr_of_the_dictionary(tmp_path: Path) -> None:
    """Whatever the file says; a text in place of a moment would be emptied as a leftover by one way alone."""
    maker = Maker()
    moments = (0x300A0736, maker.element(0x300A0736, "LO", b"Quisling"))
    images = [maker.image(moments, number=number) for number in (1, 2)]

    assert compared(tmp_path, maker, *images) == ["same", "same"]
    deidentifier().file(tmp_path / "0.dcm", tmp_path / "out.dcm")
    assert pydicom.dcmread(tmp_path / "out.dcm")[0x300A0736].VR == "DT"


@pytest.mark.parametrize(("value", "vr"), [(b"Q\1u\1i\1s\1l\1i\1n\1g ", "LO"), (b"ZX\0018301\0015577", "ST")])
def test_a_private_value_is_harmless_in_its_vr_alone(tmp_path: Path, value: bytes, vr: str) -> None:
    """Spread letters are looked for in text alone: bytes of one object are text in the next."""
    maker = Maker()
    images = [
        maker.image(
            (0x00290010, maker.element(0x00290010, "LO", b"ACME") + maker.element(0x00291010, kind, value))
        )
        for kind in ("OB", vr)
    ]

    assert compared(tmp_path, maker, *images, **PRIVATE) == ["same", "left"]


@pytest.mark.parametrize("remembered", [1, 7, 700])
def test_more_than_is_remembered(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """Rows, values and outcomes are forgotten and made again, in the midst of an object too."""
    monkeypatch.setattr(rows, "REMEMBERED", remembered)
    monkeypatch.setattr(person, "ROOM", remembered)
    images = [phantoms.image(number, maker.syntax) for number in (1, 2)]
    paths = [phantoms.write(image, tmp_path / f"{n}.dcm") for n, image in enumerate(images)]
    fast = deidentifier()

    assert [both(fast, deidentifier(), path) for path in paths] == ["same", "same"]


def test_private_groups_are_no_curves_or_overlays(tmp_path: Path) -> None:
    """(60xx,1101) is a number of a retired overlay; in a private group it is what its creator says."""
    maker = Maker()
    block = maker.element(0x60010011, "LO", b"ACME") + maker.element(0x60011101, "LO", b"of Quisling ")
    path = maker.file(tmp_path / "in.dcm", maker.image((0x60010011, block)))
    more = {"options": ["retain_safe_private"], "safe_private": {"ACME": ["6001,xx01"]}}

    report = deidentifier(**more).file(path, tmp_path / "out.dcm")

    copy = (tmp_path / report.name).read_bytes()
    assert b"Quisling" not in copy
    assert b"ACME" in copy


def test_a_creator_goes_with_the_last_of_its_block(tmp_path: Path) -> None:
    """Also where that goes at the very end, since it holds an UID of the object."""
    maker = Maker()
    value = maker.element(0x00291010, "OB", phantoms.SERIES.encode() + b"\0")
    source = maker.file(
        tmp_path / "in.dcm", maker.image((0x00290010, maker.element(0x00290010, "LO", b"ACME") + value))
    )
    (tmp_path / "out").mkdir()

    copy = tmp_path / "out" / deidentifier(**PRIVATE).file(source, tmp_path / "out").name

    assert b"ACME" not in copy.read_bytes()
    assert verify_outputs([source], tmp_path / "out", deidentifier(**PRIVATE)).passed


def test_file_meta_information_longer_than_what_is_read_first(maker: Maker, tmp_path: Path) -> None:
    meta = [Maker().element(0x00020102, "OB", b"x" * 70_000)]
    path = maker.file(tmp_path / "in.dcm", maker.image(), meta=meta)

    assert both(deidentifier(), deidentifier(), path) == "same"


def test_values_at_the_end_of_what_is_read_first(maker: Maker, tmp_path: Path) -> None:
    """Whatever stands across byte 65536: a header, a value, an item, the pixel data."""
    start = len(maker.file(tmp_path / "empty.dcm", b"").read_bytes())
    text = maker.element(0x00080070, "LO", b"ACME")
    before = len(maker.image((0x00080070, text))) - len(PIXELS)
    item = maker.element(0x00080104, "LO", b"Kopf")
    filler = len(maker.element(0x00281201, "OW"))
    for shift in range(-40, 8, 3):
        size = (1 << 16) - start - before - filler + shift & ~1
        parts = (
            (0x00082218, maker.sequence(0x00082218, item, defined=bool(shift & 2))),
            (0x00080070, text),
            (0x00281201, maker.element(0x00281201, "OW", bytes(size))),
            (0x00420010, maker.element(0x00420010, "ST", b"title ")),
            (0x00500004, maker.element(0x00500004, "CS", b"YES ")),
        )

        assert compared(tmp_path, maker, maker.image(*parts)) == ["same"], shift


def test_what_follows_the_pixel_data(maker: Maker, tmp_path: Path) -> None:
    name = maker.element(0x00100010, "PN", b"Quisling")
    padding = maker.element(0xFFFCFFFC, "OB", b"Quisling")
    tails = (bytes(64), b"Quisling", padding, name, padding[:-2])

    found = compared(tmp_path, maker, *(maker.image() + tail for tail in tails))

    assert found == ["same", "same", "same", "refused", "refused"]


def test_every_cut(maker: Maker, tmp_path: Path) -> None:
    """A file that ends anywhere has no copy, whichever way."""
    whole = maker.image(
        (0x00082218, maker.sequence(0x00082218, maker.element(0x00080104, "LO", b"Kopf"), defined=False)),
        (0x00290010, maker.element(0x00290010, "LO", b"ACME") + maker.element(0x00291010, "LO", b"ab")),
    )
    fast = deidentifier(**PRIVATE)
    for size in range(1, len(whole), 11):
        path = maker.file(tmp_path / "in.dcm", whole[:size])
        found = both(fast, deidentifier(**PRIVATE), path)

        assert found in ("refused", "left") or size < len(whole) - len(PIXELS), size


def _values(maker: Maker) -> st.SearchStrategy[tuple[int, bytes]]:
    """Elements that stay, go, or tell whose they are, in every VR, with values that identify or not."""
    tags = (
        *(0x00080005, 0x00080008, 0x00080070, 0x00080080, 0x00081030, 0x0008103E, 0x00081090, 0x00081190),
        *(0x00100010, 0x00100020, 0x00100021, 0x00104000, 0x00180015, 0x00181030, 0x00189087, 0x0020000E),
        *(0x00200052, 0x00204000, 0x00280030, 0x00281199, 0x00400244, 0x00540081, 0x60000022, 0x60003000),
        *(0x00081140, 0x00082218, 0x00400275, 0x0040A730, 0x00081115, 0x00880200, 0x00081111),
    )
    vrs = ("LO", "CS", "UI", "DA", "DT", "PN", "IS", "DS", "OB", "UN", "UT", "UR", "FD", "SQ", "US", "AE")
    values = (
        *(b"Quisling", b"of Wendelin", b"83015577", b"ACME", b"20180503", b"1953.07.04", b"ISO_IR 192", b""),
        *(
            "Müller".encode(),
            "Müller".encode("latin-1"),
            b"1.2.826.0.1.3680043.10.4711.2\0",
            b"1.5\\2.5",
            b"x",
        ),
    )
    leaf = st.builds(
        lambda tag, vr, value: (tag, maker.element(tag, vr, value)),
        st.sampled_from(tags),
        st.sampled_from(vrs),
        st.sampled_from(values),
    )

    def group(elements: list[tuple[int, bytes]]) -> bytes:
        return b"".join(made for _, made in sorted(dict(elements).items()))

    def deeper(inner: st.SearchStrategy[tuple[int, bytes]]) -> st.SearchStrategy[tuple[int, bytes]]:
        return st.builds(
            lambda tag, items, vr, defined: (
                tag,
                maker.sequence(tag, *map(group, items), vr=vr, defined=defined),
            ),
            st.sampled_from(
                (0x00081140, 0x00082218, 0x00400275, 0x0040A730, 0x00081115, 0x00880200, 0x00291011)
            ),
            st.lists(st.lists(inner, max_size=4), max_size=3),
            st.sampled_from(("SQ", "SQ", "UN")),
            st.booleans(),
        )

    private = st.builds(
        lambda creator, vr, value: (
            0x00290010,
            maker.element(0x00290010, "LO", creator) + maker.element(0x00291010, vr, value),
        ),
        st.sampled_from((b"ACME", b"acme", b"ACME  ", b"OTHER ")),
        st.sampled_from(vrs),
        st.sampled_from(values),
    )
    return st.recursive(leaf | private, deeper, max_leaves=8)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_remembered_of_one_object_harms_the_next(tmp_path: Path, data: st.DataObject) -> None:
    """Objects of several persons, in any order, by one de-identifier: as if each were the first."""
    maker = Maker(data.draw(st.sampled_from([EXPLICIT, IMPLICIT])))
    options = data.draw(
        st.sampled_from([[], ["clean_descriptors", "retain_long_modified_dates"], ["retain_uids"]])
    )
    more = {**PRIVATE, "options": [*PRIVATE["options"], *options]}
    pool = data.draw(st.lists(_values(maker), min_size=1, max_size=8))
    names = (b"Quisling^Wendelin ", b"Mueller^Acme", b"")
    images = [
        maker.image(*data.draw(st.lists(st.sampled_from(pool), max_size=6)), number=n, name=name)
        for n, name in enumerate(data.draw(st.lists(st.sampled_from(names), min_size=2, max_size=4)))
    ]

    compared(tmp_path, maker, *images, *images, **more)


def test_pydicom_reads_what_is_meant(maker: Maker, tmp_path: Path) -> None:
    """Open lengths, private items and odd values, read again by another."""
    inner = maker.element(0x00290010, "LO", b"ACME") + maker.element(0x00291010, "LO", b"deep")
    code = maker.element(0x00080104, "LO", b"Kopf") + inner
    ds = maker.image(
        (0x00082218, maker.sequence(0x00082218, code, maker.element(0x00080104, "LO", b"a"), defined=False)),
        (0x00080070, maker.element(0x00080070, "LO", b"ACM")),
    )
    path = maker.file(tmp_path / "in.dcm", ds)
    made = deidentifier(**PRIVATE)
    assert both(made, deidentifier(**PRIVATE), path) == "left", "odd lengths are padded by the exact way"

    copy = pydicom.dcmread(tmp_path / made.file(path, tmp_path / "out.dcm").name)

    assert [item.CodeMeaning for item in copy.AnatomicRegionSequence] == ["Kopf", "a"]
    assert copy.AnatomicRegionSequence[0].get_item(0x00291010).value == b"deep"
    assert copy.Manufacturer == "ACM"
    assert copy.PixelData == PIXELS
    assert b"Quisling" not in (tmp_path / "out.dcm").read_bytes()
