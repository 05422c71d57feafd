"""A modality that sends images and MPPS to `fiona up`, and asks for storage commitment of what it sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.conftest import Site
from tests.end_to_end.service import wait_until
from tests.peers.test_commitment import MR, STUDY, instance, uids
from tests.peers.test_pacs_delivery import make_file
from tests.receiver.test_mpps import create, ended, modality, new_step, set_

pytestmark = [pytest.mark.end_to_end, pytest.mark.peers, pytest.mark.timeout(800)]


def test_a_study_is_complete_when_all_that_was_performed_is_here_and_is_committed(
    site: Site, tmp_path: Path
) -> None:
    service, sender = site.service, site.modality
    files = [make_file(tmp_path / f"{number}.dcm", number) for number in range(3)]
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
