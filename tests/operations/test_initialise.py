from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot, Settings, check, load_settings
from fiona_dagster.config.load import parse_file
from fiona_dagster.config.project import ProjectSettings
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.operations import initialise
from fiona_dagster.operations.initialise import set_key
from fiona_dagster.studies import load_rules_in_force


@pytest.fixture
def fresh(tmp_path: Path) -> DataRoot:
    return DataRoot(tmp_path / "new" / "data")


def test_a_new_root_is_sound_and_private(fresh: DataRoot) -> None:
    added = initialise(fresh)

    assert check(fresh) == []
    assert {"config/config.json", "config/classifyRules.json", "dagster/dagster.yaml"} <= set(added)
    assert fresh.enabled_file.read_text() == "111"
    for path in fresh.path.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_the_example_says_what_the_defaults_are(fresh: DataRoot) -> None:
    initialise(fresh)
    settings = load_settings(fresh)

    assert settings.model_copy(update={"redcap": Settings().redcap}) == Settings()
    assert settings.redcap.url == ""


def test_the_example_project_is_valid_but_not_in_force(fresh: DataRoot) -> None:
    initialise(fresh)
    example = fresh.project_files / "EXAMPLE.json.example"

    assert parse_file(example, ProjectSettings).name == "EXAMPLE"
    assert not list(fresh.project_files.glob("*.json"))


def test_the_targets_in_the_remark_are_valid_targets(fresh: DataRoot) -> None:
    initialise(fresh)
    document = json.loads(fresh.config_file.read_text())
    targets = {name: value for name, value in document["//targets"].items() if name != "remark"}

    assert set(Settings.model_validate({"targets": targets}).targets) == set(targets)


def test_a_second_time_adds_nothing_and_changes_nothing(fresh: DataRoot) -> None:
    initialise(fresh)
    before = {path: path.read_bytes() for path in fresh.path.rglob("*") if path.is_file()}

    assert initialise(fresh) == []
    assert {path: path.read_bytes() for path in fresh.path.rglob("*") if path.is_file()} == before


def test_only_what_is_missing_comes_back(fresh: DataRoot) -> None:
    initialise(fresh)
    fresh.rules_file.write_text("[]")
    (fresh.dagster_home / "dagster.yaml").unlink()
    fresh.inbox.rmdir()

    assert sorted(initialise(fresh)) == ["dagster/dagster.yaml", "inbox"]
    assert fresh.rules_file.read_text() == "[]"


def test_rules_that_are_broken_at_once_leave_those_of_a_new_root_in_force(fresh: DataRoot) -> None:
    initialise(fresh)
    before, _ = load_rules_in_force(fresh)
    fresh.rules_file.write_text("[{}]")
    rules, problem = load_rules_in_force(fresh)

    assert rules.digest == before.digest
    assert problem is not None
    assert "line 1: ruleset 1" in problem


def test_port_and_open_change_just_these_keys(fresh: DataRoot) -> None:
    initialise(fresh)
    before = fresh.config_file.read_text()

    assert initialise(fresh, 4006, True) == ["config/config.json"]
    after = fresh.config_file.read_text()
    changed = [
        (old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new
    ]
    assert changed == [
        ('  "DICOMPORT": 11112,', '  "DICOMPORT": 4006,'),
        ('    "accept_unknown": false,', '    "accept_unknown": true,'),
    ]
    assert initialise(fresh, 4006, True) == []


def test_a_broken_configuration_is_named_and_left_alone(fresh: DataRoot) -> None:
    initialise(fresh)
    fresh.config_file.write_text('{"DICOMPORT": 1,,}')

    with pytest.raises(ConfigurationError, match=r"config\.json: line 1: not JSON"):
        initialise(fresh, 4006)
    assert fresh.config_file.read_text() == '{"DICOMPORT": 1,,}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", '{"receiver": {"accept_unknown": true}}'),
        ('{"receiver": {}}', '{"receiver": {"accept_unknown": true}}'),
        ('{"A": {"accept_unknown": false}, "receiver": {"max_pdu": 4096}}', None),
        ('{"//": "\\"accept_unknown\\": false", "receiver": {"accept_unknown":false}}', None),
        ('{"//receiver": {"x": 1}, "DICOMPORT": 4006}', None),
    ],
)
def test_a_key_is_set_wherever_it_stands(text: str, expected: str | None) -> None:
    before = json.loads(text)
    after = json.loads(set_key(text, ("receiver", "accept_unknown"), True, "config.json"))

    if expected is not None:
        assert after == json.loads(expected)
    assert after == {**before, "receiver": {**before.get("receiver", {}), "accept_unknown": True}}


_KEYS = st.sampled_from(["DICOMPORT", "receiver", "accept_unknown", "//", "//DICOMPORT", "web", "port"])
_DOCUMENTS = st.dictionaries(
    _KEYS.filter(lambda key: key != "receiver"),
    st.one_of(st.integers(), st.text(max_size=20), st.dictionaries(_KEYS, st.integers(), max_size=3)),
    max_size=5,
)


@given(_DOCUMENTS, st.integers(0, 65535), st.sampled_from([None, 1, 4]))
def test_setting_a_port_changes_that_key_and_no_other(
    document: dict[str, Any], port: int, indent: int | None
) -> None:
    text = json.dumps(document, indent=indent)

    assert json.loads(set_key(text, ("DICOMPORT",), port, "config.json")) == {**document, "DICOMPORT": port}
