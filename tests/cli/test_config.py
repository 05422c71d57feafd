"""``fiona config check`` and ``fiona config show``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import fiona


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    assert fiona("init", data=folder).returncode == 0
    return folder


def test_check_names_every_wrong_file(data: Path) -> None:
    projects = data / "config" / "projects"
    (projects / "ABC.json").write_text('{"name": "ABC",\n "targets": ["nowhere"]}')
    (projects / "BAD.json").write_text('{"name": "BAD",\n "activ": true}')
    (data / "config" / "classifyRules.json").write_text("[{]")
    done = fiona("config", "check", "--json", data=data)
    document = json.loads(done.stdout)

    assert done.returncode == 1
    assert document["ok"] is False
    assert len(document["problems"]) == 3
    text = "\n".join(document["problems"])
    assert "ABC.json: targets: no target 'nowhere'" in text
    assert "BAD.json: line 2: activ: unknown key; did you mean 'active'?" in text
    assert "classifyRules.json" in text
    assert done.stderr.count("\n") == 1


def test_check_of_a_sound_root_is_one_document(data: Path) -> None:
    done = fiona("config", "check", "--json", data=data)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"data_root": str(data), "ok": True, "problems": []}


def test_show_has_defaults_and_projects(data: Path) -> None:
    (data / "config" / "projects" / "ABC.json").write_text('{"name": "ABC"}')
    document = json.loads(fiona("config", "show", "--json", data=data).stdout)
    plain = fiona("config", "show", data=data).stdout

    assert document["config"]["receiver"]["max_associations"] == 128
    assert document["projects"]["ABC"]["active"] is True
    assert "config.DICOMPORT = 11112\n" in plain
    assert "projects.ABC.active = true\n" in plain


def test_show_says_what_is_in_force_when_the_newest_is_refused(data: Path) -> None:
    assert fiona("config", "show", data=data).returncode == 0  # seen once, it is the last good one
    path = data / "config" / "config.json"
    path.write_text(path.read_text().replace('"DICOMPORT": 11112', '"DICOMPORT": "high"'))
    done = fiona("config", "show", "--json", data=data)

    assert done.returncode == 0
    assert json.loads(done.stdout)["config"]["DICOMPORT"] == 11112
    assert "config.json: line 6: DICOMPORT" in done.stderr


def test_show_without_a_configuration_is_a_configuration_error(tmp_path: Path) -> None:
    done = fiona("config", "show", data=tmp_path / "none")

    assert done.returncode == 2
    assert done.stderr.startswith("fiona: ")
    assert done.stderr.count("\n") == 1
