"""``fiona deidentify`` as a program: outputs, exit codes, messages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pydicom
import pytest

from tests import running
from tests.deid import phantoms


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fiona(data: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    who = ("--project", "DEMO", "--participant", "SUBJ_0001", "--event", "Baseline")
    return running.fiona("deidentify", *who, *map(str, arguments), data=data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        phantoms.write(phantoms.image(number), folder / f"Quisling_{number}.dcm")
    return folder


def test_a_folder_without_any_service(data: Path, folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    (folder / "notes.txt").write_text("Quisling")

    done = fiona(data, folder, out, "--report", report, "--page", tmp_path / "report.html")

    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "Basic Application Confidentiality Profile (113100)" in page
    assert "<td>(0010,0020)</td><td>PatientID</td><td>emptied</td>" in page
    assert "<strong>passed</strong>, 2 files" in page
    assert "Quisling" not in page
    assert "Basic Profile alone" in done.stderr
    names = sorted(p.name for p in out.iterdir())
    assert len(names) == 2
    assert all(name.startswith("2.25.") for name in names)
    assert {str(pydicom.dcmread(out / name).PatientID) for name in names} == {"SUBJ_0001"}
    document = json.loads(report.read_text())
    assert document["verification"]["passed"]
    assert "Quisling" not in report.read_text()
    assert report.stat().st_mode & 0o777 == 0o600
    assert (data / "config" / "config.json").is_file()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    again = fiona(data, folder, tmp_path / "again")

    assert again.returncode == 0
    assert [(tmp_path / "again" / n).read_bytes() for n in names] == [(out / n).read_bytes() for n in names]


def test_one_file_as_json(data: Path, folder: Path, tmp_path: Path) -> None:
    done = fiona(data, folder / "Quisling_1.dcm", tmp_path / "out", "--json")

    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["files"]) == 1


def test_what_fails_is_named_and_the_others_are_done(data: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.dcm").write_bytes((folder / "Quisling_1.dcm").read_bytes()[:900])

    done = fiona(data, folder, tmp_path / "out", "--report", tmp_path / "report.json")

    assert done.returncode == 1
    assert "broken.dcm" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert "broken" not in (tmp_path / "report.json").read_text()


def test_kinds_that_a_transfer_holds_back_are_processed_with_a_warning(data: Path, tmp_path: Path) -> None:
    source = phantoms.write(phantoms.image(sop_class="1.2.840.10008.5.1.4.1.1.6.1"), tmp_path / "us.dcm")

    done = fiona(data, source, tmp_path / "out")

    assert done.returncode == 0
    assert "ultrasound" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_lost_key_is_refused(data: Path, folder: Path, tmp_path: Path) -> None:
    assert fiona(data, folder, tmp_path / "out").returncode == 0
    (data / "config" / "secrets" / "DEMO.key").unlink()

    done = fiona(data, folder, tmp_path / "other")

    assert done.returncode == 1
    assert "restore it from the backup" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("{tmp}/missing", "{tmp}/out"),
        ("{tmp}/in", "{tmp}/in"),
        ("{tmp}/in", "{tmp}/out", "--report", "{tmp}/out/r.json"),
        ("{tmp}/in", "{tmp}/out", "--page", "{tmp}/out/r.html"),
    ],
)
def test_wrong_use_is_exit_code_two(
    data: Path, folder: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = fiona(data, *(argument.format(tmp=tmp_path) for argument in arguments))

    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.shared
def test_broken_files_never_crash_it(data: Path, shared: Path, tmp_path: Path) -> None:
    done = fiona(data, shared / "data" / "visible" / "broken", tmp_path / "out")

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert all(p.name.startswith("2.25.") for p in (tmp_path / "out").iterdir())


def test_the_hospitals_own_number_as_participant_is_pointed_out(data: Path, tmp_path: Path) -> None:
    """A transfer would be refused."""
    image = phantoms.image(1)
    image.PatientID = "SUBJ-0001"
    source = phantoms.write(image, tmp_path / "in.dcm")

    done = fiona(data, source, tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert "(0010,0020): is the assigned participant id" in done.stderr
    assert "SUBJ" not in done.stderr
