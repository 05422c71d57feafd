"""Elements that repeat from object to object: what is remembered of them gives what a pass over them gives.

Objects are put together from whole elements, whose bytes are changed, exchanged, left out, doubled and
followed by others. The copy by a de-identifier that has seen the other objects must be that of one which has
seen nothing, and that of the exact way, byte by byte and count by count.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from fiona_dagster.deid import Deidentifier, stretches
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import EXPLICIT, IMPLICIT
from tests.deid.test_fast_way import OPTIONS, both

Elements = list[bytes]


def elements(ds: Dataset) -> Elements:
    """The bytes of each element of the top level."""
    found = []
    for element in ds:
        one, body = Dataset(), DicomBytesIO()
        one[element.tag] = element
        body.is_little_endian = True
        body.is_implicit_VR = str(ds.file_meta.TransferSyntaxUID) == IMPLICIT
        write_dataset(body, one)
        found.append(body.getvalue())
    return found


def base(number: int, syntax: str) -> Dataset:
    """A slice with something of everything: kept, replaced, removed, assigned, private, nested."""
    ds = phantoms.image(number, syntax)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SeriesDescription, ds.StudyDescription = "Head 1.0", "Neuro"
    ds.InstitutionName, ds.StationName = "General", "CT01"
    ds.ConvolutionKernel, ds.PatientSex, ds.PatientAge = "Br40", "F", "070Y"
    ds.ClinicalTrialSponsorName, ds.ClinicalTrialSubjectID = "Sponsor", "S-1"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = phantoms.CT, f"{phantoms.ROOT}.3.9"
    ds.ReferencedImageSequence = [reference]
    for group, creator in ((0x0019, "GEMS_ACQU_01"), (0x0029, "SIEMENS CSA HEADER"), (0x2001, "Own 1.0")):
        block = ds.private_block(group, creator, create=True)
        block.add_new(0x08, "CS", "SOM 5")
        block.add_new(0x10, "DS", "1.5")
        block.add_new(0x9C, "LO", "any")
    return ds


def others(syntax: str) -> list[Elements]:
    """Elements that may stand in place of those of the base, or besides them."""
    told = phantoms.image(2, syntax)
    told.PatientName, told.PatientID, told.StudyDate = "Neuro^Head", "CT01", "20190101"
    told.StudyDescription, told.Manufacturer = "of Quisling", f"copy of {phantoms.SERIES}"
    told.StudyInstanceUID, told.SpecificCharacterSet = f"{phantoms.ROOT}.8", "ISO_IR 192"
    more = Dataset()
    more.file_meta = told.file_meta
    more.ClinicalTrialProtocolID, more.ClinicalTrialSiteName = "P", "Wendelin"
    more.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    more.ContentDate, more.SoftwareVersions = "20180503", "of Quisling"
    more.SourceImageSequence = [Dataset()]
    for group, creator in ((0x0019, "GEMS_ACQU_01"), (0x0029, "OTHER"), (0x2001, "Quisling")):
        block = more.private_block(group, creator, create=True)
        block.add_new(0x11, "LO", "Quisling")
        block.add_new(0xF0, "UI", phantoms.SERIES)
    empty = phantoms.image(3, syntax)
    for element in empty:
        if element.VR not in ("SQ", "US", "OW", "FD"):
            element.value = None
    return [elements(each)[:-1] if each is not more else elements(each) for each in (told, more, empty)]


def tag(element: bytes) -> tuple[int, int]:
    return int.from_bytes(element[:2], "little"), int.from_bytes(element[2:4], "little")


def write(folder: Path, parts: Elements, syntax: str) -> Path:
    path = phantoms.write(phantoms.image(1, syntax), folder / "in.dcm")
    whole = path.read_bytes()
    start = len(whole) - sum(map(len, elements(phantoms.image(1, syntax))))
    path.write_bytes(whole[:start] + b"".join(parts))
    return path


@st.composite
def changed(draw: st.DrawFn, parts: Elements, pool: list[bytes], explicit: bool) -> Elements:
    """The elements of one object after up to three changes; the pixel data stay last."""
    made, pixels = parts[:-1], parts[-1]
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["value", "other", "other", "drop", "twice", "swap", "vr", "length"]))
        at = draw(st.integers(0, len(made) - 1))
        element = made[at]
        if kind == "value" and len(element) > 8:
            where = draw(st.integers(8, len(element) - 1))
            made[at] = element[:where] + bytes([draw(st.integers(0, 255))]) + element[where + 1 :]
        elif kind == "other":
            new = draw(st.sampled_from(pool))
            made = sorted([e for e in made if tag(e) != tag(new)] + [new], key=tag)
        elif kind == "drop":
            del made[at]
        elif kind == "twice":
            made.insert(at, element)
        elif kind == "swap" and at:
            made[at - 1 : at + 1] = made[at], made[at - 1]
        elif kind == "vr" and explicit:
            vr = draw(st.sampled_from([b"LO", b"UI", b"DS", b"CS", b"PN", b"UN", b"SQ", b"??"]))
            made[at] = element[:4] + vr + element[6:]
        elif kind == "length":
            made[at] = element[:6] + bytes([draw(st.integers(0, 255))]) + element[7:]
    return [*made, pixels]


def remembered(deidentifier: Deidentifier) -> int:
    """Elements in stretches of the last person."""
    person = deidentifier.fast.rewriter._last
    assert person is not None
    return sum(len(each.tags) for several in person.stretches.found.values() for each in several)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_copies_are_those_of_a_deidentifier_that_saw_nothing(
    make: Make, tmp_path: Path, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "_PRICE", data.draw(st.sampled_from([0, 3])))
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT]))
    options = data.draw(st.sampled_from(OPTIONS))
    plain = elements(base(1, syntax))
    pool = [each for several in others(syntax) for each in several]
    fast = make(*options)
    for number in (1, 2, 3):  # there are stretches before anything is changed
        assert both(fast, make(*options), write(tmp_path, elements(base(number, syntax)), syntax)) == "same"
    assert remembered(fast) > 30

    for _ in range(data.draw(st.integers(1, 6))):
        parts = data.draw(changed(plain, pool, syntax == EXPLICIT))
        path = write(tmp_path, parts, syntax)
        seen_nothing = make(*options)
        assert both(fast, make(*options), path) == both(seen_nothing, make(*options), path)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_element_after_and_in_place_of_known_ones(
    make: Make, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Each other element once among known stretches; each known one left out once, and doubled."""
    plain = elements(base(1, EXPLICIT))
    pool = [each for several in others(EXPLICIT) for each in several]
    objects = [
        sorted([e for e in plain[:-1] if tag(e) != tag(new)] + [new], key=tag) + plain[-1:] for new in pool
    ]
    objects += [plain[:at] + plain[at + 1 :] for at in range(len(plain) - 1)]
    fast, exact = make(*options), make(*options)
    for number in (1, 2, 3):
        assert both(fast, exact, write(tmp_path, elements(base(number, EXPLICIT)), EXPLICIT)) == "same"
    known = remembered(fast)

    found = {both(fast, exact, write(tmp_path, parts, EXPLICIT)) for parts in objects}

    assert known > 30
    assert found >= {"same", "left"}


def test_more_of_a_private_group_behind_a_known_stretch_is_no_other_group(make: Make, tmp_path: Path) -> None:
    """What follows belongs to the block of the creator in the stretch, whose fate depends on it."""
    ds = base(1, EXPLICIT)
    del ds[0x2001, 0x0010]
    block = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    plain = [e for e in elements(ds)[:-1] if not (tag(e)[0] == 0x2001 and tag(e)[1] >= 0x1000)]
    pixels = elements(ds)[-1:]
    assert block.get_tag(0x02) == 0x20011002
    inside, more = b"\x01\x20\x02\x10IS\x02\x001 ", b"\x01\x20\x08\x10IS\x02\x002 "
    fast, options = make("retain_safe_private"), "retain_safe_private"
    for short, longer in ((plain, [*plain, more]), ([*plain, inside], [*plain, inside, more])):
        found = [
            both(fast, make(options), write(tmp_path, parts + pixels, EXPLICIT))
            for parts in (short, short, short, longer, short, longer, longer)
        ]
        assert found == ["same"] * 7
        (tmp_path / "out.dcm").unlink(missing_ok=True)
        fast.file(write(tmp_path, longer + pixels, EXPLICIT), tmp_path / "out.dcm")
        assert more in (tmp_path / "out.dcm").read_bytes()


@pytest.mark.parametrize("volatile", ["uid", "text"])
def test_uids_in_known_text_and_known_uids_in_new_text_are_found(
    make: Make, tmp_path: Path, volatile: str
) -> None:
    fast, found = make(), []
    for number in (1, 2, 3, 4):
        ds = base(number, EXPLICIT)
        ds.SOPInstanceUID, ds.SeriesInstanceUID = f"5.6.7.{number}", "5.6.8.4"
        ds.ConvolutionKernel = "as 5.6.7.4"
        if volatile == "text":
            ds.ConvolutionKernel = f"as 5.6.8.{number}"
        path = write(tmp_path, elements(ds), EXPLICIT)
        found.append(both(fast, make(), path))
        report = fast.file(path, tmp_path / f"out{number}.dcm")
        assert (b"5.6.7.4" in (tmp_path / report.name).read_bytes()) == (volatile == "uid" and number != 4)

    assert found == ["same", "same", "same", "left"]


def test_a_value_that_the_rules_remove_stays_in_no_stretch_of_another_person(
    make: Make, tmp_path: Path
) -> None:
    """Another person's objects are the same but for the name, and a kept text holds it."""
    first = base(1, EXPLICIT)
    first.ProtocolName, first.ConvolutionKernel = "Wagner", "Wagner"
    second = base(2, EXPLICIT)
    second.ProtocolName, second.ConvolutionKernel = "Wagner", "Wagner"
    second.PatientName = "Wagner^Eva"
    deidentifier = make()
    for number, ds in enumerate((first, first, first, second, second, first)):
        source = phantoms.write(ds, tmp_path / f"{number}.dcm")
        report = deidentifier.file(source, tmp_path / f"out{number}.dcm")
        kept = b"Wagner" in (tmp_path / report.name).read_bytes()
        assert kept == (ds is first)


def test_what_is_remembered_is_bounded(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "_PRICE", 0)
    monkeypatch.setattr(stretches, "_ROOM", 20_000)
    fast, exact, most = make(), make(), 0
    for number in range(1, 40):
        ds = base(number, EXPLICIT)
        ds.SeriesDescription, ds.ImageComments = f"Head {number // 3}", f"{number // 2}" * 20
        assert both(fast, exact, write(tmp_path, elements(ds), EXPLICIT)) == "same"
        person = fast.fast.rewriter._last
        assert person is not None
        several = list(person.stretches.found.values())
        most = max(most, sum(each.size for group in several for each in group))
        assert all(len(group) <= stretches._VARIANTS for group in several)
    assert 0 < most <= 20_000
