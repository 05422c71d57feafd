"""With each option exactly those planted values survive that the option keeps, and the copy says so."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.datadict import tag_for_keyword

from fiona_dagster.config import ProjectSettings
from fiona_dagster.config.deid import DeidOption
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, verify_outputs
from fiona_dagster.deid.options import NEWER_VRS
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import EXPLICIT, IMPLICIT, Canaries

CODES = {
    "retain_safe_private": "113111",
    "retain_uids": "113110",
    "retain_device_identity": "113109",
    "retain_institution_identity": "113112",
    "retain_patient_characteristics": "113108",
    "retain_long_full_dates": "113106",
    "retain_long_modified_dates": "113107",
    "clean_descriptors": "113105",
    "clean_structured_content": "113104",
    "clean_graphics": "113103",
}
"""CID 7050."""


def table() -> dict[str, dict[str, str]]:
    """Tag -> cells of the option columns, read by itself."""
    content = (files("fiona_dagster.deid") / "data" / "attributes.csv").read_text("utf-8")
    return {
        row["tag"]: dict(part.split("=") for part in row["options"].split())
        for row in csv.DictReader(content.splitlines())
    }


def may_stay(where: str, option: str) -> bool:
    """Whether the planted value at ``where`` is one that the option keeps or, being harmless, cleans."""
    tag, _, inner = where.partition(".")
    cells = table().get(tag, {})
    if tag == "deep":  # an item of references with attributes of every kind
        tag, inner = (f"{int(tag_for_keyword(inner) or 0):08x}", "") if inner else ("00081155", "")
        cells = table()[tag]
    if inner:  # what a kept sequence holds: codes, and UIDs where UIDs are kept; never a name
        return inner == "CodeMeaning" or (inner == "uid" and option == "retain_uids")
    return bool(cells.get(option))


@pytest.mark.parametrize(
    ("option", "syntax"),
    [(option, (EXPLICIT, IMPLICIT)[number % 2]) for number, option in enumerate(get_args(DeidOption))],
)
def test_exactly_what_the_option_keeps_survives(
    make: Make, tmp_path: Path, out: Path, option: str, syntax: str
) -> None:
    canaries = Canaries()
    source = phantoms.write(phantoms.planted(canaries, syntax), tmp_path / "in.dcm")
    deidentifier = make(option)

    report = deidentifier.file(source, out)

    survivors = phantoms.survivors(canaries, out / report.name)
    assert [where for where in survivors if not may_stay(where, option)] == []
    wanted = {
        where
        for where in canaries.planted
        if table().get(where, {}).get(option) == "K"
        and len(canaries.planted[where]) >= 8
        and int(where, 16) not in NEWER_VRS  # planted as text, since pydicom does not know better
    }
    assert wanted <= survivors.keys()
    verification = verify_outputs([source], out, deidentifier)
    assert verification.passed, verification.findings
    copy = pydicom.dcmread(out / report.name)
    codes = [item.CodeValue for item in copy.DeidentificationMethodCodeSequence]
    assert codes == ["113100", CODES[option]]
    dates = {"retain_long_full_dates": "UNMODIFIED", "retain_long_modified_dates": "MODIFIED"}
    assert copy.LongitudinalTemporalInformationModified == dates.get(option, "REMOVED")


def test_all_options_together_are_coded_once_each_in_ascending_order(
    make: Make, tmp_path: Path, out: Path
) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    options = [option for option in get_args(DeidOption) if option != "retain_long_modified_dates"]

    report = make(*options).file(source, out)

    copy = pydicom.dcmread(out / report.name)
    codes = [item.CodeValue for item in copy.DeidentificationMethodCodeSequence]
    assert codes == ["113100", *sorted(CODES[option] for option in options)]
    assert copy.StudyInstanceUID == phantoms.STUDY
    assert copy.StudyDate == "20180503"
    assert copy.PatientName == "SUBJ_0001"
    assert verify_outputs([source], out, make(*options)).passed


def test_an_institution_that_is_kept_is_not_overwritten(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.InstitutionName = "St. Olga Hospital"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    bare = phantoms.write(phantoms.image(2), tmp_path / "bare.dcm")

    kept = make("retain_institution_identity").file(source, out)
    without = make("retain_institution_identity").file(bare, out)

    assert pydicom.dcmread(out / kept.name).InstitutionName == "St. Olga Hospital"
    assert pydicom.dcmread(out / without.name).InstitutionName == "DEMO"
    assert verify_outputs([source, bare], out, make("retain_institution_identity")).passed


def test_dates_are_kept_or_modified_but_not_both() -> None:
    with pytest.raises(ValidationError, match="select one of the two"):
        ProjectSettings.model_validate(
            {"name": "P", "options": ["retain_long_full_dates", "retain_long_modified_dates"]}
        )


@pytest.mark.parametrize(
    ("born", "seen", "written"),
    [
        ("19580512", "20240102", "19580101"),
        ("1958.05.12", "20240102", "19580101"),
        ("19580101", "20240102", "19580101"),
        ("19350512", "20240102", "19350101"),
        ("19340512", "20240102", ""),  # may be 90 before the year is over
        ("20250512", "20240102", ""),
        ("19340512", "", ""),
        ("", "20240102", ""),
        ("1958", "20240102", ""),
    ],
)
def test_the_year_of_birth_may_stay(tmp_path: Path, out: Path, born: str, seen: str, written: str) -> None:
    project = ProjectSettings.model_validate({"name": "DEMO", "patient_birth_date": "year"})
    made = Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )
    image = phantoms.image()
    with pydicom.config.disable_value_validation():
        image.PatientBirthDate = born
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
            setattr(image, keyword, seen)
        source = phantoms.write(image, tmp_path / "in.dcm")

    report = made.file(source, out)

    copy = out / report.name
    assert pydicom.dcmread(copy).PatientBirthDate == written
    assert verify_outputs([source], out, made).passed

    with pydicom.config.disable_value_validation():
        leaked = pydicom.dcmread(copy)
        leaked.PatientBirthDate = "19580512"
        leaked.save_as(copy)
    findings = verify_outputs([source], out, made).findings
    assert any("(0010,0030)" in str(finding.tag) for finding in findings)


def test_a_dummy_can_stand_for_the_date_of_birth(tmp_path: Path, out: Path) -> None:
    project = ProjectSettings.model_validate({"name": "DEMO", "patient_birth_date": "19000101"})
    made = Deidentifier(
        project, ProjectKey("DEMO", bytes(range(32))), Assignment("DEMO", "SUBJ_0001", "Baseline")
    )
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")

    report = made.file(source, out)

    assert pydicom.dcmread(out / report.name).PatientBirthDate == "19000101"
    assert verify_outputs([source], out, made).passed
