"""Projects with a port of their own in a running `fiona up`: from their senders to their project alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.demo.phantoms import DemoStudy, make_studies
from fiona_dagster.demo.send import send_study
from fiona_dagster.errors import FionaError
from fiona_dagster.transfers.verify import verify_package
from tests.end_to_end.conftest import Site
from tests.end_to_end.service import Service, wait_until
from tests.peers_fixtures import free_port

pytestmark = [pytest.mark.end_to_end, pytest.mark.peers, pytest.mark.timeout(800)]


def add_site(root: DataRoot, name: str, sender: str) -> int:
    """Adds a site that takes images of one sender only; its port."""
    port = free_port()
    document = json.loads(root.config_file.read_text())
    receiver = {"accept_unknown": False, "allowed_callers": [sender]}
    sites = {
        **document.get("SITES", {}),
        name: {"DICOMPORT": port, "DICOMAETITLE": name, "receiver": receiver},
    }
    root.config_file.write_text(json.dumps({**document, "SITES": sites}))
    return port


def listens(service: Service, port: int) -> bool:
    sites: dict[str, list[Any]] = service.runtime.get("sites", {})
    return any(address[1] == port for address in sites.values())


def test_a_study_of_two_sites_goes_to_the_project_that_a_person_chose(site: Site, tmp_path: Path) -> None:
    service, root = site.service, site.service.root
    (study, *_) = make_studies(tmp_path / "scanner", seed=11)
    uid = study.StudyInstanceUID
    for project in ("HEART", "BRAIN"):
        site.add_project(project, targets=["sftp"], allow_kinds=["ultrasound"])
    heart = add_site(root, "HEART", "MR3")  # while it runs
    wait_until("the new site listens", lambda: listens(service, heart))
    _two_sites(service, study, heart)
    (package,) = (root.daic / "BRAIN").glob("*.zip")
    assert verify_package(site.sshd.upload / package.name) == []
    told = service.study(uid)
    assert (told["site"], told["sites"]) == ("BRAIN", ["BRAIN", "HEART"])


def _two_sites(service: Service, study: DemoStudy, heart: int) -> None:
    uid, root = study.StudyInstanceUID, service.root
    with pytest.raises(FionaError):
        send_study(study, "127.0.0.1", heart, calling_ae_title="STRANGER")
    send_study(study, "127.0.0.1", heart, calling_ae_title="MR3")
    service.held(uid)
    refused = service.fiona(
        *("assign", uid, "--project", "BRAIN", "--participant", "B1", "--event", "E1"), check=False
    )
    assert refused.returncode == 1
    assert "project HEART only" in refused.stderr

    brain = add_site(root, "BRAIN", "MR4")
    wait_until("the new site listens", lambda: listens(service, brain))
    fewer = replace(study, files=study.files[1:])
    send_study(fewer, "127.0.0.1", brain, calling_ae_title="MR4")
    wait_until("the study is flagged", lambda: service.study(uid)["flags"] == ["several_sites"])
    assert service.fiona("sites", "list", check=False).returncode == 1

    service.fiona("sites", "choose", uid, "BRAIN")
    service.held(uid)
    assert service.fiona("sites", "list", check=False).returncode == 0
    service.fiona("assign", uid, "--project", "BRAIN", "--participant", "B1", "--event", "E1")
    transfer = service.delivered(uid, "BRAIN")
    assert transfer["package"]["path"].startswith("DAIC/BRAIN/")
    assert transfer["package"]["instances"] == len(fewer.files)
    assert len(list((root.of_site("BRAIN").archive / f"scp_{uid}").iterdir())) == len(fewer.files)
    assert len(list((root.of_site("HEART").archive / f"scp_{uid}").iterdir())) == len(study.files)
