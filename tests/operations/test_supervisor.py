"""The supervisor with real Dagster programs and stand-ins for what is ours."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import records_folder
from fiona_dagster.operations import Supervisor, initialise, runtime_file
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.operations.services import is_free
from tests.making import STUDY, write_object
from tests.operations.processes import alive, wait_until

pytestmark = pytest.mark.timeout(600)

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    data = DataRoot(tmp_path / "data")
    initialise(data, 0)
    text = data.config_file.read_text()
    quick = '"imports": {"settle_seconds": 1, "poll_seconds": 0.5}, "web": {'
    data.config_file.write_text(text.replace('"port": 3000', '"port": 0').replace('"web": {', quick))
    return data


def _launch(root: DataRoot, output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with output.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.operations.programs.up", str(root.path)],
            stdout=stream,
            stderr=stream,
            env=environment,
        )


@contextmanager
def _up(root: DataRoot) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = root.path.parent / "output"
    process = _launch(root, output)
    try:
        wait_until(lambda: process.poll() is not None or _runtime(root, process).get("ready"), 170)
        assert process.poll() is None, output.read_text()
        yield process, output
    finally:
        process.kill()
        process.wait()


def _runtime(root: DataRoot, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(runtime_file(root).read_text())
    except FileNotFoundError:
        return {}
    return found if found["pid"] == process.pid else {}


def _group(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == leader and alive(int(folder.name)):
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found


def _everyone(runtime: dict[str, Any]) -> list[int]:
    """All processes of all services that run."""
    leaders = [service["pid"] for service in runtime["services"].values() if service["pid"]]
    return [pid for leader in leaders for pid in _group(leader)]


def _ports(runtime: dict[str, Any]) -> list[int]:
    return [runtime["web_port"], runtime["code_port"], runtime["receiver"][1]]


def _mpps_comes_and_goes(root: DataRoot, process: subprocess.Popen[bytes]) -> None:
    """It is served by a process of its own as soon as it has a port, and no longer than that."""
    assert _runtime(root, process)["services"]["mpps"]["pid"] is None
    assert _runtime(root, process)["services"]["outreach"]["pid"] is None
    assert _runtime(root, process)["services"]["metrics"]["pid"] is None
    text = root.config_file.read_text()
    ports = '"MPPSPORT": 0, "metrics": {"port": 0}, "DICOMPORT"'
    root.config_file.write_text(text.replace('"DICOMPORT"', ports, 1))
    wait_until(lambda: _runtime(root, process)["services"]["mpps"]["ready"], 170)
    wait_until(lambda: _runtime(root, process)["services"]["metrics"]["ready"], 170)
    socket.create_connection(tuple(_runtime(root, process)["mpps"])).close()
    source = '"sources": {"pacs": {"host": "127.0.0.1", "called_ae_title": "PACS"}}, "DICOMPORT"'
    root.config_file.write_text(text.replace('"DICOMPORT"', source, 1))
    wait_until(lambda: _runtime(root, process)["services"]["mpps"]["pid"] is None, 170)
    wait_until(lambda: _runtime(root, process)["services"]["metrics"]["pid"] is None, 170)
    wait_until(lambda: _runtime(root, process)["services"]["outreach"]["ready"], 170)
    root.config_file.write_text(text)
    wait_until(lambda: _runtime(root, process)["services"]["outreach"]["pid"] is None, 170)


def _a_disk_that_takes_nothing(root: DataRoot, process: subprocess.Popen[bytes], output: Path) -> None:
    """A program that can't be started and a notice that can't be written stop nothing, and come later."""
    before = _runtime(root, process)["services"]["inbox"]["pid"]
    notice, log = root.dagster_home / ".fiona-up.json.part", root.logs / "inbox.log"
    log.unlink()
    for path in (notice, log):
        path.mkdir()
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: "inbox can't be started" in output.read_text(), 170)
    wait_until(lambda: "fiona-up.json can't be written" in output.read_text(), 170)
    for path in (notice, log):
        path.rmdir()
    wait_until(lambda: _runtime(root, process)["services"]["inbox"]["pid"] not in {None, before}, 170)
    wait_until(lambda: _runtime(root, process)["ready"], 170)


@pytest.mark.end_to_end
def test_a_day_in_the_life_of_the_services(root: DataRoot) -> None:
    with _up(root) as (process, output):
        runtime = _runtime(root, process)

        # People and programs find everything; nothing is readable for others.
        said = output.read_text()
        assert f"receiver listening on 127.0.0.1:{runtime['receiver'][1]}\n" in said
        assert f"Dagster UI {runtime['url']}\n" in said
        with urllib.request.urlopen(f"{runtime['url']}/server_info", timeout=10) as answer:  # noqa: S310
            assert json.load(answer)["dagster_version"].startswith("1.13")
        for log in root.logs.iterdir():
            assert stat.S_IMODE(log.stat().st_mode) == 0o600, log

        # A second one on the same data root is refused at once.
        second = _launch(root, root.path.parent / "second")
        assert second.wait(170) == 1
        assert "Busy: `fiona up` already runs" in (root.path.parent / "second").read_text()

        # A new project has its job, and the daemon runs it, with nothing restarted.
        (root.project_files / "ABC.json").write_text('{"name": "ABC"}')
        wait_until((root.path / "ran-ABC").exists, 170)
        assert _runtime(root, process)["services"] == runtime["services"]

        # A broken one is named, and the rest goes on.
        (root.project_files / "BAD.json").write_text('{"nam": "BAD"}')
        wait_until(lambda: "BAD.json: line 1: nam: unknown key" in output.read_text())
        (root.project_files / "BAD.json").unlink()

        # What is dropped into the inbox is taken, by a process that needs none of the others.
        write_object(root.inbox, "1.2.1")
        wait_until((root.archive / f"scp_{STUDY}" / "CT.1.2.1").exists, 170)
        wait_until(lambda: not (root.inbox / "1.2.1.dcm").exists())

        # The switch file turns the receiver off and on again.
        root.enabled_file.write_text("010")
        wait_until(lambda: _runtime(root, process)["services"]["receiver"]["pid"] is None)
        root.enabled_file.write_text("110")
        wait_until(lambda: _runtime(root, process)["services"]["receiver"]["ready"])

        _mpps_comes_and_goes(root, process)
        _a_disk_that_takes_nothing(root, process, output)

        # A killed code server takes its children with it and comes back on the same port.
        leader = runtime["services"]["code-server"]["pid"]
        children = _group(leader)
        assert len(children) >= 2
        os.kill(leader, signal.SIGKILL)
        wait_until(lambda: not _group(leader), 170)
        wait_until(
            lambda: _runtime(root, process)["services"]["code-server"]["pid"] not in {None, leader}, 90
        )
        wait_until(lambda: _runtime(root, process)["ready"], 170)
        assert _runtime(root, process)["code_port"] == runtime["code_port"]
        assert (root.path / "reconciled").read_text() == "xx"

        # kill -9 of the supervisor: nothing is left and every port is free.
        runtime = _runtime(root, process)
        everyone = _everyone(runtime)
        assert len(everyone) >= 5
        process.kill()
        process.wait()
        wait_until(lambda: not any(alive(pid) for pid in [*everyone, runtime["guardian"]]), 170)
        wait_until(lambda: all(is_free("127.0.0.1", port) for port in _ports(runtime)), 170)

    # The next start is an ordinary one, and SIGTERM ends it in order.
    with _up(root) as (process, output):
        runtime = _runtime(root, process)
        everyone = _everyone(runtime)
        process.send_signal(signal.SIGTERM)

        assert process.wait(170) == 0, output.read_text()
        assert not any(alive(pid) for pid in [*everyone, runtime["guardian"]])
        assert not runtime_file(root).exists()


@pytest.mark.end_to_end
def test_definitions_that_fail_to_load_are_named_and_can_be_mended(root: DataRoot) -> None:
    broken = root.path / "definitions-fail"
    broken.touch()
    output = root.path.parent / "output"
    process = _launch(root, output)
    try:
        wait_until(lambda: _runtime(root, process).get("problem"), 170)
        runtime = _runtime(root, process)
        assert runtime["ready"] is False
        running = [service for service in runtime["services"].values() if service["pid"]]
        assert all(service["ready"] for service in running), "the UI is there to look"
        wait_until(lambda: "not loaded: ValueError: broken on purpose; images are" in output.read_text(), 170)
        assert "everything is up" not in output.read_text()

        # Any sound change of the configuration has them loaded again.
        broken.unlink()
        (root.project_files / "ABC.json").write_text('{"name": "ABC"}')
        wait_until(lambda: _runtime(root, process)["ready"], 170)
        wait_until((root.path / "ran-ABC").exists, 170)
        assert _runtime(root, process)["problem"] == ""
        assert _runtime(root, process)["services"] == runtime["services"]
        assert output.read_text().count("not loaded") == 1
        assert "everything is up" in output.read_text()
    finally:
        process.terminate()
        assert process.wait(170) == 0, output.read_text()


def test_a_taken_port_is_named_with_what_to_do(root: DataRoot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = root.config_file.read_text()
        root.config_file.write_text(text.replace('"port": 0', f'"port": {port}'))
        output = root.path.parent / "output"

        assert _launch(root, output).wait(170) == 1
    assert f"StartFailed: web.port {port} is taken on 127.0.0.1" in output.read_text()


def test_the_receiver_is_up_whatever_is_wrong_with_ledger_and_dagster(root: DataRoot) -> None:
    """All else waits, says why, and goes on by itself."""
    (root.path / "reconcile-fails").touch()
    consents = records_folder(root) / "consents.json"
    consents.parent.mkdir(parents=True)
    consents.write_text("{")
    output = root.path.parent / "output"
    process = _launch(root, output)

    def service(name: str) -> Any:
        return _runtime(root, process).get("services", {}).get(name, {})

    def goes_on() -> bool:
        return process.poll() is None and bool(service("receiver")["ready"])

    try:
        # A ledger that is gone, and can't be built anew.
        wait_until(lambda: "who withdrew the consent" in _runtime(root, process).get("problem", ""), 170)
        assert "images are received, nothing is processed until the ledger is there" in output.read_text()
        wait_until(lambda: service("receiver").get("ready"), 170)
        assert {name for name, found in _runtime(root, process)["services"].items() if found["pid"]} == {
            *("receiver", "inbox")
        }

        # `fiona rebuild` beside it; then Dagster's reconciliation fails.
        consents.write_text('{"format": 1, "withdrawn_consents": []}')
        rebuild(root)
        wait_until(lambda: "reconciliation before the start failed (exit code 3)" in output.read_text(), 170)
        assert goes_on()
        assert service("code-server")["pid"] is None
        assert _runtime(root, process)["problem"] == ""
        (root.path / "reconcile-fails").unlink()
        wait_until(lambda: service("code-server")["pid"], 170)

        # Deleted while everything runs: what needs it ends, and it is built anew.
        leader = service("code-server")["pid"]
        for path in root.ledger_file.parent.glob("ledger.sqlite*"):
            path.unlink()
        wait_until(lambda: "the ledger knows 0 studies again" in output.read_text(), 170)
        assert (
            "the ledger is gone; run `fiona rebuild`, nothing that was received is lost; what needs it"
            in (output.read_text())
        )
        wait_until(lambda: service("code-server")["pid"] not in {None, leader}, 170)
        assert not alive(leader)
        assert goes_on()
    finally:
        process.terminate()
        assert process.wait(170) == 0, output.read_text()
    assert not runtime_file(root).exists()


def test_a_machine_without_descriptors_ends_nothing(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor, steps = Supervisor(root, print), 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps != 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(supervisor, "_step", step)
    for _ in range(4):
        supervisor._step_whatever_comes()
    assert caplog.text.count("Too many open files; what runs goes on") == 2, "once until it has passed"
