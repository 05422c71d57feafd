"""Odd input to every command: one line that says what to do, the right exit code, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fiona_dagster import cli
from fiona_dagster.config import DataRoot
from fiona_dagster.operations import initialise
from fiona_dagster.operations.lock import hold_root
from tests.making import write_object
from tests.running import fiona
from tests.site import STUDY, Site, running_site

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*arguments: str, data: Path) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FIONA_DATA", str(data))
        monkeypatch.setattr(sys, "argv", ["fiona", *arguments])
        mask = os.umask(0o077)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            os.umask(mask)
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    initialise(DataRoot(tmp_path / "data"), 0)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "command",
    [
        ["nonsense"],
        ["classify"],
        ["classify", "nowhere"],
        ["assign", "1.2"],
        ["init", "file"],
        ["redcap-sandbox", "--port", "99999"],
        ["import", "nowhere"],
        ["verify", "nowhere.zip"],
        ["reclassify"],
        ["deidentify", "--project", "P/..", "--participant", "X", "--event", "E", "file", "out"],
        ["deidentify", "--project", "P", "--participant", "X", "--event", "E", "nowhere", "out"],
        ["deidentify", "--project", "P", "--participant", "X", "--event", "E", "folder", "file"],
        ["deidentify", "--project", "P", "--participant", "a\\b", "--event", "E", "file", "out"],
    ],
    ids=" ".join,
)
def test_a_call_that_makes_no_sense(command: list[str], call: Call, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()

    code, out, err = call(*command, data=data)

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("fiona: ")


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "--json"],
        ["config", "check"],
        ["config", "show", "--json"],
        ["up"],
        ["import", "."],
        ["reclassify", "--stale"],
        ["assign", "1.2", "--project", "P", "--participant", "X", "--event", "E"],
    ],
    ids=" ".join,
)
def test_without_a_data_root(command: list[str], call: Call, tmp_path: Path) -> None:
    code, out, err = call(*command, data=tmp_path / "none")

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "fiona init" in err
    assert not (tmp_path / "none").exists()


def test_the_receiver_without_a_data_root(tmp_path: Path) -> None:
    done = fiona("receive", data=tmp_path / "none", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert "fiona init" in done.stderr


def test_a_folder_that_can_not_be_read_is_never_passed_over(data: Path, tmp_path: Path) -> None:
    """Whoever imports a folder believes afterwards that all of it is here."""
    tree = tmp_path / "tree"
    (tree / "locked").mkdir(parents=True)
    write_object(tree, "1.2.3.1")
    write_object(tree / "locked", "1.2.3.2")
    if os.geteuid() == 0:
        run = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    else:
        run = []
    (tree / "locked").chmod(0)
    environment = {**os.environ, "FIONA_DATA": str(data)}

    def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*run, sys.executable, "-m", "fiona_dagster.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    try:
        imported = unprivileged("import", str(tree))
        classified = unprivileged("classify", "--json", str(tree))
        copied = unprivileged(
            *("deidentify", "--project", "P", "--participant", "X", "--event", "E"),
            *(str(tree), str(tmp_path / "out")),
        )
    finally:
        (tree / "locked").chmod(0o700)

    assert (imported.returncode, "1 unreadable" in imported.stdout) == (1, True)
    assert "locked: folder can't be read (Permission denied)" in imported.stderr
    assert classified.returncode == 1
    assert len(json.loads(classified.stdout)) == 1
    assert "folder_unreadable" in classified.stderr
    assert copied.returncode == 2
    assert "nothing was de-identified" in copied.stderr
    assert not (tmp_path / "out").exists()

    (tree / "b.dcm").write_bytes(next(p for p in tree.rglob("*") if p.is_file()).read_bytes())
    (tree / "b.dcm").chmod(0)
    report = tmp_path / "report.json"
    copied = unprivileged(
        *("deidentify", "--project", "P", "--participant", "X", "--event", "E", "--report", str(report)),
        *(str(tree), str(tmp_path / "out")),
    )

    assert copied.returncode == 1
    assert (
        f"failed: {tree}/b.dcm: an original can't be read from the disk (Permission denied)" in copied.stderr
    )
    assert "Traceback" not in copied.stderr
    assert [failure["kind"] for failure in json.loads(report.read_text())["failures"]] == [
        "OriginalUnavailable"
    ]


def test_an_error_that_nobody_foresaw_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ValueError("can't convert Quisling^Wendelin")

    monkeypatch.setattr(cli.fiona, "main", broken)
    with pytest.raises(SystemExit) as ended:
        cli.main()

    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("fiona: unexpected ValueError at ")
    assert said.count("\n") == 1
    assert "Quisling" not in said


def test_help_of_every_command() -> None:
    for name in cli.COMMANDS:
        shown = CliRunner().invoke(cli.fiona, [name, "--help"])
        assert shown.exit_code == 0, name
        assert "Usage:" in shown.output


@pytest.fixture
def site(tmp_path: Path) -> Site:
    with running_site(tmp_path) as running:
        running.receive(1)
        return running


def test_reclassify_starts_a_backfill_and_says_who_does_it(site: Site) -> None:
    done = fiona("reclassify", STUDY, "--json", data=site.root.path)

    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert said.pop("backfill")
    assert said == {"studies": [STUDY], "started": [STUDY], "service_running": False}
    assert "the runs start when it does" in done.stderr

    with hold_root(site.root):
        done = fiona("reclassify", STUDY, "--json", data=site.root.path)
    again = json.loads(done.stdout)
    assert (again["service_running"], again["started"]) == (True, [])  # it waits already
    assert done.stderr == ""


def test_stale_studies_are_those_that_other_rules_classified(site: Site) -> None:
    assert json.loads(fiona("reclassify", "--stale", "--json", data=site.root.path).stdout)["studies"] == []
    rules = json.loads(site.root.rules_file.read_text())
    site.root.rules_file.write_text(json.dumps(rules[:-1]))

    assert json.loads(fiona("reclassify", "--stale", "--json", data=site.root.path).stdout)["studies"] == [
        STUDY
    ]
