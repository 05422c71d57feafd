"""Configuration files: refused with file, line, key and reason; the last good version stays in force."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import (
    DataRoot,
    check,
    configuration_digest,
    has_project,
    json_schema,
    load_project,
    load_project_in_force,
    load_settings,
    load_settings_in_force,
    redcap_token,
)
from fiona_dagster.config.settings import RedcapSettings
from fiona_dagster.errors import ConfigurationError


def write(root: DataRoot, text: str) -> None:
    root.config_file.write_text(text)


def test_an_unknown_key_is_refused_with_line_and_suggestion(root: DataRoot) -> None:
    write(root, '{\n "DICOMPORT": 104,\n "receiver": {\n  "quiet_second": 3\n }\n}')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(root)

    message = str(caught.value)
    assert str(root.config_file) in message
    assert "line 4" in message
    assert "receiver.quiet_second" in message
    assert "quiet_seconds" in message


def test_where_something_required_is_missing_beside_an_unknown_key_that_is_named(root: DataRoot) -> None:
    root.config_file.write_text('{"targets": {"share": {"kind": "folder", "path": "/mnt"}}}')
    with pytest.raises(ConfigurationError, match="path: unknown key; required here and missing: 'directory'"):
        load_settings(root)


def test_broken_json_is_refused_with_its_line(root: DataRoot) -> None:
    write(root, '{\n "DICOMPORT": 104,\n}')
    with pytest.raises(ConfigurationError, match="line 3"):
        load_settings(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"DICOMPORT": 104,\n\n"DICOMPORT": 105}', 'line 3: "DICOMPORT" stands twice'),
        ('{"receiver": {"a": [{"b": 1}], "a":\n 2}}', 'line 1: "a" stands twice'),
        ('{\n"DICOMPORT": ' + "9" * 5000 + "}", "line 2: not JSON: a number has too many digits"),
        ('{"receiver": {\n"quiet_seconds": NaN}}', "line 2: not JSON: NaN"),
        ("[" * 100_000, "line 1: not JSON: nested too deep"),
        ('{"receiver": {"quiet_seconds": 1e999}}', "receiver.quiet_seconds: Input should be a finite number"),
        ('{"DICOMPORT": true}', "DICOMPORT: expected a number"),
        ('{"LOCALTIMEZONE": "Mars/Base"}', "LOCALTIMEZONE: no time zone is called 'Mars/Base'"),
        ('{"LOCALTIMEZONE": "../../etc/passwd"}', "LOCALTIMEZONE: no time zone"),
        ('{"redcap": {"url": "https://redcap.example/api"}}', "redcap.url: the address of the API ends with"),
        ('{"redcap": {"url": "http://redcap.example/api/"}}', "redcap.url: url: a secret would go over"),
        ('{"MPPSPORT": 11112}', "line 1: port 11112 is given more than once"),
        ('{"receiver": {"allowed_callers": ["TOO LONG FOR AN AE"]}}', "allowed_callers.0: an AE title is"),
        (
            '{"targets": {"a": {"kind": "dicom", "host": "h", "called_ae_title": "SEVENTEEN LETTERS"}}}',
            "targets.a.dicom.called_ae_title: an AE title is",
        ),
    ],
    ids=range(14),
)
def test_what_can_t_be_meant_is_refused_with_the_reason(root: DataRoot, text: str, said: str) -> None:
    write(root, text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(root)
    assert said in str(caught.value)


def test_a_mark_of_utf_8_and_several_remarks_are_no_fault(root: DataRoot) -> None:
    write(root, '\ufeff{"//": "one", "//": "two", "DICOMAETITLE": "X"}')
    assert load_settings(root).DICOMAETITLE == "X"


@pytest.mark.parametrize("text", ["[]", "1", '"x"'])
def test_anything_but_an_object_is_refused(root: DataRoot, text: str) -> None:
    write(root, text)
    with pytest.raises(ConfigurationError, match="object"):
        load_settings(root)


def test_a_missing_file_says_what_to_do(root: DataRoot) -> None:
    with pytest.raises(ConfigurationError, match="fiona init"):
        load_settings(root)


def test_remarks_are_allowed(root: DataRoot) -> None:
    write(root, '{"//": "a remark", "DICOMAETITLE": "X"}')
    assert load_settings(root).DICOMAETITLE == "X"


def test_a_broken_edit_leaves_the_last_good_version_in_force(root: DataRoot) -> None:
    write(root, '{"DICOMPORT": 1234}')
    assert load_settings_in_force(root)[0].DICOMPORT == 1234
    write(root, '{"DICOMPORT": "no port"}')
    settings, problem = load_settings_in_force(root)

    assert settings.DICOMPORT == 1234
    assert problem is not None
    assert "DICOMPORT" in problem


def test_a_file_that_was_never_good_is_an_error(root: DataRoot) -> None:
    write(root, "{")
    with pytest.raises(ConfigurationError):
        load_settings_in_force(root)


def project(root: DataRoot, name: str, **more: object) -> Path:
    path = root.project_files / f"{name}.json"
    path.write_text(json.dumps({"name": name, **more}))
    return path


def test_a_project_must_be_named_as_its_file(root: DataRoot) -> None:
    (root.project_files / "ABC.json").write_text('{"name": "ABD"}')
    with pytest.raises(ConfigurationError, match="ABC"):
        load_project(root, "ABC")


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 21, "a/b"])
def test_a_project_name_never_becomes_a_path(root: DataRoot, name: str) -> None:
    assert not has_project(root, name)
    with pytest.raises(ConfigurationError):
        load_project(root, name)


def test_a_broken_project_keeps_its_last_good_version(root: DataRoot) -> None:
    path = project(root, "ABC", events=["E1"])
    assert load_project_in_force(root, "ABC")[0].events == ("E1",)
    path.write_text('{"name": "ABC", "participant_pattern": "("}')
    kept, problem = load_project_in_force(root, "ABC")

    assert kept.events == ("E1",)
    assert problem is not None
    assert "participant_pattern" in problem


def test_check_finds_a_target_that_is_not_there(root: DataRoot) -> None:
    write(root, "{}")
    project(root, "ABC", targets=["nowhere"])
    (problem,) = check(root)
    assert "nowhere" in problem


def test_every_edit_changes_the_digest(root: DataRoot) -> None:
    write(root, "{}")
    digests = {configuration_digest(root)}
    project(root, "ABC")
    digests.add(configuration_digest(root))
    project(root, "ABC", active=False)
    digests.add(configuration_digest(root))
    root.rules_file.write_text("[]")
    digests.add(configuration_digest(root))

    assert len(digests) == 4


def test_the_token_comes_from_environment_or_file(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.secrets / "t").write_text("ABC\n")
    settings = RedcapSettings(token_env="FIONA_TEST_TOKEN", token_file="secrets/t")
    assert redcap_token(root, settings) == "ABC"
    monkeypatch.setitem(os.environ, "FIONA_TEST_TOKEN", "DEF")
    assert redcap_token(root, settings) == "DEF"
    with pytest.raises(ConfigurationError, match="token"):
        redcap_token(root, RedcapSettings())


def test_the_published_schema_is_closed() -> None:
    for schema in json_schema().values():
        assert schema["additionalProperties"] is False


@given(st.text(max_size=200))
def test_no_text_makes_the_loader_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = DataRoot(tmp_path_factory.mktemp("root"))
    root.config.mkdir()
    root.config_file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_settings(root)
        message = ""
    except ConfigurationError as error:
        message = str(error)
    assert message == "" or message.startswith(str(root.config_file))


def test_the_published_schema_says_what_docstrings_say() -> None:
    """Also of what a section has from another one, and of sections within sections."""
    schemas = json_schema()
    project, main = schemas["projects/<PROJECT>.json"], schemas["config.json"]
    assert project["properties"]["name"]["description"] == "The acronym; equal to the file name."
    assert project["properties"]["options"]["description"]
    tls = main["$defs"]["TlsSettings"]["properties"]
    assert all(setting.get("description") for setting in tls.values())
    lacking = [name for name, each in main["properties"].items() if "description" not in each]
    assert "LOCALTIMEZONE" not in lacking
    assert len(lacking) < len(main["properties"])


def test_threads_that_meet_a_changed_file_at_once_keep_it_whole(root: DataRoot) -> None:
    """Sensors are threads of one process; each keeps what it read as the last good version."""
    write(root, "{}")

    def load(number: int) -> str:
        if number % 5 == 0:
            document = {"DICOMAETITLE": f"FIONA{number}", "SITES": {}}
            part = root.config_file.with_name(f"new-{number}")
            part.write_text(json.dumps(document))
            part.replace(root.config_file)
        return load_settings_in_force(root)[0].DICOMAETITLE

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(load, range(200)))
    kept = root.last_good / root.config_file.name
    assert json.loads(kept.read_text())
    assert [path.name for path in root.last_good.iterdir() if path.name.endswith(".part")] == []
