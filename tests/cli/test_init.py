"""``fiona init`` and ``fiona env``."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

from fiona_dagster.config import DataRoot, load_settings
from fiona_dagster.operations import initialise, restore_dagster_home
from tests.running import fiona


def test_init_makes_a_root_that_its_own_check_accepts(tmp_path: Path) -> None:
    data = tmp_path / "site data"
    done = fiona("init", str(data), "--port", "4006", "--open")
    settings = load_settings(DataRoot(data))

    assert (done.returncode, done.stderr) == (0, "")
    assert "added config/config.json" in done.stdout
    assert (settings.DICOMPORT, settings.receiver.accept_unknown) == (4006, True)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert fiona("config", "check", data=data).returncode == 0
    assert "nothing was missing" in fiona("init", data=data).stdout


def test_without_a_folder_it_is_data_beside_us(tmp_path: Path) -> None:
    assert fiona("init", cwd=tmp_path).returncode == 0
    assert (tmp_path / "data" / "config" / "config.json").is_file()


def test_a_port_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    assert fiona("init", str(tmp_path / "x"), "--port", "70000").returncode == 2
    assert not (tmp_path / "x").exists()


def test_env_is_what_a_shell_can_evaluate(tmp_path: Path) -> None:
    data = tmp_path / "it's here"
    fiona("init", data=data)
    done = fiona("env", data=data)
    shell = 'eval "$1"; printf "%s\\n%s\\n" "$FIONA_DATA" "$DAGSTER_HOME"'
    said = subprocess.run(["sh", "-c", shell, "sh", done.stdout], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert said.stdout.splitlines() == [str(data), str(data / "dagster")]


def test_env_of_what_is_no_data_root_says_so_on_stderr_alone(tmp_path: Path) -> None:
    done = fiona("env", cwd=tmp_path)

    assert done.returncode == 0
    assert f"FIONA_DATA={tmp_path / 'data'}" in done.stdout
    assert "run `fiona init`" in done.stderr


def test_up_without_a_data_root_says_what_to_do(tmp_path: Path) -> None:
    done = fiona("up", data=tmp_path)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "run `fiona init`" in done.stderr


def test_a_lost_dagster_home_is_made_anew_and_one_that_is_there_left_alone(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "data")
    initialise(root)
    original = (root.dagster_home / "dagster.yaml").read_bytes()
    (root.dagster_home / "dagster.yaml").write_bytes(original + b"# ours\n")
    assert not restore_dagster_home(root)
    assert (root.dagster_home / "dagster.yaml").read_bytes().endswith(b"# ours\n")

    shutil.rmtree(root.dagster_home)
    assert restore_dagster_home(root)
    assert (root.dagster_home / "dagster.yaml").read_bytes() == original


def test_open_on_an_existing_root_edits_only_that_key(tmp_path: Path) -> None:
    fiona("init", data=tmp_path)
    path = tmp_path / "config" / "config.json"
    before = json.loads(path.read_text())
    done = fiona("init", "--open", data=tmp_path)
    before["receiver"]["accept_unknown"] = True

    assert done.stdout.splitlines()[0] == "added config/config.json"
    assert json.loads(path.read_text()) == before
