"""``fiona classify``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.running import fiona
from tests.studies.builders import SERIES, STUDY, dataset, save


def classify(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return fiona("classify", *arguments, cwd=cwd, data=cwd / "no-data-root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        save(
            dataset(f"{SERIES}.{i}", InstanceNumber=i, ImageType=["ORIGINAL", "PRIMARY"]),
            tmp_path / "in" / str(i),
        )
    save(dataset("1.2.9", SeriesInstanceUID="1.2.8", Modality="US", SeriesNumber="1"), tmp_path / "in" / "us")
    save(dataset(f"{SERIES}.0"), tmp_path / "in" / "again")
    return tmp_path


def test_json_is_one_list_of_records(folder: Path) -> None:
    ran = classify("in", "--json", cwd=folder)

    records = json.loads(ran.stdout)
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert [record["SeriesInstanceUID"] for record in records] == ["1.2.8", SERIES]
    assert records[1]["NumFiles"] == "3"
    assert records[1]["ClassifyType"] == ["CT", "original"]
    assert records[1]["PatientID"] == "PID-1"
    assert set(records[1]["IncomingConnection"].values()) == {"unknown"}


def test_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))

    classify("in", cwd=folder)

    assert sorted(folder.rglob("*")) == before


def test_the_table_shows_no_patient(folder: Path) -> None:
    ran = classify("in", cwd=folder)

    assert ran.returncode == 0
    assert "ultrasound" in ran.stdout
    for value in ("PID-1", "Muster", "19700101", "20260102"):
        assert value not in ran.stdout + ran.stderr


def test_a_rule_file_of_one_s_own(folder: Path) -> None:
    (folder / "rules.json").write_text('[{"type": "mine", "rules": [{"tag": ["Modality"], "value": "US"}]}]')

    ran = classify("in/us", "--json", "--rules", "rules.json", cwd=folder)

    assert [record["ClassifyType"] for record in json.loads(ran.stdout)] == [["mine"]]


def test_a_broken_rule_file_is_a_configuration_error(folder: Path) -> None:
    (folder / "rules.json").write_text('[\n{"type": "mine"}]')

    ran = classify("in", "--rules", "rules.json", cwd=folder)

    assert ran.returncode == 2
    assert (
        ran.stderr == "fiona: rules.json: line 2: ruleset 1 (type 'mine'): \"rules\" is missing or no list\n"
    )


def test_unreadable_files_are_named_and_the_rest_is_classified(folder: Path) -> None:
    (folder / "in" / "notes.txt").write_text("no DICOM")
    assert classify("in", "--json", cwd=folder).returncode == 0

    (folder / "in" / "cut").write_bytes((folder / "in" / "1").read_bytes()[:200])
    ran = classify("in", "--json", cwd=folder)

    assert ran.returncode == 1
    assert "fiona: in/cut: could not be classified: truncated" in ran.stderr
    assert "fiona: in/notes.txt: skipped: not_dicom" in ran.stderr
    assert len(json.loads(ran.stdout)) == 2


def test_a_named_file_that_is_no_dicom_is_an_error(folder: Path) -> None:
    (folder / "notes.txt").write_text("no DICOM")

    ran = classify("notes.txt", "--json", cwd=folder)

    assert ran.returncode == 1
    assert json.loads(ran.stdout) == []
    assert "notes.txt: could not be classified: not_dicom" in ran.stderr


def test_damaged_files_are_classified_and_named(folder: Path) -> None:
    (folder / "in" / "us").write_bytes((folder / "in" / "us").read_bytes()[:-2])

    ran = classify("in", "--json", cwd=folder)

    assert ran.returncode == 0
    assert "in/us: damaged: truncated_pixel_data" in ran.stderr
    assert len(json.loads(ran.stdout)) == 2


def test_a_missing_path_is_a_usage_error(folder: Path) -> None:
    ran = classify("nowhere", cwd=folder)

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr


@pytest.mark.shared
def test_hostile_input_neither_crashes_nor_hangs(shared: Path, tmp_path: Path) -> None:
    ran = classify(shared / "data" / "visible" / "broken", "--json", cwd=tmp_path)

    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert len(json.loads(ran.stdout)) == 3
    assert STUDY not in ran.stdout


def test_explain_shows_what_decided_and_masks_the_patient(folder: Path) -> None:
    rules = [
        {"type": "CT", "rules": [{"tag": ["Modality"], "value": "^CT$"}]},
        {"type": "her", "rules": [{"tag": ["PatientName"], "value": "^Muster"}]},
    ]
    (folder / "rules.json").write_text(json.dumps(rules))
    table = classify("in", "--explain", "--rules", "rules.json", cwd=folder)
    ran = classify("in", "--explain", "--rules", "rules.json", "--json", cwd=folder)

    assert (table.returncode, ran.returncode) == (0, 0)
    assert "Modality regexp" in table.stdout
    assert "Erika" not in table.stdout + ran.stdout
    series = {each["SeriesInstanceUID"]: each for each in json.loads(ran.stdout)}
    (ct, her) = series["1.2.8"]["decided"]
    assert (ct["gave"], ct["conditions"][0]["found"]) == (False, "US")
    assert (her["gave"], her["conditions"][0]["found"]) == (True, "masked (12 characters)")


def test_lint_gives_1_for_warnings_and_needs_no_files(folder: Path) -> None:
    own = classify("--lint", cwd=folder)
    (folder / "old.json").write_text(
        '[{"type": "x",\n"rules": [{"tag": ["EchoTime"], "operator": "==", "value": "88"}]}]'
    )
    old = classify("--lint", "--rules", "old.json", cwd=folder)
    document = json.loads(classify("--lint", "--rules", "old.json", "--json", cwd=folder).stdout)

    assert own.returncode == 0
    assert old.returncode == 1
    assert "warning: line 2: ruleset 1 (type 'x'): missing tag" in old.stdout
    assert {each["trap"] for each in document["warnings"]} >= {"missing tag", "literal read as a tag"}
    for wrong in (["--lint", "in"], [], ["--lint", "--explain"]):
        assert classify(*wrong, cwd=folder).returncode == 2
