"""``fiona status --unaccounted`` as operators and monitoring call it."""

from __future__ import annotations

import json
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import import_paths
from fiona_dagster.operations import initialise
from tests.making import STUDY, write_object
from tests.running import fiona


def test_exit_codes_and_json(root: DataRoot, tmp_path: Path) -> None:
    import_paths(root, [write_object(tmp_path, "1.2.3")])
    done = fiona("status", "--unaccounted", "--verify", "--json", data=root.path)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["unaccounted"], document["pending"]) == ([], [])
    assert document["checked"]["instances"] == 1

    (root.archive / f"scp_{STUDY}" / "CT.1.2.3").unlink()
    done = fiona("status", "--unaccounted", "--json", data=root.path)
    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["unaccounted"]
    assert (finding["code"], finding["study"]) == ("lost_file", STUDY)
    assert fiona("status", STUDY, "--unaccounted", data=root.path).returncode == 1
    assert fiona("status", "9.9", "--unaccounted", data=root.path).returncode == 0
    assert "lost_file" in fiona("status", "--unaccounted", data=root.path).stdout


def test_verify_alone_makes_no_sense(root: DataRoot) -> None:
    assert fiona("status", "--verify", data=root.path).returncode == 2


def test_states_are_in_status(root: DataRoot, tmp_path: Path) -> None:
    import_paths(root, [write_object(tmp_path, "1.2.3"), write_object(tmp_path, "1.2.4")])
    document = json.loads(fiona("status", "--json", data=root.path).stdout)
    assert document["states"] == {"received": 2}
    detail = json.loads(fiona("status", STUDY, "--json", data=root.path).stdout)
    assert [entry["state"] for entry in detail["instance_states"]] == ["received", "received"]
    assert "received" in fiona("status", STUDY, data=root.path).stdout


def test_a_damaged_ledger_says_what_to_do(root: DataRoot, tmp_path: Path) -> None:
    initialise(root)
    import_paths(root, [write_object(tmp_path, "1.2.3")])
    assert fiona("status", data=root.path).returncode == 0
    for ending in ("-wal", "-shm"):
        Path(f"{root.ledger_file}{ending}").unlink(missing_ok=True)
    whole = root.ledger_file.read_bytes()
    for broken in (b"no database" * 1000, whole[:4096] + b"\xff" * (len(whole) - 4096)):
        root.ledger_file.write_bytes(broken)
        done = fiona("status", "--unaccounted", data=root.path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "`fiona rebuild`" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    assert fiona("rebuild", data=root.path).returncode == 0
    assert fiona("status", "--unaccounted", data=root.path).returncode == 0
