"""Every attribute of the dictionary has a decision, and what nobody decided on is removed."""

from __future__ import annotations

import csv
import warnings
from importlib.resources import files
from pathlib import Path

import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from fiona_dagster.deid import Profile, verify_outputs
from fiona_dagster.deid.profile import unlisted
from fiona_dagster.dicom.dictionary import dictionary_vr
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import BIG, DEFLATED, EXPLICIT, IMPLICIT

ACTIONS = {"keep", "sequence", "pixels", "uid", "date", "X", "Z", "D"}
TYPED = {"AE", "LO", "LT", "OB", "OV", "OW", "PN", "SH", "ST", "UC", "UN", "UR", "UT"}
"""VRs in which a person or a program may have written anything."""


def table() -> list[dict[str, str]]:
    content = (files("fiona_dagster.deid") / "data" / "unlisted.csv").read_text("utf-8")
    return list(csv.DictReader(content.splitlines()))


def not_in_e11() -> list[int]:
    profile = Profile()
    return [tag for tag in DicomDictionary if tag >> 16 >= 8 and not profile.basic(tag)]


def test_every_attribute_has_a_decision_with_a_reason() -> None:
    for tag in not_in_e11():
        action, reason = unlisted(tag)
        assert action in ACTIONS, hex(tag)
        assert reason != "nobody looked at it", hex(tag)
    assert all(row["reason"] and row["action"] in ACTIONS for row in table())


def test_what_may_carry_text_was_decided_one_by_one() -> None:
    rows = {row["attribute"]: row for row in table()}
    assert not TYPED - {"PN"} & rows.keys()
    assert rows["PN"]["action"] == "X"
    for tag in not_in_e11():
        if dictionary_vr(tag) in TYPED - {"PN"}:
            assert rows[f"{tag:08x}"]["keyword"] == DicomDictionary[tag][4]


def test_no_row_stands_twice_or_contradicts_the_table() -> None:
    names = [row["attribute"] for row in table()]
    assert len(names) == len(set(names))
    listed = [name for name in names if len(name) == 8 and name.isalnum() and name[0].isdigit()]
    assert not [name for name in listed if Profile().basic(int(name, 16))]


def test_retired_text_is_removed_and_numbers_stay() -> None:
    kept = [tag for tag in not_in_e11() if DicomDictionary[tag][3] and unlisted(tag)[0] == "keep"]
    assert not [tag for tag in kept if dictionary_vr(tag) in TYPED - {"OW"}]
    assert Profile().action(0x00200030) == "keep"  # Image Position (ACR-NEMA)


def test_attributes_that_the_dictionary_does_not_have_are_removed() -> None:
    assert unlisted(0x00080FFE) == ("X", "nobody looked at it")
    assert Profile().action(0x002031FF) == "X"  # of a repeating group


GONE = [
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PlacerOrderNumberImagingServiceRequestRetired",
    "FillerOrderNumberImagingServiceRequestRetired",
    "PlacerOrderNumberProcedure",
    "FillerOrderNumberProcedure",
    "NTPSourceAddress",
    "TimeSource",
    "DeviceID",
    "SegmentDescription",
    "InstructionText",
    "ProtocolPlanningInformation",
    "AcquisitionProtocolName",
    "HL7InstanceIdentifier",
    "InterventionDescription",
    "OverrideReason",
    "FrameLabel",
    "StorageMediaFileSetID",
    "GroupOfPatientsIdentificationSequence",
    "RequestingPhysicianIdentificationSequence",
    "EncryptedAttributesSequence",
]
STAYS = {
    "SegmentLabel": "Tumor core",
    "TrackingID": "lesion 1",
    "Radiopharmaceutical": "FDG",
    "ConvolutionKernel": "B30f",
    "SequenceName": "*epfid2d1_64",
    "ReceiveCoilName": "HEA;HEP",
    "SoftwareVersions": "syngo MR E11",
    "RescaleType": "HU",
    "WindowCenterWidthExplanation": "BRAIN",
    "ReconstructionMethod": "OSEM2D 4i8s",
    "AttenuationCorrectionMethod": "measured",
    "BeamName": "Arc 1",
    "SegmentAlgorithmName": "nnU-Net",
    "StackID": "1",
    "ContrastBolusRoute": "IV",
    "ContentLabel": "SEGMENTATION",
}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_forgotten_attributes_go_and_science_stays(
    make: Make, tmp_path: Path, out: Path, syntax: str
) -> None:
    ds, nested = phantoms.image(syntax=syntax), pydicom.Dataset()
    for number, keyword in enumerate(GONE):
        tag = tag_for_keyword(keyword)
        assert tag, keyword
        vr = dictionary_vr(tag)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if vr == "SQ":
                item = pydicom.Dataset()
                item.SoftwareVersions = f"QZGONE{number:03d}"
                ds.add_new(tag, "SQ", [item])
            else:
                ds.add_new(tag, vr, f"QZGONE{number:03d}")
                nested.add_new(tag, vr, f"QZGONE{number:03d}")
    for keyword, value in STAYS.items():
        setattr(ds, keyword, value)
        setattr(nested, keyword, value)
    ds.SharedFunctionalGroupsSequence = [nested]
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    copy = pydicom.dcmread(out / report.name)
    raw = copy.to_json().encode() + (out / report.name).read_bytes()
    assert b"QZGONE" not in raw
    for keyword, value in STAYS.items():
        assert copy[keyword].value == value
        assert copy.SharedFunctionalGroupsSequence[0][keyword].value == value
    assert verify_outputs([source], out, make()).passed
    assert not [keyword for keyword in GONE if keyword in copy]


def test_the_search_blocks_what_should_be_gone(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    ds = pydicom.dcmread(copy)
    ds.NTPSourceAddress, ds.ContentDescription = "ntp.example", "written by somebody"
    ds.save_as(copy)

    found = {(finding.tag, finding.rule) for finding in verify_outputs([source], out, make()).findings}

    wanted = {("(0018,1803)", "not in table E.1-1: X"), ("(0070,0081)", "not in table E.1-1: Z")}
    assert wanted <= found
