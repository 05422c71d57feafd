"""Every row of the standard's tables: gone under the Basic Profile; with an option exactly its own stay."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pydicom
import pytest
from pydicom.dataset import Dataset

from fiona_dagster.config.deid import DeidOption
from fiona_dagster.deid import deidentify_study, verify_outputs
from tests.deid import phantoms, planting
from tests.deid.conftest import Make
from tests.deid.phantoms import EXPLICIT, IMPLICIT, Canaries

OPTIONS = get_args(DeidOption)
MODIFIED = "retain_long_modified_dates"
NUMBERS = ("US", "SS", "UL", "SL", "FD", "FL", "AS", "OB", "OW", "UN")
"""VRs whose canaries can't be told from other values of the object."""


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_every_row_is_gone_at_every_depth(make: Make, tmp_path: Path, out: Path, syntax: str) -> None:
    canaries = Canaries()
    image = planting.nested(canaries, syntax)
    source = phantoms.write(image, tmp_path / "in.dcm", preamble=b"QZCANPREAMBLE".ljust(128))

    copy = out / make().file(source, out).name

    assert len(canaries.planted) > 3 * 850
    canaries.planted["preamble"] = "QZCANPREAMBLE"
    assert phantoms.survivors(canaries, copy) == {}
    kept: Dataset = pydicom.dcmread(copy)
    for keyword in planting.KEPT_SEQUENCES:
        image, kept = image[keyword].value[0], kept[keyword].value[0]
        assert planting.standing(image, kept) == set()
    assert verify_outputs([source], out, make()).passed


def test_every_row_of_the_concepts_is_gone_and_the_measurement_stays(
    make: Make, tmp_path: Path, out: Path
) -> None:
    canaries = Canaries()
    source = phantoms.write(planting.report(canaries), tmp_path / "sr.dcm")

    copy = out / make().file(source, out).name

    assert len(canaries.planted) > 400
    assert phantoms.survivors(canaries, copy) == {}
    width = pydicom.dcmread(copy).ContentSequence[-1]
    assert width.ConceptNameCodeSequence[0].CodeMeaning == "Width"
    assert width.MeasuredValueSequence[0].NumericValue == 12.5
    assert width.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeMeaning == "millimeter"
    assert verify_outputs([source], out, make()).passed


@pytest.mark.parametrize("option", ["retain_uids", "retain_long_full_dates"])
def test_what_belongs_to_no_data_set_goes_with_every_option(
    make: Make, tmp_path: Path, out: Path, option: str
) -> None:
    image = phantoms.image()
    for item in (image, image.AnatomicRegionSequence[0]):
        item.add_new(0x00041511, "UI", f"{phantoms.ROOT}.88")
    source = phantoms.write(image, tmp_path / "in.dcm")

    copy = pydicom.dcmread(out / make(option).file(source, out).name)

    assert [0x00041511 in item for item in (copy, copy.AnatomicRegionSequence[0])] == [False, False]
    assert verify_outputs([source], out, make(option)).passed


@pytest.mark.parametrize(
    ("last", "passed"), [("20180503.101112", True), ("19530704", False), ("83015577", False)]
)
def test_kept_uids_may_hold_the_date_of_the_study_and_nothing_else(
    make: Make, tmp_path: Path, out: Path, last: str, passed: bool
) -> None:
    image = phantoms.image()
    image.PatientID, image.DeviceSerialNumber = "83015577", "66012"
    image.StudyInstanceUID, image.SOPInstanceUID = f"{phantoms.ROOT}.{last}", f"{phantoms.ROOT}.{last}.7"
    item = Dataset()
    item.UID = f"{phantoms.ROOT}.{last}.8"
    image.ContentSequence = [item]
    source = phantoms.write(image, tmp_path / "in.dcm")

    copy = out / make("retain_uids").file(source, out).name

    kept = pydicom.dcmread(copy)
    assert kept.StudyInstanceUID == image.StudyInstanceUID
    assert kept.ContentSequence[0].UID == item.UID
    assert verify_outputs([source], out, make("retain_uids")).passed is passed


def of_option(option: str, cell: str) -> set[str]:
    """Rows that an option keeps (K) or cleans (C), as places."""
    return {f"{row.tag:08x}" for row in planting.table() if row.options.get(option) == cell}


@pytest.mark.parametrize("option", ["", *OPTIONS])
def test_exactly_what_an_option_keeps_survives(make: Make, tmp_path: Path, out: Path, option: str) -> None:
    canaries = Canaries()
    source = phantoms.write(planting.flat(canaries), tmp_path / "in.dcm")
    deidentifier = make(*filter(None, [option]))

    copy = out / deidentifier.file(source, out).name

    left = planting.survived(copy, canaries)
    assigned = {f"{tag:08x}" for tag in deidentifier.assigned_tags()} | {"00080050", "00120063"}
    kept = {place for place in of_option(option, "K") if place in canaries.planted} - assigned
    assert left <= kept | of_option(option, "C")
    assert {place for place in kept - left if phantoms.vr_of(int(place, 16)) not in NUMBERS} == set()
    result = verify_outputs([source], out, deidentifier)
    assert (result.findings, len(result.files)) == ([], 1)


@pytest.mark.parametrize("option", OPTIONS)
def test_what_an_option_cleans_loses_the_person_and_keeps_harmless_text(
    make: Make, tmp_path: Path, out: Path, option: str
) -> None:
    canaries = Canaries()
    image = planting.flat(canaries, words="for Wendelin Quisling ZX83015577")
    source = phantoms.write(image, tmp_path / "in.dcm")

    copy = out / make(option).file(source, out).name

    raw = copy.read_bytes()
    for word in (b"Quisling", b"QUISLING", b"Wendelin", b"ZX83015577", b"19530704"):
        assert word not in raw
    if option == "clean_descriptors":
        assigned = {f"{tag:08x}" for tag in make().assigned_tags()}
        texts = {place for place in of_option(option, "C") if place in canaries.planted} - assigned
        texts = {place for place in texts if phantoms.vr_of(int(place, 16)) in ("LO", "ST", "LT", "UT")}
        assert len(texts) > 60
        assert texts - planting.survived(copy, canaries) == set(), "the rest of the text stays"
    assert verify_outputs([source], out, make(option)).findings == []


@pytest.mark.shared
@pytest.mark.parametrize("option", ["", "retain_safe_private"])
def test_safe_private_attributes_stay_with_their_option_alone(
    make: Make, tmp_path: Path, out: Path, shared: Path, option: str
) -> None:
    if option and option not in OPTIONS:
        pytest.skip(f"needs {option}")
    (table,) = (shared / "data" / "ps3.15").glob("table_e3.10-1*.csv")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    canaries = Canaries()
    source = phantoms.write(planting.with_private(canaries, rows), tmp_path / "in.dcm")
    deidentifier = make(*filter(None, [option]))

    copy = out / deidentifier.file(source, out).name

    left = planting.survived(copy, canaries)
    original = pydicom.dcmread(source)
    listed = {place for place in canaries.planted if not place.startswith("NOBODY")}
    assert left - (listed if option else set()) == set()
    told = {place for place in listed if original[_tag(place)].VR not in (*NUMBERS, "DA", "DT", "TM", "UI")}
    assert len(told) > 100
    assert not option or told - left == set()
    assert verify_outputs([source], out, deidentifier).findings == []


def _tag(place: str) -> int:
    return int(place.rpartition("|")[2], 16)


def pet() -> Dataset:
    """A slice of a PET with what uptake values are computed from."""
    made = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.128")
    made.Modality, made.Units, made.DecayCorrection = "PT", "BQML", "START"
    made.CorrectedImage, made.SeriesType = ["DECY", "ATTN"], ["STATIC", "IMAGE"]
    made.SeriesDate, made.SeriesTime = "20180504", "000500"
    made.PatientWeight, made.PatientSize, made.PatientSex = "81.5", "1.83", "M"
    made.ActualFrameDuration, made.FrameReferenceTime = "120000", "60000"
    dose = Dataset()
    dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = "370000000", "6586.2"
    dose.RadiopharmaceuticalStartTime, dose.RadiopharmaceuticalStartDateTime = "231500", "20180503231500"
    dose.Radiopharmaceutical = "Fluorodeoxyglucose"
    made.RadiopharmaceuticalInformationSequence = [dose]
    return made


def test_uptake_values_can_still_be_computed(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(pet(), tmp_path / "in.dcm")
    options = [o for o in (MODIFIED, "retain_patient_characteristics") if o in OPTIONS]

    before, after = pydicom.dcmread(source), pydicom.dcmread(out / make(*options).file(source, out).name)

    for keyword in ("Units", "DecayCorrection", "CorrectedImage", "SeriesType", "RescaleSlope", "SeriesTime"):
        assert after[keyword].value == before[keyword].value, keyword
    old, new = (each.RadiopharmaceuticalInformationSequence[0] for each in (before, after))
    for keyword in ("RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime"):
        assert new[keyword].value == old[keyword].value, keyword
    assert after.FrameReferenceTime == before.FrameReferenceTime
    assert after.ActualFrameDuration == before.ActualFrameDuration
    if len(options) == 2:
        assert (after.PatientWeight, after.PatientSize, after.PatientSex) == (81.5, 1.83, "M")


def test_diffusion_and_timing_stay(make: Make, tmp_path: Path, out: Path) -> None:
    image = phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.4")
    image.DiffusionBValue, image.DiffusionGradientOrientation = 1000.0, [0.0, 0.6, 0.8]
    image.RepetitionTime, image.EchoTime, image.FlipAngle, image.InversionTime = "2000", "30", "90", "900"
    image.TriggerTime, image.TemporalPositionIdentifier, image.ScanOptions = "62.5", 3, ["FS", "PFP"]
    image.SequenceName, image.InPlanePhaseEncodingDirection = "*epfid2d1_64", "COL"
    image.ReceiveCoilName, image.ConvolutionKernel = "HeadNeck_64", "B30f"
    source = phantoms.write(image, tmp_path / "in.dcm")

    after = pydicom.dcmread(out / make().file(source, out).name)

    for keyword in (
        *("DiffusionBValue", "DiffusionGradientOrientation", "RepetitionTime", "EchoTime", "FlipAngle"),
        *("InversionTime", "TriggerTime", "TemporalPositionIdentifier", "ScanOptions", "SequenceName"),
        *("InPlanePhaseEncodingDirection", "ReceiveCoilName", "ConvolutionKernel"),
    ):
        assert after[keyword].value == image[keyword].value, keyword


@pytest.mark.shared
@pytest.mark.parametrize("option", ["", *OPTIONS])
def test_of_the_shared_planted_files_survives_what_the_option_keeps(
    make: Make, out: Path, shared: Path, option: str
) -> None:
    folder = shared / "data" / "visible" / "phi_planted"
    sources = sorted(folder.glob("*.dcm"))
    cells = {f"{row.tag:08x}": row.options.get(option, "") for row in planting.table()}
    cells |= dict.fromkeys(("00080018", "0020000d", "0020000e"), "K" if option == "retain_uids" else "")
    report = deidentify_study(make(*filter(None, [option])), sources, out)
    copies = {old.name: (out / new.name).read_bytes() for old, new in zip(sources, report.files, strict=True)}
    with (folder / "truth.csv").open(encoding="utf-8") as file:
        truth = [row for row in csv.DictReader(file) if len(row["canary"]) >= 8]

    left = [row for row in truth if row["canary"].encode() in copies[row["file"]]]

    assert len(truth) > 2000
    kept_around = {row["location"] for row in left if not cells.get(row["tag"].lower())}
    assert {place for place in kept_around if not cells.get(place[:8])} == set(), "only in what is kept"
    wanted = {
        row["location"] for row in truth if row["kind"] == "listed" and cells[row["tag"].lower()] == "K"
    }
    assigned = {f"{tag:08x}" for tag in make().assigned_tags()} | {"00080050", "00120063"}
    assert wanted - assigned - {row["location"] for row in left} == set()


ALL = [option for option in OPTIONS if option not in ("retain_long_full_dates", "retain_uids")]
WORDS = (
    "Q u i s l i n g for Wendelin QUISLING born 04.07.1953 id ZX83015577 acc ACC4455667 UXVpc2xpbmc= 51756973"
)
TELLING = (
    "Quisling",
    "QUISLING",
    "Wendelin",
    "ZX83015577",
    "04.07.1953",
    "ACC4455667",
    "UXVpc2xp",
    "Q u i s",
)


def nested_with_words() -> Dataset:
    image = phantoms.image()
    into: Dataset = image
    for keyword in planting.KEPT_SEQUENCES:
        item = Dataset()
        planting.plant(item, Canaries(), planting.table(), keyword, words=WORDS)
        setattr(into, keyword, [item])
        into = item
    return image


def report_with_words() -> Dataset:
    made = planting.report(Canaries())
    items = [*made.ContentSequence, *made.ContentSequence[-2].ContentSequence]
    for item in items:
        if "TextValue" in item:
            item.TextValue = WORDS
        name = item.ConceptNameCodeSequence[0]
        name.CodeMeaning = f"{name.CodeMeaning[:40]} of Quisling"
    return made


@pytest.mark.parametrize("made", [nested_with_words, report_with_words])
def test_all_options_together_leave_nothing_of_the_person(
    make: Make, tmp_path: Path, out: Path, made: Callable[[], Dataset]
) -> None:
    source = phantoms.write(made(), tmp_path / "in.dcm")
    deidentifier = make(*ALL)

    copy = out / deidentifier.file(source, out).name

    raw = copy.read_bytes()
    assert [word for word in TELLING if word.encode() in raw] == []
    assert verify_outputs([source], out, deidentifier).findings == []
