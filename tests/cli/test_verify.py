"""``fiona verify``: 0 for a sound package, 1 for any change, 2 for a wrong call."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.running import fiona
from tests.transfers.test_package import _build


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return fiona("verify", *arguments)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = _build(tmp_path).path
    for side in ("md5", "sha256"):
        Path(f"{path}.{side}").unlink()  # none of them is needed
    return path


def test_sound(package: Path) -> None:
    done = _run(str(package))
    assert (done.returncode, done.stderr) == (0, "")
    assert "OK, 5 files" in done.stdout


def test_changed(package: Path) -> None:
    data = package.read_bytes()
    package.write_bytes(data.replace(b"firstfirst", b"firstFirst", 1))

    plain, machine = _run(str(package)), _run(str(package), "--json")

    assert plain.returncode == machine.returncode == 1
    assert "a_1.dcm: changed" in plain.stdout
    assert plain.stderr.startswith("fiona: ")
    document = json.loads(machine.stdout)
    assert document["ok"] is False
    assert document["problems"] == ["P001/baseline/MR/001_T1/a_1.dcm: changed"]


def test_json_of_a_sound_package(package: Path) -> None:
    done = _run("--json", str(package))
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert len(answer.pop("signed_by")) == 64
    assert answer == {
        "package": str(package),
        "ok": True,
        "format": "fiona-package-2",
        "files": 5,
        "origin": "not proven",
        "problems": [],
    }


@pytest.mark.parametrize("arguments", [["none.zip"], [], ["--nonsense"]])
def test_usage(arguments: list[str]) -> None:
    done = _run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_not_a_package_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"hello")
    done = _run(str(path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
