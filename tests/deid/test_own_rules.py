"""A project's own rules: every action, every way to name a tag, and what no rule may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import ValidationError

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey, verify_outputs
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
