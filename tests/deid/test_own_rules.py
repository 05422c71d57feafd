"""A project's own rules: every action, every way to name a tag, and what no rule may do."""

from __future__ import annotations

import csv
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import ValidationError
from pydicom._dicom_dict import DicomDictionary

from fiona_dagster.config import ProjectSettings
from fiona_dagster.config.deid import never_kept_tags
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, deidentify_study, verify_outputs
from fiona_dagster.errors import PatternTooSlow
from tests.deid import phantoms
from tests.deid.phantoms import IMPLICIT


def deidentifier(*rules: dict[str, Any], **more: Any) -> Deidentifier:
    project = ProjectSettings.model_validate({"name": "DEMO", "rules": rules, **more})
    assignment = Assignment("DEMO", "SUBJ_0001", "Baseline", site="NORTH")
    return Deidentifier(project, ProjectKey("DEMO", bytes(range(32))), assignment)


def through(tmp_path: Path, ds: pydicom.Dataset, made: Deidentifier) -> pydicom.Dataset:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    source = phantoms.write(ds, tmp_path / "in.dcm")
    report = made.file(source, out)
    assert verify_outputs([source], out, made).findings == []
    return pydicom.dcmread(out / report.name)


def test_every_action_does_what_it_says(tmp_path: Path) -> None:
    ds = phantoms.image()
    ds.SeriesDescription, ds.StudyDescription, ds.ProtocolName = "axial T1", "Knee of Quisling", "v7 secret"
    ds.ImageComments, ds.StationName, ds.BodyPartExamined = "visit 3 of 5, nothing else", "CT01", "KNEE"
    ds.ContentDate, ds.KVP, ds.DeviceUID = "20180503", "120", phantoms.ROOT + ".55"
    ds.StudyComments, ds.AcquisitionComments = "anything", "no UID at all"
    rules: list[dict[str, Any]] = [
        {"tag": "SeriesDescription", "action": "keep"},
        {"tag": "0008,1030", "action": "clean"},
        {"tag": "(0018,1030)", "action": "remove"},
        {"tag": "ImageComments", "action": "regex", "pattern": r"visit (\d) of (\d)"},
        {"tag": "StationName", "action": "hash"},
        {"tag": "BodyPartExamined", "action": "empty"},
        {"tag": "ContentDate", "action": "shift"},
        {"tag": "DeviceUID", "action": "uid"},
        {"tag": "AcquisitionComments", "action": "uid"},
        {"tag": "StudyComments", "action": "replace", "value": "{project}/{participant}/{event}/{site}"},
        {"tag": "RequestedProcedureDescription", "action": "replace", "value": "{event}", "create": True},
    ]

    copy = through(tmp_path, ds, deidentifier(*rules))

    assert copy.SeriesDescription == "axial T1"
    assert copy.StudyDescription == "Knee of REMOVED"
    assert "ProtocolName" not in copy
    assert copy.ImageComments == "3 5"
    assert len(copy.StationName) == 16
    assert copy.StationName != "CT01"
    assert copy.BodyPartExamined == ""
    assert copy.ContentDate not in ("", "20180503")
    assert copy.LongitudinalTemporalInformationModified == "MODIFIED"
    assert copy.DeviceUID.startswith("2.25.")
    assert "AcquisitionComments" not in copy
    assert copy.StudyComments == "DEMO/SUBJ_0001/Baseline/NORTH"
    assert copy.RequestedProcedureDescription == "Baseline"


@pytest.mark.parametrize("action", [{"action": "regex"}, {"action": "exchange", "value": "-"}])
def test_a_pattern_without_end_stops_the_study(tmp_path: Path, action: dict[str, str]) -> None:
    """It is no fault of the instance, so it is not left out; nothing stays behind."""
    ds = phantoms.image()
    ds.StudyComments = "a" * 60 + "!"
    rules = (
        {"tag": "SeriesDescription", "action": "keep"},
        {"tag": "StudyComments", "pattern": "(a|aa)+$", **action},
    )
    (tmp_path / "out").mkdir()
    source = phantoms.write(ds, tmp_path / "in.dcm")
    with pytest.raises(
        PatternTooSlow, match="project DEMO: project's rule 2: pattern: the regular expr"
    ) as raised:
        deidentify_study(deidentifier(*rules), [source], tmp_path / "out")
    assert ds.StudyComments not in str(raised.value)


@pytest.mark.parametrize(
    ("tag", "named"),
    [("0032,4000", "project_import_rule_1_regexp"), ("0020,4000", "project's rule 1: pattern")],
)
def test_the_import_filter_does_not_count_among_the_rules(tmp_path: Path, tag: str, named: str) -> None:
    ds = phantoms.image()
    ds[tag.replace(",", "")] = pydicom.DataElement(int(tag.replace(",", ""), 16), "LT", "a" * 60 + "!")
    made = deidentifier(
        {"tag": "0020,4000", "action": "regex", "pattern": "(a|aa)+$"},
        project_import_rule_1_tag="0032,4000",
        project_import_rule_1_regexp="(?P<x>a|aa)+$",
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(PatternTooSlow, match=f"project DEMO: {named}: "):
        deidentify_study(made, [phantoms.write(ds, tmp_path / "in.dcm")], tmp_path / "out")


def test_parts_of_a_text_are_exchanged_after_it_was_cleaned(tmp_path: Path) -> None:
    ds = phantoms.image()
    ds.SeriesDescription, ds.StudyDescription, ds.StationName = "t1_tse__sag_Quisling", "a_b", "CT_1"
    inner = pydicom.Dataset()
    inner.SeriesDescription = "in_side"
    ds.PurposeOfReferenceCodeSequence = [inner]
    rules: list[dict[str, Any]] = [
        {"tag": "SeriesDescription", "action": "exchange", "pattern": "_+", "value": "-"},
        {"tag": "StudyDescription", "action": "exchange", "pattern": "(a)", "value": "{site}"},
        {"tag": "PurposeOfReferenceCodeSequence", "action": "keep"},
    ]

    copy = through(tmp_path, ds, deidentifier(*rules))

    assert copy.SeriesDescription == "t1-tse-sag-REMOVED"
    assert copy.StudyDescription == "{site}_b", "as it is"
    assert copy.PurposeOfReferenceCodeSequence[0].SeriesDescription == "in-side"


@pytest.mark.parametrize("syntax", [phantoms.EXPLICIT, IMPLICIT])
def test_private_attributes_by_creator_wherever_their_block_stands(tmp_path: Path, syntax: str) -> None:
    ds = phantoms.image(syntax=syntax)
    ds.add_new(0x00430011, "LO", "GEMS_PARM_01")
    ds.add_new(0x00431139, "IS", [1000, 8, 0, 0])
    ds.add_new(0x00431140, "LO", "beside it")
    ds.add_new(0x00430012, "LO", "SOMEBODY ELSE")
    ds.add_new(0x00431239, "IS", [7, 7])

    by_rule = through(
        tmp_path, ds, deidentifier({"tag": "0043,xx39", "creator": "GEMS_PARM_01", "action": "keep"})
    )
    listed = deidentifier(options=["retain_safe_private"], safe_private={"GEMS_PARM_01": ["0043,xx39"]})
    by_list = through(tmp_path, ds, listed)

    for copy in (by_rule, by_list):
        assert [e.tag for e in copy if e.tag.is_private] == [0x00430011, 0x00431139]


def test_a_path_holds_exactly_there_and_a_tag_everywhere(tmp_path: Path) -> None:
    ds = phantoms.image()
    ds.SeriesDescription = "outer"
    inner = pydicom.Dataset()
    inner.SeriesDescription, inner.ProtocolName = "inner", "inner protocol"
    ds.PurposeOfReferenceCodeSequence = [inner]
    ds.ProtocolName = "outer protocol"

    copy = through(
        tmp_path,
        ds,
        deidentifier(
            {"tag": "PurposeOfReferenceCodeSequence/SeriesDescription", "action": "keep"},
            {"tag": "ProtocolName", "action": "keep"},
        ),
    )

    assert "SeriesDescription" not in copy
    assert copy.PurposeOfReferenceCodeSequence[0].SeriesDescription == "inner"
    assert copy.PurposeOfReferenceCodeSequence[0].ProtocolName == "inner protocol"
    assert copy.ProtocolName == "outer protocol"


def test_a_kept_value_that_tells_who_it_is_goes_all_the_same(tmp_path: Path) -> None:
    ds = phantoms.image()
    ds.SeriesDescription = "knee of Quisling"

    copy = through(tmp_path, ds, deidentifier({"tag": "SeriesDescription", "action": "keep"}))

    assert copy.SeriesDescription == "knee of REMOVED"


def test_the_import_filter_of_the_original_keeps_what_named_groups_find(tmp_path: Path) -> None:
    ds = phantoms.image()
    ds.StudyComments = "arm=B; Wendelin; visit=2; private"
    made = deidentifier(
        project_import_rule_1_tag="0032,4000",
        project_import_rule_1_regexp=r"arm=(?P<arm>\w).*visit=(?P<visit>\d)",
    )

    assert through(tmp_path, ds, made).StudyComments == "B 2"
    ds.StudyComments = "nothing of the kind"
    assert through(tmp_path, ds, made).StudyComments == ""


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"tag": "SopInstanceUid", "action": "keep"}, "neither gggg,eeee nor a keyword"),
        ({"tag": "SOPInstanceUID", "action": "keep"}, "no rule of a project touches"),
        ({"tag": "PixelData", "action": "remove"}, "no rule of a project touches"),
        ({"tag": "0043,1039", "action": "keep"}, "name its `creator`"),
        ({"tag": "0008,1030", "action": "keep", "creator": "X"}, "for private attributes"),
        ({"tag": "0008,1030", "action": "replace"}, "give both or neither"),
        ({"tag": "0008,1030", "action": "replace", "value": "{patient}"}, "patient} is unknown"),
        ({"tag": "0008,1030", "action": "regex", "pattern": "abc"}, "has no group"),
        ({"tag": "0008,1030", "action": "regex", "pattern": "(abc"}, "not a regular expression"),
        ({"tag": "0008,1030", "action": "exchange", "pattern": "_"}, "give both or neither"),
        ({"tag": "0008,1030", "action": "exchange", "value": "_"}, "give both or neither"),
        ({"tag": "PatientID", "action": "exchange", "pattern": "_", "value": "-"}, "says who the person is"),
        ({"tag": "0008,1030", "action": "keep", "create": True}, "`create` is for `replace`"),
        ({"tag": "PatientID", "action": "keep"}, "says who the person is"),
        ({"tag": "OtherPatientNames", "action": "keep"}, "says who the person is"),
        ({"tag": "0002,0016", "action": "keep"}, "ever passed on"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_reason(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        deidentifier(rule)


def test_a_rule_changes_the_digest_of_the_rules() -> None:
    plain, ruled = deidentifier(), deidentifier({"tag": "ProtocolName", "action": "keep"})

    assert plain.profile.digest != ruled.profile.digest


def test_a_repeating_group_is_named_by_its_pattern(tmp_path: Path) -> None:
    ds = phantoms.image()
    for group in (0x6000, 0x6002):
        ds.add_new(group << 16 | 0x4000, "LT", "outline by Quisling")
        ds.add_new(group << 16 | 0x0022, "LO", "not asked for")

    copy = through(tmp_path, ds, deidentifier({"tag": "60xx,4000", "action": "clean"}))

    overlays = [e for e in copy if e.tag.group & 0xFF00 == 0x6000]
    assert [(e.tag, e.value) for e in overlays] == [
        (0x60004000, "outline by REMOVED"),
        (0x60024000, "outline by REMOVED"),
    ]


DESCRIBES = frozenset(
    (
        *(0x00100014, 0x00100015, 0x00100041, 0x00100044, 0x00100050, 0x00100101, 0x00100102, 0x00101080),
        *(0x00101081, 0x00102150, 0x00102152, 0x001021F0),  # of a person, but of many
        *(0x00120010, 0x00120020, 0x00120021, 0x00120022, 0x00120023, 0x00120032, 0x00120050, 0x00120055),
        *(0x00120071, 0x00120073, 0x00120082),  # the trial
        *(
            0x00203406,
            0x00284000,
            0x00880904,
            0x00880906,
            0x00880912,
            0x20300020,
            0x40000010,
            0x40004000,
        ),  # text
        *(0x00403001, 0x04000600, 0x300A0611, 0x300A0615),
    )
)
"""What no option keeps and a project may keep all the same: it tells one person from another no more than
what options do keep, or is text, which is searched."""
ASSIGNED_OR_ALIKE = frozenset((0x00080080,))
"""A request writes it."""


def never_kept() -> set[int]:
    """By the tables: names of people, what terms are taken from, and what no option of the standard keeps."""
    folder = resources.files("fiona_dagster.deid") / "data"
    rows = list(csv.DictReader((folder / "attributes.csv").read_text("utf-8").splitlines()))
    table = {int(row["tag"], 16): row["options"] for row in rows if re.fullmatch("[0-9a-f]{8}", row["tag"])}
    terms = csv.DictReader((folder / "identifying.csv").read_text("utf-8").splitlines())
    asked = {int(row["tag"], 16) for row in terms}
    names = {tag for tag, entry in DicomDictionary.items() if entry[0] == "PN" and not table.get(tag)}
    unkept = {tag for tag, options in table.items() if not options} - DESCRIBES
    return unkept | {tag for tag in asked if not table.get(tag)} | names | ASSIGNED_OR_ALIKE


def test_what_no_rule_keeps_is_what_the_tables_say() -> None:
    """A new row of table E.1-1 belongs to it until somebody decides otherwise."""
    assert never_kept_tags() == never_kept()
    for tag in (
        0x00100012,
        0x00120042,
        0x00380060,
        0x00402016,
        0x00402017,
        0x00401101,
        0x04000561,
        0x00160072,
    ):
        assert tag in never_kept_tags()


@pytest.mark.parametrize("action", ["keep", "shift", "clean", "regex"])
@pytest.mark.parametrize("tag", ["OtherPatientIDsSequence/PatientBirthDate", "(0010,0012)", "0040,2016"])
def test_nothing_of_what_says_who_it_is_stays_by_any_rule(tag: str, action: str) -> None:
    rule = {"tag": tag, "action": action, **({"pattern": "(.*)"} if action == "regex" else {})}
    with pytest.raises(ValidationError, match="says who the person is"):
        deidentifier(rule)
    deidentifier(
        {"tag": tag, "action": "remove"}, {"tag": tag, "action": "replace", "value": "{participant}"}
    )
