"""Starts the job of one study by hand: through the running web server, or through Dagster's command line.

Belongs here: finding out whether it makes sense, and asking for the run. Stays out: Dagster's storage
(``defs.launching`` adds the partition key when no web server runs).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests as http

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import PeerUnavailable, PermanentError, RequestRefused
from fiona_dagster.operations.runtime import runtime_file
from fiona_dagster.operations.services import LOCATION, environment
from fiona_dagster.transfers import execution
from fiona_dagster.transfers.context import Gateway

TIMEOUT_SECONDS = 60.0
REPOSITORY = "__repository__"

_ADD = """mutation ($repository: RepositorySelector!, $set: String!, $key: String!) {
  addDynamicPartition(repositorySelector: $repository, partitionsDefName: $set, partitionKey: $key) {
    __typename ... on PythonError { message } ... on UnauthorizedError { message } } }"""

_LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
    ... on PipelineNotFoundError { message } ... on InvalidSubsetError { message }
    ... on UnauthorizedError { message } ... on RunConflict { message } } }"""


@dataclass(frozen=True)
class Launch:
    """A run to be asked for.

    Attributes:
        job: ``process_study`` or ``transfer_<PROJECT>``.
        partition_set: name of the dynamic partition set.
        study: StudyInstanceUID, the partition key.
    """

    job: str
    partition_set: str
    study: str

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run; the rest come from the job."""
        return {"dagster/partition": self.study, "fiona/study": self.study, "fiona/launched": "by hand"}


def plan(root: DataRoot, study: str, project: str | None) -> Launch:
    """What to launch, after everything was looked at that can be known before.

    Args:
        root: an initialised data root.
        study: StudyInstanceUID.
        project: acronym, or None for ``process_study``.

    Raises:
        UnknownStudy: no such study.
        ConfigurationError: no such project, or its file is wrong.
        RequestRefused: nobody asked for this transfer, or the study's state forbids it.
    """
    with Gateway(root) as gateway:
        gateway.ledger.receipts.read_journals()
        found = gateway.ledger.receipts.study(study)
        if project is None:
            return Launch("process_study", "studies", study)
        gateway.project(project)
        execution.transfer_of(gateway, study, project)
        if found.flags:
            raise RequestRefused(
                f"study {study} is flagged ({', '.join(found.flags)}); nothing leaves until a person decides"
            )
        return Launch(f"transfer_{project}", f"studies_{project}", study)


def web_url(root: DataRoot) -> str:
    """Address of the running web server, "" if none runs."""
    try:
        document = json.loads(runtime_file(root).read_text("utf-8"))
        os.kill(int(document["pid"]), 0)
        ready = bool(document["services"]["webserver"]["ready"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(document["url"]) if ready else ""


def launch_by_web(url: str, launch: Launch) -> str:
    """Asks the web server for the run; gives the run's id.

    Raises:
        PeerUnavailable: the web server does not answer.
        PermanentError: Dagster refused.
    """
    repository = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
    added = _ask(url, _ADD, {"repository": repository, "set": launch.partition_set, "key": launch.study})
    if added["addDynamicPartition"]["__typename"] not in (
        "AddDynamicPartitionSuccess",
        "DuplicateDynamicPartitionError",
    ):
        raise PermanentError(f"Dagster did not add the partition: {_said(added['addDynamicPartition'])}")
    params = {
        "selector": {**repository, "jobName": launch.job},
        "runConfigData": {},
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in launch.tags.items()]},
    }
    answer = _ask(url, _LAUNCH, {"params": params})["launchRun"]
    if answer["__typename"] != "LaunchRunSuccess":
        raise PermanentError(f"Dagster did not launch {launch.job}: {_said(answer)}")
    return str(answer["run"]["runId"])


def _said(answer: dict[str, Any]) -> str:
    return " ".join(str(answer.get("message") or answer["__typename"]).split())[:300]


def _ask(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = http.post(
            f"{url}/graphql", json={"query": query, "variables": variables}, timeout=TIMEOUT_SECONDS
        )
        document = answer.json()
    except (http.RequestException, ValueError) as error:
        raise PeerUnavailable(
            f"{url}: the Dagster web server does not answer ({type(error).__name__}); see logs/webserver.log"
        ) from None
    if document.get("errors"):
        raise PermanentError(f"Dagster refused the request: {_said(document['errors'][0])}")
    data: dict[str, Any] = document["data"]
    return data


def launch_by_command(root: DataRoot, launch: Launch) -> str:
    """``dagster job launch`` with a run id of ours; the daemon takes the run up when it runs.

    Raises:
        PermanentError: the command failed.
    """
    run_id = str(uuid.uuid4())
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace.yaml"
        workspace.write_text(
            "load_from:\n  - python_module:\n      module_name: fiona_dagster.definitions\n"
            f"      location_name: {LOCATION}\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "dagster", "job", "launch", "-w", str(workspace), "-j", launch.job]
        command += ["--tags", json.dumps(launch.tags), "--run-id", run_id]
        done = subprocess.run(
            command,
            env=environment(root),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PermanentError(f"dagster job launch failed: {lines[-1].strip()[:300] if lines else 'no word'}")
    return run_id
