"""The MPPS SCP as a process of its own, asked by pynetdicom as a modality would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import pytest
from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_CREATE

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import PerformedStep, read_evidence, remove_old_steps, step_file

MPPS = "1.2.840.10008.3.1.2.3.3"
STEP = "1.2.3.9"
STUDY = "1.2.3"


class Server:
    """A running `python -m receiver.mpps`."""

    def __init__(self, root: DataRoot, **receiver: Any) -> None:
        self.root = root
        section = {"allowed_callers": ["CT1"], **receiver}
        document = {"DICOMIP": "127.0.0.1", "MPPSPORT": 0, "DICOMAETITLE": "FIONA", "receiver": section}
        root.config_file.write_text(json.dumps(document))
        self.start()

    def start(self) -> None:
        self.log = self.root.logs / "mpps.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "receiver.mpps"],
                env={**os.environ, "FIONA_DATA": str(self.root.path)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:"), self.log.read_text()
        self.port = int(line.rpartition(":")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(170)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def told(self) -> list[PerformedStep]:
        """What the journal of evidence has."""
        return [each for _, _, each in read_evidence(self.root, {}) if isinstance(each, PerformedStep)]

    def quarantined(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.root.quarantine.glob("*.json"))]


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = DataRoot(tmp_path_factory.mktemp("mpps") / "data")
    root.make()
    server = Server(root)
    yield server
    assert server.stop() == 0


@pytest.fixture
def server(root: DataRoot) -> Iterator[Server]:
    running = Server(root)
    yield running
    running.stop(signal.SIGKILL)


@contextmanager
def modality(server: Server | int, title: str = "CT1") -> Iterator[Any]:
    """An association of a modality with a server, or with a port of loopback."""
    entity = AE(ae_title=title)
    entity.add_requested_context(MPPS)
    port = server if isinstance(server, int) else server.port
    association = entity.associate("127.0.0.1", port, ae_title="FIONA")
    try:
        assert association.is_established
        yield association
    finally:
        association.release()


def new_step(*studies: str, **values: Any) -> Dataset:
    step = Dataset()
    step.ScheduledStepAttributesSequence = []
    for study in studies or (STUDY,):
        scheduled = Dataset()
        with pydicom_config.disable_value_validation():
            scheduled.StudyInstanceUID = study
        step.ScheduledStepAttributesSequence.append(scheduled)
    step.PatientName, step.PatientID = "Planted^Patient", "0815"
    step.PerformedProcedureStepID, step.Modality = "P1", "CT"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.PerformedSeriesSequence = []
    for keyword, value in values.items():
        setattr(step, keyword, value)
    return step


def references(*instances: str) -> list[Dataset]:
    found = []
    for instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = instance
        found.append(item)
    return found


def ended(status: str = "COMPLETED", images: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> Dataset:
    changes = Dataset()
    changes.PerformedProcedureStepStatus = status
    changes.PerformedProcedureStepEndDate, changes.PerformedProcedureStepEndTime = "20261123", "1200"
    series = Dataset()
    series.SeriesInstanceUID = "1.2.3.4"
    series.ReferencedImageSequence = references(*images)
    series.ReferencedNonImageCompositeSOPInstanceSequence = references(*others)
    changes.PerformedSeriesSequence = [series]
    return changes


def create(association: Association, step: Dataset, instance: str | None = STEP) -> Dataset:
    status, _ = association.send_n_create(step, MPPS, instance)
    return status


def set_(association: Association, changes: Dataset, instance: str = STEP) -> Dataset:
    status, _ = association.send_n_set(changes, MPPS, instance)
    return status


def test_a_step_is_created_and_completed_and_its_references_are_evidence(server: Server) -> None:
    with modality(server) as association:
        assert create(association, new_step()).Status == 0
        (begun,) = server.told()
        assert (begun.instance, begun.status, begun.studies) == (STEP, "IN PROGRESS", (STUDY,))
        assert set_(association, ended(images=("1.2.3.4.1", "1.2.3.4.2"), others=("1.2.3.4.9",))).Status == 0

    done = server.told()[-1]
    assert (done.status, done.calling_ae, done.caller_ip) == ("COMPLETED", "CT1", "127.0.0.1")
    assert done.series == {"1.2.3.4": ("1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.9")}

    # The file is what the original kept: DICOM, named after the instance, with both requests in it.
    kept = dcmread(step_file(server.root, STEP))
    assert step_file(server.root, STEP).name == f"MPPS.{STEP}"
    assert step_file(server.root, STEP).stat().st_mode & 0o077 == 0
    assert (kept.PatientName, kept.PerformedProcedureStepEndTime) == ("Planted^Patient", "1200")
    assert kept.file_meta.MediaStorageSOPClassUID == MPPS

    # Nothing identifying stands in journal and log.
    journals = b"".join(path.read_bytes() for path in (server.root.site / ".evidence").iterdir())
    assert b"Planted" not in journals
    assert b"0815" not in journals
    assert "Planted" not in server.log.read_text()


def test_everything_is_there_after_kill_9_and_a_step_can_be_ended_then(server: Server) -> None:
    with modality(server) as association:
        assert create(association, new_step()).Status == 0
    server.stop(signal.SIGKILL)
    server.start()
    with modality(server) as association:
        assert create(association, new_step()).Status == 0x0111
        assert set_(association, ended("DISCONTINUED", ("1.2.3.4.1",))).Status == 0
        assert [each.status for each in server.told()] == ["IN PROGRESS", "DISCONTINUED"]


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_an_ended_step_may_no_longer_be_updated(shared_server: Server, status: str) -> None:
    uid = f"1.2.5.{len(status)}"
    with modality(shared_server) as association:
        create(association, new_step(), uid)
        assert set_(association, ended(status), uid).Status == 0
        refused = set_(association, ended("COMPLETED", ("1.2.3.4.1",)), uid)

    assert (refused.Status, refused.ErrorID) == (0x0110, 0xA710)
    assert refused.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert dcmread(step_file(shared_server.root, uid)).PerformedProcedureStepStatus == status


def test_wire_rules(shared_server: Server) -> None:
    with modality(shared_server) as association:
        assert create(association, new_step(), "1.2.6.1").Status == 0
        assert create(association, new_step(), "1.2.6.1").Status == 0x0111
        assert set_(association, ended(), "1.2.6.2").Status == 0x0112
        # Intermediate updates are allowed; what may not change stays.
        changes = new_step("9.9.9", PatientName="Other^Person")
        assert set_(association, changes, "1.2.6.1").Status == 0
    kept = dcmread(step_file(shared_server.root, "1.2.6.1"))
    assert kept.PatientName == "Planted^Patient"
    assert kept.ScheduledStepAttributesSequence[0].StudyInstanceUID == STUDY


def test_an_instance_without_a_uid_gets_one(shared_server: Server) -> None:
    before = {each.instance for each in shared_server.told()}
    with modality(shared_server) as association:
        assert create(association, new_step(), None).Status == 0

    (given,) = {each.instance for each in shared_server.told()} - before
    assert step_file(shared_server.root, given).is_file()


@pytest.mark.parametrize(
    ("step", "instance", "status"),
    [
        (new_step(PerformedProcedureStepStatus="COMPLETED"), "1.2.7.1", 0x0106),
        (new_step(PerformedProcedureStepStatus="DONE"), "1.2.7.2", 0x0106),
        (new_step(PerformedProcedureStepStatus=""), "1.2.7.3", 0x0121),
        (new_step(ScheduledStepAttributesSequence=[]), "1.2.7.4", 0x0120),
        (new_step("1.2.3", "Planted"), "1.2.7.5", 0x0106),
    ],
)
def test_a_step_that_can_not_be_used_is_refused_and_kept(
    shared_server: Server, step: Dataset, instance: str, status: int
) -> None:
    before = len(shared_server.quarantined())
    with modality(shared_server) as association:
        assert create(association, step, instance).Status == status

    assert not step_file(shared_server.root, instance).exists()
    assert len(shared_server.quarantined()) == before + 1
    reason = next(each for each in shared_server.quarantined() if each["SOPInstanceUID"] == instance)
    assert reason["code"] == "mpps"
    assert "Planted" not in json.dumps(reason)
    assert instance not in [each.instance for each in shared_server.told()]


def test_bytes_that_are_no_data_set_are_refused_and_the_server_goes_on(shared_server: Server) -> None:
    with modality(shared_server) as association:
        request = N_CREATE()
        request.MessageID = 8
        request.AffectedSOPClassUID = MPPS
        request.AffectedSOPInstanceUID = "1.2.8.1"
        request.AttributeList = BytesIO(b"\x40\x00\x52\x02\xff\xff\xff\x7f" + b"IN PROGRESS")
        association._reactor_checkpoint.clear()  # else it would take the answer before us
        while not association._is_paused:
            time.sleep(0.01)
        association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status in (0x0110, 0x0120, 0x0106)
        assert create(association, new_step(), "1.2.8.2").Status == 0


def test_unknown_callers_are_rejected(shared_server: Server) -> None:
    entity = AE(ae_title="STRANGER")
    entity.add_requested_context(MPPS)
    association = entity.associate("127.0.0.1", shared_server.port)

    assert association.is_rejected
    assert "rejected an association of STRANGER@127.0.0.1" in shared_server.log.read_text()


def test_a_site_without_allowed_callers_is_closed(root: DataRoot) -> None:
    server = Server(root, allowed_callers=[])
    entity = AE(ae_title="CT1")
    entity.add_requested_context(MPPS)
    assert entity.associate("127.0.0.1", server.port).is_rejected
    assert server.stop() == 0


def test_rules_of_networks_and_called_titles_hold_for_steps_too(root: DataRoot) -> None:
    rules = [{"ae_title": "CT1", "networks": ["127.0.0.2"]}, {"ae_title": "MR1", "networks": ["127.0.0.1"]}]
    server = Server(root, allowed_callers=rules, allowed_called=["RESEARCH"])

    def answer(calling: str, called: str) -> tuple[bool, int | None]:
        entity = AE(ae_title=calling)
        entity.add_requested_context(MPPS)
        association = entity.associate("127.0.0.1", server.port, ae_title=called)
        if association.is_established:
            association.release()
            return True, 0
        answer = association.acceptor.primitive
        assert answer is not None
        return False, answer.diagnostic

    assert answer("CT1", "RESEARCH") == (False, 3)
    assert answer("MR1", "RESEARCH") == (True, 0)
    assert answer("MR1", "ELSEWHERE") == (False, 7)
    assert server.stop() == 0


def test_without_mppsport_it_does_not_start(root: DataRoot) -> None:
    root.config_file.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "receiver.mpps"],
        env={**os.environ, "FIONA_DATA": str(root.path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "MPPSPORT" in done.stderr


def test_old_steps_go_and_young_ones_stay(root: DataRoot) -> None:
    for name in ("MPPS.1.1", "MPPS.1.2", ".MPPS.1.3.abcd.part"):
        (root.scanner / name).write_bytes(b"x")
    old = time.time() - 100 * 86400
    for name in ("MPPS.1.1", ".MPPS.1.3.abcd.part"):
        os.utime(root.scanner / name, (old, old))

    assert remove_old_steps(root, 90) == 2
    assert [path.name for path in root.scanner.iterdir()] == ["MPPS.1.2"]


def test_the_storage_scp_never_imports_it(root: DataRoot) -> None:
    modules = {"receiver.mpps", "pynetdicom", "pydicom"}
    code = f"import receiver.run, sys; print(sorted({modules!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
