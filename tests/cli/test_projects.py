"""``fiona project`` and the explanations of ``fiona deidentify``: nothing is written, no value is shown."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import running
from tests.deid import phantoms


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with one project."""
    root = tmp_path / "data"
    assert fiona(root, "project", "init", "NEURO").returncode == 0
    write(root, {"options": ["retain_long_modified_dates", "retain_safe_private"]})
    return root


def fiona(data: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return running.fiona(*map(str, arguments), data=data)


def write(data: Path, more: dict[str, Any]) -> None:
    rules = [
        {"tag": "SeriesDescription", "action": "keep", "reason": "ours"},
        {"tag": "0043,xx39", "creator": "GEMS_PARM_01", "action": "keep"},
    ]
    path = data / "config" / "projects" / "NEURO.json"
    path.write_text(json.dumps({"name": "NEURO", "rules": rules, **more}))


def test_the_key_is_made_once_and_checked(data: Path) -> None:
    first = fiona(data, "project", "key", "NEURO").stdout
    assert fiona(data, "project", "init", "NEURO").returncode == 0
    assert fiona(data, "project", "key", "NEURO").stdout == first

    (data / "config" / "secrets" / "NEURO.key").unlink()
    lost = fiona(data, "project", "init", "NEURO")
    assert lost.returncode != 0
    assert "restore it from the backup" in lost.stderr


def test_the_profile_is_a_table_of_every_row(data: Path) -> None:
    text = fiona(data, "project", "profile", "NEURO").stdout
    rows = list(csv.DictReader(fiona(data, "project", "profile", "NEURO", "--csv").stdout.splitlines()))
    document = json.loads(fiona(data, "project", "profile", "NEURO", "--json").stdout)

    by_tag = {row["tag"]: row for row in rows}
    assert len(rows) > 1000
    assert by_tag["(0008,0020)"]["meaning"] == "date moved"
    assert by_tag["(0010,0010)"]["meaning"] == "written from the request"
    assert by_tag["SeriesDescription"]["reason"] == "ours"
    assert by_tag["(0019,xx0C)"]["name"] == "SIEMENS MR HEADER"
    assert document["dates"] == "MODIFIED"
    assert len(document["rows"]) == len(rows)
    assert "Retain Safe Private Option (113111)" in text


def test_explanations_name_action_and_rule_and_no_value(data: Path, tmp_path: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    before = sorted(tmp_path.rglob("*"))

    kept = fiona(data, "deidentify", "--project", "NEURO", "--explain", "SeriesDescription").stdout
    private = fiona(data, "deidentify", "--project", "NEURO", "--explain", "0043,1039").stdout
    dates = fiona(data, "deidentify", "--project", "NEURO", "--explain", "StudyDate", source, "--json")
    whole = fiona(data, "deidentify", "--project", "NEURO", "--dry-run", source)

    assert "ours" in kept
    assert "GEMS_PARM_01" in private
    assert "any other creator" in private
    assert [row["action"] for row in json.loads(dates.stdout)] == ["C"]
    assert "RescaleSlope" in whole.stdout
    assert "Quisling" not in whole.stdout
    assert "20180503" not in whole.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_what_has_no_copy_is_named_beforehand_too(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = phantoms.write(phantoms.image(), folder / "a.dcm")
    (folder / "cut.dcm").write_bytes(whole.read_bytes()[:-300])
    (folder / "noise").write_bytes(bytes(range(256)) * 4)
    (folder / "gone.dcm").symlink_to(tmp_path / "nowhere")
    (folder / "notes.txt").write_text("none")
    no_uid = phantoms.image()
    del no_uid.SeriesInstanceUID
    phantoms.write(no_uid, folder / "u.dcm")

    shown = fiona(data, "deidentify", "--project", "NEURO", "--dry-run", folder)
    done = fiona(
        *(data, "deidentify", "--project", "NEURO", "--participant", "N001", "--event", "Baseline"),
        *(folder, tmp_path / "out"),
    )

    for ran in (shown, done):
        failed = {line.split(":")[2].strip() for line in ran.stderr.splitlines() if ": failed: " in line}
        assert failed == {str(folder / name) for name in ("cut.dcm", "noise", "gone.dcm", "u.dcm")}
        assert f"skipped, no DICOM object: {folder}/notes.txt" in ran.stderr
        assert ran.returncode == 1
    assert "RescaleSlope" in shown.stdout
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_errors_say_what_to_do(data: Path) -> None:
    wrong = fiona(data, "deidentify", "--project", "NEURO", "--explain", "SeriesDescripton")
    assert (wrong.returncode, "keyword of the DICOM dictionary" in wrong.stderr) == (2, True)
    wrong = fiona(data, "deidentify", "--project", "NEURO", "--explain", " ")
    assert (wrong.returncode, "keyword of the DICOM dictionary" in wrong.stderr) == (2, True)

    write(data, {"options": ["retain_long_dates"]})
    broken = fiona(data, "config", "check")
    assert broken.returncode == 1
    assert "NEURO.json" in broken.stdout
    assert "options" in broken.stdout


def test_the_schema_names_every_key(data: Path) -> None:
    schema = json.loads(fiona(data, "project", "schema").stdout)

    assert {"options", "rules", "kinds", "safe_private", "compatibility"} <= schema["properties"].keys()
