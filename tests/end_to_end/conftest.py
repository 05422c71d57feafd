"""One running service with real peers, for all files that can share it (they are in one lane)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.operations import initialise
from fiona_dagster.operations.overview import overview
from fiona_dagster.redcap.sandbox import Sandbox, running_sandbox
from tests.accounting import assert_all_accounted
from tests.end_to_end.service import Service
from tests.peers.test_commitment import Sender
from tests.peers_fixtures import Orthanc, Sshd, running_orthanc, running_sshd


@dataclass
class Site:
    """The service and all that it talks to."""

    service: Service
    redcap: Sandbox
    orthanc: Orthanc
    sshd: Sshd
    modality: Sender

    def add_project(self, name: str, **more: Any) -> None:
        write_project(self.service.root, name, **more)


def write_project(root: DataRoot, name: str, **more: Any) -> None:
    document = {
        "name": name,
        "options": ["retain_long_modified_dates"],
        "targets": ["sftp", "pacs"],
        **more,
    }
    (root.project_files / f"{name}.json").write_text(json.dumps(document))


def configure(root: DataRoot, redcap: Sandbox, targets: dict[str, Any]) -> None:
    """A data root whose REDCap and targets are the given ones; quick, on free ports."""
    initialise(root)
    token = root.secrets / "token"
    token.touch(mode=0o600)
    token.write_text(redcap.tokens["Incoming"])
    settings = {
        "DICOMIP": "127.0.0.1",
        "DICOMPORT": 0,
        "receiver": {"accept_unknown": True, "quiet_seconds": 3, "reserve_mb": 0},
        "redcap": {"url": redcap.url, "token_file": str(token), "poll_seconds": 5, "calls_per_minute": 1000},
        "targets": targets,
        "web": {"port": 0},
    }
    root.config_file.write_text(json.dumps(settings))


def _let_ask_for_commitment(root: DataRoot, modality: Sender) -> None:
    document = json.loads(root.config_file.read_text())
    document["MPPSPORT"] = 0
    peer = {"host": "127.0.0.1", "port": modality.port, "called_ae_title": "CT1"}
    document["receiver"]["commitment"] = {"CT1": peer}
    root.config_file.write_text(json.dumps(document))


def _rebuild(service: Service) -> None:
    """After all that happened: ledger, links and records made anew from the files are as they were."""

    def told() -> dict[str, Any]:
        kept = {}
        for study in overview(service.root)["studies"]:
            detail = service.study(study["study"])
            states = sorted((t["project"], t["state"]) for t in detail["transfers"])
            kept[study["study"]] = (study["state"], detail["site"], detail["sites"], states)
        return kept

    def trees() -> dict[str, str]:
        """Links and series records below site/raw and site/participants, with target or text."""
        return {
            str(path): str(path.readlink()) if path.is_symlink() else path.read_text()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_symlink() or path.is_file()
        }

    folders = (service.root.raw, service.root.participants)
    before, organised = told(), trees()
    for folder in (*folders, service.root.ledger_file.parent):
        shutil.rmtree(folder)
    service.fiona("rebuild")
    assert told() == before
    assert trees() == organised
    assert_all_accounted(service.root)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    root = DataRoot(folder / "data")
    with (
        running_sandbox(folder / "redcap") as redcap,
        running_orthanc(folder / "orthanc") as orthanc,
        running_sshd(folder / "sshd") as sshd,
    ):
        targets = {"sftp": sshd.target().model_dump(), "pacs": orthanc.target().model_dump()}
        configure(root, redcap, targets)
        modality = Sender()
        _let_ask_for_commitment(root, modality)
        write_project(root, "STUDYA")
        service = Service(root)
        service.start()
        try:
            yield Site(service, redcap, orthanc, sshd, modality)
        finally:
            service.stop()
            assert_all_accounted(root)
        _rebuild(service)
