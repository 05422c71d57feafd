"""Storage commitment: pynetdicom and Orthanc as those who ask, our receiver, and the program that answers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.landing.commitment import pending_requests
from fiona_dagster.transfers.commitment import answer_requests, verify
from fiona_dagster.transfers.context import Gateway
from tests.peers.test_pacs_delivery import make_file
from tests.peers_fixtures import free_port, running_orthanc
from tests.receiver.conftest import Process, process

__all__ = ["process"]

pytestmark = pytest.mark.peers

COMMITMENT, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"
STUDY = "2.25.5"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    return [make_file(folder / f"{number}.dcm", number) for number in range(4)]


def instance(number: int) -> str:
    return f"2.25.77.{number}"


class Sender:
    """A modality that stores, asks for commitment, and listens for the answer."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.reports: list[tuple[int, Dataset]] = []
        self.status = 0x0000
        self._server: Any = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        entity = AE(ae_title="CT1")
        entity.add_supported_context(COMMITMENT, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._report)]
        server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            assert server is not None
            server.shutdown()

    def _report(self, event: Any) -> tuple[int, None]:
        self.reports.append((event.event_type, event.event_information))
        return self.status, None

    def send(self, address: tuple[str, int], files: list[Path]) -> None:
        results = store_files(
            Peer(*address, called="FIONA", calling="CT1"), [read_instance(path) for path in files]
        )
        assert all(result.stored for result in results)

    def ask(
        self,
        address: tuple[str, int],
        references: list[tuple[str, str]],
        *,
        title: str = "CT1",
        action: int = 1,
        well_known: str = WELL_KNOWN,
        transaction: str | None = None,
        syntax: str = "1.2.840.10008.1.2.1",
    ) -> int | None:
        """Status of the N-ACTION-RSP; None if the service was not accepted."""
        request = Dataset()
        request.TransactionUID = generate_uid() if transaction is None else transaction
        request.ReferencedSOPSequence = []
        for sop_class, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            request.ReferencedSOPSequence.append(item)
        entity = AE(ae_title=title)
        entity.add_requested_context(COMMITMENT, syntax)
        entity.add_requested_context(MR)
        roles = [build_role(COMMITMENT, scu_role=True)]
        association = entity.associate(*address, ae_title="FIONA", ext_neg=roles)
        assert association.is_established
        try:
            if not any(context.abstract_syntax == COMMITMENT for context in association.accepted_contexts):
                return None
            answer, _ = association.send_n_action(request, action, COMMITMENT, well_known)
            return int(answer.Status)
        finally:
            association.release()


def start(process: Process, sender: Sender) -> tuple[str, int]:
    peer = {
        "host": "127.0.0.1",
        "port": sender.port,
        "called_ae_title": "CT1",
        "timeout_seconds": 5,
    }
    return process.start(commitment={"CT1": peer})


def uids(data_set: Dataset, keyword: str) -> dict[str, int | None]:
    return {
        str(item.ReferencedSOPInstanceUID): item.get("FailureReason") for item in data_set.get(keyword) or ()
    }


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_what_is_on_disk_is_committed(
    process: Process, sender: Sender, files: list[Path], root: DataRoot, syntax: str
) -> None:
    address = start(process, sender)
    sender.send(address, files)
    assert sender.ask(address, [(MR, instance(n)) for n in range(4)], syntax=syntax) == 0
    assert len(pending_requests(root)) == 1

    with sender.listening(), Gateway(root) as gateway:
        assert answer_requests(gateway, "", "CT1") == 1
        assert answer_requests(gateway, "", "CT1") == 0
        ((kind, said),) = sender.reports
        assert kind == 1
        assert set(uids(said, "ReferencedSOPSequence")) == {instance(n) for n in range(4)}
        assert "FailedSOPSequence" not in said
        assert gateway.ledger.evidence.committed(STUDY) == {instance(n) for n in range(4)}
    assert pending_requests(root) == []


def test_what_is_not_here_or_not_whole_is_named_with_its_reason(
    process: Process, sender: Sender, files: list[Path], root: DataRoot
) -> None:
    address = start(process, sender)
    sender.send(address, files)
    (cut,) = root.archive.rglob(f"*.{instance(1)}")
    (gone,) = root.archive.rglob(f"*.{instance(2)}")
    whole = {path: path.read_bytes() for path in (cut, gone)}
    cut.write_bytes(whole[cut][:-10])
    gone.unlink()
    asked = [(MR, instance(n)) for n in (0, 1, 2, 99)] + [(CT, instance(3))]
    assert sender.ask(address, asked) == 0

    with sender.listening(), Gateway(root) as gateway:
        assert answer_requests(gateway, "", "CT1") == 1
        ((kind, said),) = sender.reports
        assert kind == 2
        assert set(uids(said, "ReferencedSOPSequence")) == {instance(0)}
        assert uids(said, "FailedSOPSequence") == {
            instance(1): 0x0110,
            instance(2): 0x0110,
            instance(99): 0x0112,
            instance(3): 0x0119,
        }
        assert gateway.ledger.evidence.committed(STUDY) == {instance(0)}
    for path, content in whole.items():
        path.write_bytes(content)  # as from a backup: every test ends with everything accounted for


def test_bytes_that_changed_after_processing_are_not_committed(
    process: Process, sender: Sender, files: list[Path], root: DataRoot
) -> None:
    address = start(process, sender)
    sender.send(address, files)
    with Gateway(root) as gateway:
        assert verify(gateway, [(MR, instance(0))]) == {}
        with gateway.ledger.store.writing() as db:
            db.execute("UPDATE site_instances SET digest = 'another'")
        assert verify(gateway, [(MR, instance(0))]) == {(MR, instance(0)): 0x0110}


def test_a_restart_between_request_and_report_loses_nothing(
    process: Process, sender: Sender, files: list[Path], root: DataRoot
) -> None:
    address = start(process, sender)
    sender.send(address, files)
    assert sender.ask(address, [(MR, instance(0))]) == 0
    process.kill()
    with sender.listening(), Gateway(root) as gateway:
        assert answer_requests(gateway, "", "CT1") == 1
        assert [kind for kind, _ in sender.reports] == [1]


def test_a_sender_that_is_down_or_refuses_is_told_later(
    process: Process, sender: Sender, files: list[Path], root: DataRoot
) -> None:
    address = start(process, sender)
    sender.send(address, files)
    for number in range(3):
        assert sender.ask(address, [(MR, instance(number))]) == 0

    with Gateway(root) as gateway:
        assert answer_requests(gateway, "", "CT1") == 0
        first, *others = [pending for _, pending in pending_requests(root)]
        assert (first.attempts, bool(first.not_before)) == (1, True)
        assert [pending.attempts for pending in others] == [0, 0]  # not tried in the same round

        with sender.listening():
            assert answer_requests(gateway, "", "CT1") == 2
            sender.status = 0x0110
            ((path, pending),) = pending_requests(root)
            path.write_text(path.read_text().replace(pending.not_before, ""))
            assert answer_requests(gateway, "", "CT1") == 0
            assert pending_requests(root)[0][1].attempts == 2


def test_wire_rules(process: Process, sender: Sender, files: list[Path], root: DataRoot) -> None:
    address = start(process, sender)
    wanted = [(MR, instance(0))]

    assert sender.ask(address, wanted, title="MR7") is None  # off for everybody else
    assert sender.ask(address, wanted, action=2) == 0x0123
    assert sender.ask(address, wanted, well_known="1.2.3") == 0x0112
    assert sender.ask(address, wanted, transaction="") == 0x0115
    assert sender.ask(address, []) == 0x0115
    assert pending_requests(root) == []
    assert sender.ask(address, wanted) == 0
    sender.send(address, files)  # the receiver goes on as ever
    assert "Planted" not in process.log.read_text()


def test_without_configuration_the_service_is_not_offered(process: Process, sender: Sender) -> None:
    assert sender.ask(process.start(), [(MR, instance(0))]) is None


def _post(url: str, document: dict[str, Any]) -> Any:
    request = urllib.request.Request(  # noqa: S310 - loopback
        url, data=json.dumps(document).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
        return json.loads(answer.read())


def test_orthanc_asks_and_is_answered(
    process: Process, files: list[Path], root: DataRoot, tmp_path: Path
) -> None:
    sender = Sender()
    with running_orthanc(tmp_path / "orthanc", DicomAet="CT1", DicomCheckCalledAet=False) as orthanc:
        sender.port = orthanc.dicom_port
        address = start(process, sender)
        sender.send(address, files)
        modality = {"AET": "FIONA", "Host": "127.0.0.1", "Port": address[1]}
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{orthanc.url}/modalities/fiona", data=json.dumps(modality).encode(), method="PUT"
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - loopback
        wanted = [{"SOPClassUID": MR, "SOPInstanceUID": instance(n)} for n in (0, 1, 99)]
        transaction = _post(
            f"{orthanc.url}/modalities/fiona/storage-commitment", {"DicomInstances": wanted, "Timeout": 10}
        )["ID"]
        with Gateway(root) as gateway:
            assert answer_requests(gateway, "", "CT1") == 1
        deadline = time.monotonic() + 20
        while (answer := orthanc.get(f"/storage-commitment/{transaction}"))["Status"] == "Pending":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    assert answer["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in answer["Success"]} == {instance(0), instance(1)}
    assert [each["SOPInstanceUID"] for each in answer["Failures"]] == [instance(99)]
