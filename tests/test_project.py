"""The checkout itself: lock, Dagster's files, layers, the judge of CI."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import BaseModel

from fiona_dagster.config import access, notifications, packaging, project, settings, targets

CHECKOUT = Path(__file__).resolve().parent.parent


def _pins() -> dict[str, str]:
    text = (CHECKOUT / "requirements.lock").read_text()
    return dict(re.findall(r"(?m)^([a-z0-9.-]+)(?:\[[^]]*\])?==(\S+)", text))


def test_the_lock_holds_no_address() -> None:
    text = (CHECKOUT / "requirements.lock").read_text()

    assert "://" not in text
    assert not re.search(r"(?m)^--|find-links|index-url", text)


def test_everything_the_project_asks_for_is_locked_with_hashes() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    wanted = [*project["dependencies"], *extras]
    pins = _pins()
    entries = re.split(r"(?m)^(?=[a-z0-9])", (CHECKOUT / "requirements.lock").read_text())[1:]

    assert {re.split(r"[<>=\[ ]", name)[0].lower() for name in wanted} <= set(pins)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_package_carries_the_very_dagster_yaml_of_the_top_level() -> None:
    packaged = CHECKOUT / "fiona_dagster" / "operations" / "data" / "dagster.yaml"

    assert packaged.read_bytes() == (CHECKOUT / "dagster.yaml").read_bytes()


def test_dagster_loads_its_configuration_as_meant(tmp_path: Path) -> None:
    from dagster import DagsterInstance

    (tmp_path / "dagster.yaml").write_bytes((CHECKOUT / "dagster.yaml").read_bytes())
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 4
        assert queue.tag_concurrency_limits == [{"key": "fiona/kind", "value": "deliver", "limit": 2}]
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert not instance.telemetry_enabled
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 1
        assert instance.get_settings("run_retries")["retry_on_asset_or_op_failure"] is False
        assert type(instance.compute_log_manager).__name__ == "NoOpComputeLogManager"


def test_the_workspace_has_the_name_that_fiona_up_serves() -> None:
    from fiona_dagster.operations.services import LOCATION

    workspace = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())

    assert workspace == {
        "load_from": [
            {"python_module": {"module_name": "fiona_dagster.definitions", "location_name": LOCATION}}
        ]
    }


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("receiver", {"dagster", "pandas", "pynetdicom", "numpy"}),
        ("fiona_dagster.operations", {"dagster", "pandas", "pynetdicom"}),
        ("fiona_dagster.cli", {"dagster", "pandas", "pynetdicom", "pydicom"}),
    ],
)
def test_what_must_start_fast_imports_nothing_heavy(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*(name for name in {sorted(absent)!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


@pytest.fixture
def summary() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summary", CHECKOUT / "scripts" / "summary.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PASSED = '<testcase name="a"/>'
FAILED = '<testcase name="b"><failure message="no"/></testcase>'
SHARED = '<testcase name="c"><skipped type="pytest.skip" message="no shared files in /x"/></testcase>'
OTHER = '<testcase name="d"><skipped type="pytest.skip" message="only on Sundays"/></testcase>'
XFAIL = '<testcase name="e"><skipped type="pytest.xfail" message="known"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "status", "expected"),
    [
        (PASSED + XFAIL, 0, (0, "2 passed, 0 failed")),
        (PASSED + FAILED, 1, (1, "1 passed, 1 failed")),
        (PASSED + OTHER, 0, (0, "1 passed, 0 failed")),
        (PASSED + SHARED, 0, (1, "1 passed, 0 failed")),
        (OTHER, 0, (1, "0 passed, 0 failed")),
        (PASSED, 2, (2, "1 passed, 0 failed")),
    ],
)
def test_ci_accepts_no_skip_without_excuse(
    summary: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cases: str,
    status: int,
    expected: tuple[int, str],
) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")

    assert (summary.main(report, tmp_path, status), capsys.readouterr().out.splitlines()[-1]) == expected


def test_skips_are_excused_where_there_are_no_shared_files(summary: ModuleType, tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{PASSED}{SHARED}</testsuite></testsuites>")

    assert summary.main(report, tmp_path / "absent", 0) == 0


def test_no_report_is_a_failure(summary: ModuleType, tmp_path: Path) -> None:
    assert summary.main(tmp_path / "none.xml", tmp_path, 0) == 1


def _documented() -> dict[str, dict[str, str]]:
    """Heading of docs/operators/configure.md -> key -> default, as written there."""
    text = (CHECKOUT / "docs" / "operators" / "configure.md").read_text()
    sections = re.split(r"(?m)^#+ (.*)$", text)[1:]
    return {
        heading: dict(re.findall(r"(?m)^\| `(\w+)` \| (?:`([^`]*)`|required|section) \|", body))
        for heading, body in zip(sections[::2], sections[1::2], strict=True)
    }


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("config.json", settings.Settings),
        ("SITES", settings.SiteSettings),
        ("receiver", settings.ReceiverSettings),
        ("receiver: allowed_callers", access.AllowedCaller),
        ("receiver: tls", access.TlsSettings),
        ("imports", settings.ImportSettings),
        ("redcap", settings.RedcapSettings),
        ("redcap: tokens", project.TokenSource),
        ("opt_out", settings.OptOutSettings),
        ("targets: SFTP", targets.SftpTarget),
        ("targets: DICOM", targets.DicomTarget),
        ("targets: STOW-RS", targets.StowTarget),
        ("targets: S3", targets.S3Target),
        ("targets: folder", targets.FolderTarget),
        ("targets: DICOM, tls", targets.PeerTlsSettings),
        ("notifications: email", notifications.EmailChannel),
        ("notifications: webhook", notifications.WebhookChannel),
        ("notifications: apprise", notifications.AppriseChannel),
        ("completion", settings.CompletionSettings),
        ("receiver: commitment", settings.CommitmentPeer),
        ("sources", settings.Source),
        ("retention", settings.RetentionSettings),
        ("reconciliation", settings.ReconciliationSettings),
        ("web", settings.WebSettings),
        ("metrics", settings.MetricsSettings),
        ("config/projects/&lt;PROJECT&gt;.json", project.ProjectSettings),
        ("package", packaging.PackageSettings),
    ],
)
def test_every_setting_is_documented_with_its_default(heading: str, model: type[BaseModel]) -> None:
    expected = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        plain = field.is_required() or isinstance(default, BaseModel)
        expected[name] = "" if plain else json.dumps(default)

    assert _documented()[heading] == expected


def test_every_decision_is_listed_under_its_number() -> None:
    listed = (CHECKOUT / "docs" / "developers" / "README.md").read_text()
    for path in sorted((CHECKOUT / "docs" / "adr").glob("*.md")):
        number = int(path.name[:4])
        assert f"| [{number}](../adr/{path.name}) |" in listed
        assert path.read_text().startswith(f"# {number}. "), path


def test_every_command_is_in_the_table_of_the_readme() -> None:
    from fiona_dagster.cli import COMMANDS

    readme = (CHECKOUT / "README.md").read_text()
    missing = [name for name in COMMANDS if f"fiona {name}" not in readme]
    assert missing == []
