"""Kills and a lost Dagster storage: the same deliveries in the end, none twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.demo.phantoms import DemoStudy, make_studies
from fiona_dagster.demo.send import send_study
from fiona_dagster.operations.initialise import initialise
from fiona_dagster.redcap.sandbox import running_sandbox
from tests.accounting import assert_all_accounted
from tests.end_to_end.conftest import configure, write_project
from tests.end_to_end.service import Service, wait_until
from tests.peers_fixtures import Sshd, running_sshd

pytestmark = [pytest.mark.end_to_end, pytest.mark.peers, pytest.mark.timeout(800)]


@dataclass
class Place:
    """A service with one real SFTP server."""

    service: Service
    sshd: Sshd
    studies: list[DemoStudy]

    def send(self, study: DemoStudy) -> None:
        send_study(study, "127.0.0.1", self.service.dicom_port, calling_ae_title="SCANNER")

    def assign(self, study: DemoStudy, participant: str) -> None:
        uid = study.StudyInstanceUID
        self.service.fiona("assign", uid, "--project", "P", "--participant", participant, "--event", "E1")

    def uploads(self) -> dict[str, tuple[int, int]]:
        """Package -> inode and time of last change, at the SFTP server: a second upload shows."""
        found = self.sshd.upload.glob("*.zip")
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    def partial_uploads(self) -> list[str]:
        known = (".zip", ".json", ".md5", ".sha256")
        return [path.name for path in self.sshd.upload.iterdir() if path.suffix not in known]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = DataRoot(tmp_path / "data")
    with running_sandbox(tmp_path / "redcap") as redcap, running_sshd(tmp_path / "sshd") as sshd:
        configure(root, redcap, {"sftp": sshd.target().model_dump()})
        write_project(root, "P", targets=["sftp"], allow_kinds=["ultrasound"])
        service = Service(root)
        studies = make_studies(tmp_path / "scanner", seed=7)
        service.start()
        try:
            yield Place(service, sshd, studies)
        finally:
            if service.process is not None:
                service.stop()
            assert_all_accounted(root)


def test_kills_and_a_lost_dagster_storage_change_nothing(place: Place) -> None:
    """Receiver and daemon die after reception, after the request, and while packages are delivered."""
    service = place.service
    ultrasound = min(place.studies, key=lambda study: len(study.files))
    other = next(study for study in place.studies if study is not ultrasound)
    place.send(ultrasound)
    service.kill("receiver")
    service.kill("daemon")
    service.held(ultrasound.StudyInstanceUID)
    assert service.study(ultrasound.StudyInstanceUID)["instances"] == len(ultrasound.files)

    place.assign(ultrasound, "X1")
    service.kill_everything()
    service.start()
    place.send(other)
    first = service.delivered(ultrasound.StudyInstanceUID, "P")
    service.held(other.StudyInstanceUID)
    place.assign(other, "X2")
    wait_until(
        "the second package is made",
        lambda: any(t["package"] for t in service.study(other.StudyInstanceUID)["transfers"]),
    )
    service.kill("code-server")
    service.kill("daemon")
    second = service.delivered(other.StudyInstanceUID, "P", 200)

    assert len(place.uploads()) == 2
    assert place.partial_uploads() == []
    assert [len(t["deliveries"]) for t in (first, second)] == [1, 1]
    for study in (ultrasound, other):
        assert len(service.study(study.StudyInstanceUID)["transfers"]) == 1
    _lose_the_storage(place, ultrasound)


def _lose_the_storage(place: Place, study: DemoStudy) -> None:
    """What Dagster knew is gone, and the study comes again: nothing is sent twice."""
    service, uid = place.service, study.StudyInstanceUID
    before = place.uploads()
    service.stop()
    shutil.rmtree(service.root.dagster_home)
    initialise(service.root)
    service.start()
    place.send(study)  # repeats of what is known
    ticks = service.root.logs / "daemon.log"
    seen = ticks.stat().st_size
    wait_until("the repeats are booked", lambda: service.state(uid) == "held" and _quiet(service, uid))
    wait_until("sensors have ticked", lambda: ticks.stat().st_size > seen + 2000)

    assert place.uploads() == before
    assert [t["state"] for t in service.study(uid)["transfers"]] == ["delivered"]
    assert service.runs("transfer_P") == []
    assert service.runs("deliver_P") == []


def _quiet(service: Service, uid: str) -> bool:
    detail = service.study(uid)
    return not detail["work"] and json.dumps(detail["history"]).count("registered") == 1
