"""``fiona redcap init``, ``check`` and ``selftest`` against the sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fiona_dagster.cli.redcap_setup import redcap as command
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, RedcapRejected, UsageError
from fiona_dagster.operations import initialise
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.dictionary import Dictionary, ShippedProject, shipped_projects
from fiona_dagster.redcap.projects import lacking, template
from fiona_dagster.redcap.sandbox import Sandbox

BARE = Dictionary.from_rows([{"field_name": "record_id", "form_name": "form_1", "field_type": "text"}])


@pytest.fixture
def tokens(redcap: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the tokens of bare projects, as a site makes them by hand."""
    monkeypatch.setenv("FIONA_DATA", str(tmp_path / "none"))
    file = tmp_path / "tokens.json"
    found = {
        "Scratch": redcap.add_project(ShippedProject("Scratch", "Scratch", (), BARE)),
        "NEURO": redcap.add_project(ShippedProject("NEURO", "Neuro", (), BARE, ("Baseline",))),
    }
    file.write_text(json.dumps({"url": redcap.url, "tokens": found}))
    file.chmod(0o600)
    return file


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def only(tokens: Path, name: str) -> Path:
    document = json.loads(tokens.read_text())
    document["tokens"] = {name: document["tokens"][name]}
    tokens.write_text(json.dumps(document))
    return tokens


@pytest.mark.parametrize("project", shipped_projects(), ids=lambda project: project.name)
def test_the_sandbox_lacks_nothing(redcap: Sandbox, project: ShippedProject) -> None:
    assert lacking(RedcapClient(redcap.url, redcap.tokens[project.name]), project) == []


def test_a_research_project_is_set_up_and_then_complete(tokens: Path, redcap: Sandbox) -> None:
    only(tokens, "NEURO")
    before = run("check", "--tokens", tokens)
    assert before.exit_code == 1
    assert "field imaging_study_uid (instrument imaging) is missing" in before.output
    assert run("init", "--tokens", tokens).exit_code == 0
    after = run("check", "--tokens", tokens)
    assert (after.exit_code, after.output) == (0, "NEURO: complete\n")
    client = RedcapClient(redcap.url, redcap.tokens["NEURO"])
    assert ("event_1_arm_1", "imaging") in client.repeats()


def test_everything_that_is_configured_is_checked(redcap: Sandbox, root: DataRoot) -> None:
    initialise(root)
    own = redcap.add_project(ShippedProject("NEURO", "Neuro", (), BARE, ("Baseline",)))
    for name, token in {**redcap.tokens, "NEURO": own, "Wrong": "F" * 32}.items():
        (root.secrets / name).write_text(token)
    tables = {"Routing": {"file": "secrets/Routing"}, "AutoID": {"file": "secrets/Wrong"}}
    section = {"url": redcap.url, "token_file": "secrets/Incoming", "tokens": tables}
    root.config_file.write_text(json.dumps({"redcap": section}))
    project = {"name": "NEURO", "redcap_token": {"file": "secrets/NEURO"}}
    (root.project_files / "NEURO.json").write_text(json.dumps(project))
    result = CliRunner(env={"FIONA_DATA": str(root.path)}).invoke(command, ["check"])
    said = [line for line in result.output.splitlines() if not line.startswith(" ")]
    assert [line.partition(",")[0] for line in said] == [
        "Incoming: complete",
        "AutoID: 1 missing or wrong",
        "Routing: complete",
        "NEURO: 5 missing or wrong",
    ]
    assert "You do not have permissions to use the API" in result.output
    assert result.exit_code == 1


def test_nothing_is_set_up_where_records_are(tokens: Path, redcap: Sandbox) -> None:
    scratch = RedcapClient(redcap.url, redcap.tokens["Scratch"])
    scratch.import_records([{"record_id": "1", "form_1_complete": "2"}])
    refused = run("init", "--tokens", tokens)
    assert isinstance(refused.exception, UsageError)
    assert len(scratch.metadata()) == 1
    neuro = RedcapClient(redcap.url, redcap.tokens["NEURO"])
    assert len(neuro.metadata()) == 1  # nothing anywhere
    refused = run("selftest", "--tokens", tokens, "--project", "Scratch", "--yes-this-is-a-scratch-project")
    assert isinstance(refused.exception, UsageError)
    assert len(scratch.export_records()) == 1


def test_without_rights_it_is_refused(tokens: Path, redcap: Sandbox) -> None:
    document = json.loads(tokens.read_text())
    document["tokens"] = {"Scratch": redcap.add_token("Scratch", ("api", "export", "import", "delete"))}
    tokens.write_text(json.dumps(document))
    refused = run("init", "--tokens", tokens)
    assert isinstance(refused.exception, RedcapRejected)
    assert refused.exception.status == 403


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"field_name": "other"}, "field transfer_error (instrument transfers) is missing"),
        ({"field_type": "text"}, "is text, not a checkbox"),
        ({"select_choices_or_calculations": "1, a | 3, c"}, "lacks the choice 2"),
    ],
)
def test_what_a_dictionary_lacks_is_named(redcap: Sandbox, change: dict[str, str], told: str) -> None:
    client = RedcapClient(redcap.url, redcap.tokens["Incoming"])
    rows = [{**row, **change} if row["field_name"] == "transfer_error" else row for row in client.metadata()]
    client.import_metadata(rows)
    (problem,) = lacking(client, template("Incoming"))
    assert told in problem


def test_an_older_incoming_is_complete(redcap: Sandbox) -> None:
    client = RedcapClient(redcap.url, redcap.tokens["Incoming"])
    client.import_metadata([r for r in client.metadata() if r["field_name"] != "study_completeness"])
    redcap.change_setup("Incoming", repeats=())
    assert lacking(client, template("Incoming")) == []


def test_the_sandbox_keeps_the_contract(tokens: Path, redcap: Sandbox) -> None:
    arguments = ("selftest", "--tokens", tokens, "--project", "Scratch")
    assert run(*arguments).exit_code == 2
    result = run(*arguments, "--yes-this-is-a-scratch-project")
    assert "DIFFERS" not in result.output
    assert (result.exit_code, result.output.count("ok ")) == (0, 26)
    assert RedcapClient(redcap.url, redcap.tokens["Scratch"]).export_records() == []
    assert run(*arguments, "--yes-this-is-a-scratch-project").exit_code == 0  # can be repeated


def test_a_server_that_differs_fails(tokens: Path, redcap: Sandbox) -> None:
    redcap.faults.ignored(20)
    result = run("selftest", "--tokens", tokens, "--project", "Scratch", "--yes-this-is-a-scratch-project")
    assert result.exit_code == 1
    assert "DIFFERS a record is imported and counted" in result.output


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"url": 1, "tokens": {"a": "b"}}', '{"url": "u", "tokens": {}}']
)
def test_a_file_without_tokens(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIONA_DATA", str(tmp_path / "none"))
    (tmp_path / "tokens").write_text(text)
    (tmp_path / "tokens").chmod(0o600)
    assert "must hold" in str(run("check", "--tokens", tmp_path / "tokens").exception)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_tokens_that_others_may_read_are_not_used(tokens: Path, redcap: Sandbox, mode: int) -> None:
    tokens.chmod(mode)
    called = len(redcap.calls)
    for refused in (
        run("check", "--tokens", tokens),
        run("init", "--tokens", tokens),
        run("selftest", "--tokens", tokens, "--project", "Scratch", "--yes-this-is-a-scratch-project"),
    ):
        assert isinstance(refused.exception, ConfigurationError)
        assert "chmod 600" in str(refused.exception)
        assert redcap.tokens["Incoming"] not in str(refused.exception)
    assert len(redcap.calls) == called
