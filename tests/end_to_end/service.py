"""A running `fiona up` under test: started, asked, killed and stopped as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.operations.overview import overview, study_detail
from tests.running import fiona

CHECKOUT = Path(__file__).resolve().parents[2]


def wait_until(what: str, ready: Callable[[], Any], seconds: float = 240.0) -> Any:
    """Polls until `ready` says something true; fails loudly otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        found = ready()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.3)


@dataclass
class Service:
    """`fiona up` on one data root."""

    root: DataRoot
    process: subprocess.Popen[bytes] | None = None
    output: Path = field(init=False)

    def __post_init__(self) -> None:
        self.output = self.root.path.parent / "up.out"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "FIONA_DATA": str(self.root.path), "DAGSTER_HOME": str(self.root.dagster_home)}

    @property
    def runtime(self) -> dict[str, Any]:
        """Ports and process ids, or nothing yet."""
        try:
            found: dict[str, Any] = json.loads((self.root.dagster_home / "fiona-up.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    @property
    def dicom_port(self) -> int:
        return int(self.runtime["receiver"][1])

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fiona_dagster.cli", "up"],
                env=self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        pid = self.process.pid
        wait_until("fiona up", lambda: self.runtime.get("ready") and self.runtime["pid"] == pid)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        assert self.process.wait(60) == 0, self.output.read_text()
        self.process = None

    def kill_everything(self) -> None:
        """`kill -9` of the supervisor, as a crash; its guardian ends the rest."""
        assert self.process is not None
        pids = [service["pid"] for service in self.runtime["services"].values() if service["pid"]]
        self.process.kill()
        self.process.wait()
        self.process = None
        wait_until("all services are gone", lambda: not any(_alive(pid) for pid in pids), 60)

    def kill(self, name: str) -> None:
        """`kill -9` of one service; the supervisor starts it again."""
        pid = self.runtime["services"][name]["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(f"{name} is back", lambda: self._is_new(name, pid))

    def _is_new(self, name: str, pid: int) -> bool:
        service = self.runtime.get("services", {}).get(name, {})
        return bool(service.get("ready")) and service["pid"] != pid

    def fiona(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command on this data root; its output is kept in case it says too much."""
        done = fiona(*arguments, environment=self.environment, cwd=CHECKOUT)
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def graphql(self, query: str) -> Any:
        """Asks the Dagster web server."""
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.runtime['url']}/graphql",
            data=json.dumps({"query": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            return json.loads(answer.read())["data"]

    def job_names(self) -> set[str]:
        """Jobs that Dagster offers now."""
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { pipelines { name } } } } }"
        nodes = self.graphql(query)["repositoriesOrError"]["nodes"]
        return {job["name"] for node in nodes for job in node["pipelines"]}

    def runs(self, job: str) -> list[dict[str, Any]]:
        """Runs of one job with status and tags, newest first."""
        query = (
            f'{{ runsOrError(filter: {{pipelineName: "{job}"}}) {{ ... on Runs {{ results '
            "{ runId status tags { key value } } } } }"
        )
        found: list[dict[str, Any]] = self.graphql(query)["runsOrError"]["results"]
        return found

    def study(self, uid: str) -> dict[str, Any]:
        return study_detail(self.root, uid)

    def state(self, uid: str) -> str:
        """State of a study, or "" when it is not known yet."""
        return next((s["state"] for s in overview(self.root)["studies"] if s["study"] == uid), "")

    def held(self, uid: str, seconds: float = 240.0) -> None:
        wait_until(f"study {uid} is held", lambda: self.state(uid) == "held", seconds)

    def delivered(self, uid: str, project: str, seconds: float = 300.0) -> dict[str, Any]:
        """Waits until a transfer is delivered and REDCap knows it; the transfer with its proofs."""

        def done() -> dict[str, Any] | None:
            detail = self.study(uid)
            if any(work["kind"] == "status" for work in detail["work"]):
                return None
            found = [t for t in detail["transfers"] if t["project"] == project and t["state"] == "delivered"]
            return found[-1] if found else None

        transfer: dict[str, Any] = wait_until(f"{uid} is delivered to {project}", done, seconds)
        return transfer


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
