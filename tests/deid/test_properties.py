"""What holds for every object: any tree of attributes, with references, dates, private blocks and claims."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, Profile, ProjectKey, verify_outputs
from tests.deid import phantoms
from tests.deid.phantoms import BIG, DEFLATED, EXPLICIT, IMPLICIT, ROOT

FEW = settings(max_examples=1000 if os.environ.get("FIONA_TEST_FULL") else 40)
SYNTAXES = st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED])
POOL = [f"{ROOT}.6.{number}" for number in range(4)]
"""UIDs that stand in many places."""
CLAIMS: dict[str, Any] = {
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "made clean by somebody",
    "LongitudinalTemporalInformationModified": "REMOVED",
    "BurnedInAnnotation": "NO",
    "ClinicalTrialProtocolID": "OTHER",
    "ClinicalTrialSubjectID": "OTHER77",
}
DAYS = st.dates(datetime.date(1990, 1, 1), datetime.date(2030, 12, 31))
TAGS = [
    tag
    for tag, (vr, *_) in DicomDictionary.items()
    if tag >> 16 not in (0x0000, 0x0002, 0x0004, 0x0006, 0x0028, 0x7FE0, 0x5400, 0xFFFC, 0xFFFA, 0xFFFE)
    and not 0x5000 <= tag >> 16 <= 0x60FF
    and tag not in (0x00080001, 0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
    and tag & 0xFFFF
    and not (DicomDictionary[tag][0] == "UI" and Profile().action(tag) == "keep")  # classes, syntaxes
]
TEXT = st.text("abcdefghij KLMNOP0123456789-", max_size=16).map(str.strip)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["LO", "SH", "ST", "LT", "UT", "UC", "AE", "PN"], TEXT),
    "CS": st.text("ABCDEF_12", max_size=10),
    "UI": st.sampled_from(POOL),
    "DA": DAYS.map(lambda day: f"{day:%Y%m%d}"),
    "DT": st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2030, 1, 1)).map(
        lambda time: f"{time:%Y%m%d%H%M%S}"
    ),
    "TM": st.times().map(lambda time: f"{time:%H%M%S}"),
    "DS": st.integers(-99999, 99999).map(str),
    "IS": st.integers(-99999, 99999).map(str),
    "US": st.integers(0, 65535),
    "SS": st.integers(-32768, 32767),
    "UL": st.integers(0, 99999),
    "SL": st.integers(-99999, 99999),
    "FD": st.floats(-1e4, 1e4, allow_nan=False),
    "FL": st.integers(-999, 999).map(float),
    "OB": st.binary(max_size=8).map(lambda data: data + b"\0" * (len(data) & 1)),
}


def deidentifier(*options: str) -> Deidentifier:
    project = ProjectSettings.model_validate({"name": "DEMO", "options": options})
    return Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> Dataset:
    """Any attributes of the dictionary with sound values, sequences, and sometimes a private block."""
    made = Dataset()
    for tag in draw(st.lists(st.sampled_from(TAGS), max_size=8, unique=True)):
        vr = DicomDictionary[tag][0][:2]
        if vr == "SQ":
            if depth:
                items = draw(st.lists(trees(depth - 1), max_size=2))
                made[tag] = DataElement(tag, "SQ", Sequence(items))
        elif vr in VALUES:
            made[tag] = DataElement(tag, vr, draw(VALUES[vr]))
    if draw(st.booleans()):
        made.add_new(0x00290010, "LO", "SOME CREATOR")
        made.add_new(0x00291001, "UI", draw(VALUES["UI"]))
        made.add_new(0x00291002, "LO", draw(TEXT))
    return made


def whole(tree: Dataset, syntax: str, number: int = 1) -> Dataset:
    """An image with these attributes."""
    image = phantoms.image(number, syntax)
    for element in tree:
        image[element.tag] = element
    image.SOPInstanceUID = POOL[number]
    return image


def copy_of(image: Dataset, folder: Path, *options: str, name: str = "in.dcm") -> Path:
    source = phantoms.write(image, folder / name)
    out = folder / f"out-{name}"
    out.mkdir(exist_ok=True)
    return out / deidentifier(*options).file(source, out).name


def uids(data_set: Dataset, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], str]]:
    for element in data_set:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from uids(item, (*path, element.tag, number))
        elif element.VR == "UI" and element.value:
            yield (*path, element.tag), str(element.value)


@FEW
@given(trees(), SYNTAXES, st.sampled_from([(), ("retain_long_modified_dates",)]))
def test_the_same_input_twice_gives_the_same_bytes_and_they_pass(
    tree: Dataset, syntax: str, options: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = whole(tree, syntax)
        first = copy_of(image, Path(folder), *options)
        second = copy_of(image, Path(folder), *options, name="again.dcm")

        assert first.read_bytes() == second.read_bytes()
        result = verify_outputs([Path(folder) / "in.dcm"], first.parent, deidentifier(*options))
        assert result.findings == []


@FEW
@given(trees(), SYNTAXES)
def test_a_file_that_claims_to_be_clean_is_treated_like_any_other(tree: Dataset, syntax: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = whole(tree, syntax)
        for keyword in CLAIMS:
            if keyword in plain:
                delattr(plain, keyword)
        plain.BurnedInAnnotation = "NO"  # stays, and decides nothing but the holding back
        without = copy_of(plain, Path(folder)).read_bytes()
        for keyword, value in CLAIMS.items():
            setattr(plain, keyword, value)
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic"
        plain.DeidentificationMethodCodeSequence = [code]

        assert copy_of(plain, Path(folder), name="claims.dcm").read_bytes() == without


@FEW
@given(st.lists(trees(), min_size=2, max_size=3), SYNTAXES)
def test_references_stay_consistent_within_a_study(forest: list[Dataset], syntax: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen: dict[str, str] = {}
        for number, tree in enumerate(forest):
            before = whole(tree, syntax, number)
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
                phantoms.CT,
                POOL[number - 1],
            )
            before.ReferencedInstanceSequence = [reference]
            after = pydicom.dcmread(copy_of(before, Path(folder), name=f"{number}.dcm"))
            old = dict(uids(before))
            for place, new in uids(after):
                original = old.get(place, "")
                if original.startswith(ROOT):
                    assert seen.setdefault(original, new) == new, place
            assert after.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == deidentifier().map_uid(
                POOL[number - 1]
            )
        assert len(set(seen.values())) == len(seen), "two originals got one UID"
        assert not {*seen} & {*seen.values()}


@FEW
@given(st.lists(DAYS, min_size=4, max_size=4), st.times(), SYNTAXES)
def test_intervals_between_dates_stay_and_times_too(
    days: list[datetime.date], time: datetime.time, syntax: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = phantoms.image(1, syntax)
        image.StudyDate, image.AcquisitionDate = (f"{day:%Y%m%d}" for day in days[:2])
        image.AcquisitionTime = f"{time:%H%M%S}"
        image.AcquisitionDateTime = f"{days[2]:%Y%m%d}{time:%H%M%S}"
        item = Dataset()
        item.ScheduledProcedureStepStartDate = f"{days[3]:%Y%m%d}"
        image.RequestAttributesSequence = [item]

        copy = pydicom.dcmread(copy_of(image, Path(folder), "retain_long_modified_dates"))

        shifted = [copy.StudyDate, copy.AcquisitionDate, copy.AcquisitionDateTime[:8]]
        if "RequestAttributesSequence" in copy and copy.RequestAttributesSequence:
            shifted.append(copy.RequestAttributesSequence[0].ScheduledProcedureStepStartDate)
        moved = [datetime.date(int(d[:4]), int(d[4:6]), int(d[6:8])) for d in map(str, shifted)]
        shifts = {new - old for new, old in zip(moved, days, strict=False)}
        assert len(shifts) == 1
        assert shifts.pop() < datetime.timedelta(0)
        assert copy.AcquisitionTime == f"{time:%H%M%S}"
        assert str(copy.AcquisitionDateTime)[8:] == f"{time:%H%M%S}"
