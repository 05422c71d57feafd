"""``fiona redcap-sandbox`` as another program sees it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.redcap import RedcapClient

FIONA = (sys.executable, "-c", "from fiona_dagster.cli import main; main()", "redcap-sandbox")


def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    process = subprocess.Popen(
        [*FIONA, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_serves_and_ends_cleanly(end: signal.Signals) -> None:
    process, where = start()
    assert list(where) == ["url", "tokens"]
    assert sorted(where["tokens"]) == [
        "AutoID",
        "CouplingList",
        "DataTransferProjects",
        "Incoming",
        "ResearchProject",
        "Routing",
    ]
    for token in where["tokens"].values():
        assert RedcapClient(where["url"], token).metadata()
    process.send_signal(end)
    out, err = process.communicate(timeout=170)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_same_folder_keeps_tokens_and_records_even_after_a_kill(tmp_path: Path) -> None:
    process, where = start("--data", str(tmp_path))
    client = RedcapClient(where["url"], where["tokens"]["AutoID"])
    client.import_records([{"record_id": "1", "autoid_value": "a"}])
    process.kill()
    process.communicate(timeout=170)
    process, again = start("--data", str(tmp_path), "--port", where["url"].split(":")[2].split("/")[0])
    assert again == where
    assert client.export_records(fields=["autoid_value"]) == [{"autoid_value": "a"}]
    process.terminate()
    process.communicate(timeout=170)
    assert process.returncode == 0
    assert (tmp_path / "redcap.sqlite").stat().st_mode & 0o077 == 0


def test_a_port_in_use_is_one_line_and_exit_2() -> None:
    process, where = start()
    second = subprocess.run(
        [*FIONA, "--port", where["url"].split(":")[2].split("/")[0]],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    process.terminate()
    process.communicate(timeout=170)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr.count("\n") == 1
    assert "another --port" in second.stderr
