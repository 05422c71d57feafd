"""A modality that sends images and MPPS to `fiona up`, and asks for storage commitment of what it sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.redcap.sandbox import running_sandbox
from tests.accounting import assert_all_accounted
from tests.end_to_end.conftest import configure
from tests.end_to_end.service import Service, wait_until
from tests.peers.test_commitment import MR, STUDY, Sender, instance, uids
from tests.peers.test_pacs_delivery import make_file
from tests.receiver.test_mpps import create, ended, modality, new_step, set_

pytestmark = [pytest.mark.end_to_end, pytest.mark.peers, pytest.mark.timeout(420)]


def test_a_study_is_complete_when_all_that_was_performed_is_here_and_is_committed(tmp_path: Path) -> None:
    root = DataRoot(tmp_path / "data")
    sender = Sender()
    files = [make_file(tmp_path / f"{number}.dcm", number) for number in range(3)]
    with running_sandbox(tmp_path / "redcap") as redcap:
        configure(root, redcap, {})
        document = json.loads(root.config_file.read_text())
        document["MPPSPORT"] = 0
        document["receiver"]["commitment"] = {
            "CT1": {"host": "127.0.0.1", "port": sender.port, "called_ae_title": "CT1"}
        }
        root.config_file.write_text(json.dumps(document))
        service = Service(root)
        service.start()
        try:
            _performs(service, sender, files)
        finally:
            service.stop()
    assert_all_accounted(root)


def _performs(service: Service, sender: Sender, files: list[Path]) -> None:
    address = ("127.0.0.1", service.dicom_port)
    images = tuple(instance(number) for number in range(3))

    with modality(service.runtime["mpps"][1]) as association:
        assert create(association, new_step(STUDY)).Status == 0
        sender.send(address, files[:2])
        assert set_(association, ended("COMPLETED", images)).Status == 0

    # One image is missing: the study is quiet, and waits.
    def waits() -> bool:
        judged = service.study(STUDY)["completion"]
        return bool(judged and judged["outcome"] == "wait" and judged["missing"] == 1)

    wait_until("the study waits for the image that is missing", waits)
    assert service.state(STUDY) == "arriving"

    sender.send(address, files[2:])
    service.held(STUDY)
    detail = service.study(STUDY)
    assert (detail["completion"]["outcome"], detail["completion"]["expected"]) == ("complete", 3)
    assert detail["revision"] == 1

    assert sender.ask(address, [(MR, uid) for uid in images]) == 0
    with sender.listening():
        wait_until("the report of the commitment", lambda: sender.reports)
    ((kind, said),) = sender.reports
    assert kind == 1
    assert set(uids(said, "ReferencedSOPSequence")) == set(images)
    assert service.study(STUDY)["committed"] == 3
