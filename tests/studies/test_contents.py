"""What a study holds and what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.studies import StudyContents, flags, scan_study
from tests.studies.builders import SERIES, STUDY, archive, dataset


def two(root: DataRoot, first: dict[str, Any], second: dict[str, Any]) -> StudyContents:
    archive(root, dataset(SERIES + ".1", **first))
    archive(root, dataset(SERIES + ".2", **second))
    return scan_study(root, STUDY)


def test_counts_bytes_and_data_version(root: DataRoot) -> None:
    paths = [archive(root, dataset(f"{SERIES}.{i}", InstanceNumber=9 - i)) for i in range(3)]
    archive(root, dataset("1.2.9", SeriesInstanceUID="1.2.8"))
    (root.archive / f"scp_{STUDY}" / ".CT.1.2.part").write_bytes(b"half")

    contents = scan_study(root, STUDY)

    assert contents.instance_count == 4
    assert contents.byte_count == sum(p.stat().st_size for p in (root.archive / f"scp_{STUDY}").glob("CT*"))
    assert list(contents.series) == ["1.2.8", SERIES]
    assert [header.sop_instance for header in contents.series[SERIES]] == [f"{SERIES}.{i}" for i in (2, 1, 0)]
    assert contents.series[SERIES][2].path == paths[0]
    assert contents.first(SERIES).sop_class == "1.2.840.10008.5.1.4.1.1.2"
    uids = sorted([f"{SERIES}.{i}" for i in range(3)] + ["1.2.9"])
    assert contents.digest == hashlib.sha256("\n".join(uids).encode()).hexdigest()
    assert contents.damage == []
    assert flags(root, contents) == []


def test_the_digest_changes_with_the_set_of_instances_only(root: DataRoot) -> None:
    archive(root, dataset(SERIES + ".1"))
    one = scan_study(root, STUDY).digest
    archive(root, dataset(SERIES + ".1", StationName="other bytes"))
    assert scan_study(root, STUDY).digest == one

    archive(root, dataset(SERIES + ".2"))
    assert scan_study(root, STUDY).digest != one


def test_an_unknown_study_is_an_error(root: DataRoot) -> None:
    for study in ("1.2.3", "../../etc", ""):
        with pytest.raises(UnknownStudy):
            scan_study(root, study)


@pytest.mark.parametrize(
    ("first", "second", "flagged"),
    [
        ({}, {}, False),
        ({}, {"PatientID": "PID-2"}, True),
        ({}, {"PatientID": ""}, False),
        ({}, {"PatientID": None}, False),
        ({}, {"PatientName": "Anders^Otto"}, True),
        ({}, {"PatientName": "MUSTER^ERIKA^^"}, False),
        ({}, {"PatientBirthDate": "19700102"}, True),
        ({}, {"PatientBirthDate": ""}, False),
        ({"IssuerOfPatientID": "A"}, {"IssuerOfPatientID": "B"}, True),
        ({"IssuerOfPatientID": "A"}, {}, False),
    ],
)
def test_two_patients(root: DataRoot, first: dict[str, Any], second: dict[str, Any], flagged: bool) -> None:
    contents = two(root, first, second)

    assert (contents.patient_count == 2) is flagged
    assert flags(root, contents) == (["two_patients"] if flagged else [])


def test_damage_is_named_by_instance_and_reason(root: DataRoot) -> None:
    cut = archive(root, dataset(SERIES + ".1"))
    cut.write_bytes(cut.read_bytes()[:-1])
    junk = root.archive / f"scp_{STUDY}" / "OT.1.2.77"
    junk.write_bytes(b"no DICOM")
    archive(root, dataset(SERIES + ".3"))

    contents = scan_study(root, STUDY)

    assert contents.damage == [("1.2.77", "not_dicom"), (SERIES + ".1", "truncated_pixel_data")]
    assert contents.instance_count == 3
    assert len(contents.series[SERIES]) == 2
    assert flags(root, contents) == ["damaged_instances"]


def test_another_study_s_instance_is_damage(root: DataRoot) -> None:
    contents = two(root, {}, {"StudyInstanceUID": "1.2.3"})

    assert contents.damage == [(SERIES + ".2", "wrong_study")]
    assert len(contents.series[SERIES]) == 1


@pytest.mark.parametrize(("value", "reason"), [("", "uid_missing"), ("../../x", "uid_malformed")])
def test_bad_series_uids_are_damage(root: DataRoot, value: str, reason: str) -> None:
    contents = two(root, {}, {"SeriesInstanceUID": value})

    assert contents.damage == [(SERIES + ".2", reason)]


def test_the_same_instance_under_two_names_counts_once(root: DataRoot) -> None:
    archive(root, dataset())
    archive(root, dataset(Modality="MR"))

    contents = scan_study(root, STUDY)

    assert contents.instance_count == 1
    assert len(contents.series[SERIES]) == 1
    assert contents.damage == [(SERIES + ".1", "duplicate_instance")]


def test_conflicts_are_flagged(root: DataRoot) -> None:
    archive(root, dataset())
    folder: Path = root.conflicts / STUDY
    folder.mkdir()
    contents = scan_study(root, STUDY)
    assert flags(root, contents) == []

    (folder / "CT.1.2.3").write_bytes(b"x")
    assert flags(root, contents) == ["conflicts"]


def test_nothing_identifying_in_the_repr(root: DataRoot) -> None:
    contents = two(root, {}, {"PatientID": "PID-2"})

    for shown in (repr(contents), str(contents.damage), repr(contents.first(SERIES))):
        assert "PID" not in shown
        assert "Muster" not in shown
