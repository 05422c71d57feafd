"""Storage commitment: pynetdicom and Orthanc as those who ask, our receiver, and the program that answers."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.commitment import CommitmentReport, report
from fiona_dagster.dicom.instances import Instance, StoreResult, read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, ProofAwaited
from fiona_dagster.landing.asked import AskedCommitment, all_asked, forget_asked, keep_answer, keep_asked
from fiona_dagster.landing.commitment import pending_requests
from fiona_dagster.transfers.commitment import answer_requests, verify
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.targets import InstancesMissing, Proof, committing
from fiona_dagster.transfers.targets import dicom as target_module
from fiona_dagster.transfers.targets.dicom import deliver_dicom
from tests.peers.test_pacs_delivery import digests, make_file
from tests.peers_fixtures import free_port, running_orthanc
from tests.receiver.conftest import Process, process
from tests.sending import Recorder

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
        role = build_role(COMMITMENT, scu_role=True)
        association = entity.associate(*address, ae_title="FIONA", ext_neg=[role])
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
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
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
        urllib.request.urlopen(request, timeout=120).close()  # noqa: S310 - loopback
        wanted = [{"SOPClassUID": MR, "SOPInstanceUID": instance(n)} for n in (0, 1, 99)]
        transaction = _post(
            f"{orthanc.url}/modalities/fiona/storage-commitment", {"DicomInstances": wanted, "Timeout": 10}
        )["ID"]
        with Gateway(root) as gateway:
            assert answer_requests(gateway, "", "CT1") == 1
        deadline = time.monotonic() + 170
        while (answer := orthanc.get(f"/storage-commitment/{transaction}"))["Status"] == "Pending":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    assert answer["Status"] == "Failure"
    assert {each["SOPInstanceUID"] for each in answer["Success"]} == {instance(0), instance(1)}
    assert [each["SOPInstanceUID"] for each in answer["Failures"]] == [instance(99)]


# -- we ask -----------------------------------------------------------------------------------------


def test_a_delivery_is_proven_by_the_commitment_of_the_pacs(
    process: Process, files: list[Path], root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc is asked, and answers on an association of its own to our receiver."""
    _, port = process.start()
    modalities = {"fiona": ["FIONA", "127.0.0.1", port]}
    begin = Recorder(tmp_path / "ledger")
    store, sent = store_files, []

    def note(peer: Peer, instances: Sequence[Instance], **more: Any) -> list[StoreResult]:
        sent.append([each.sop_instance for each in instances])
        return store(peer, instances, **more)

    monkeypatch.setattr(target_module, "store_files", note)

    def deliver() -> Proof:
        return deliver_dicom(target, root, files, digests(files), begin=begin, name="pacs")

    def proven() -> Proof:
        """The answer comes while the delivery waits for it, or later."""
        with contextlib.suppress(ProofAwaited):
            return deliver()
        _answered(root)
        return deliver()

    with running_orthanc(tmp_path / "orthanc", DicomModalities=modalities) as orthanc:
        target = orthanc.target(commitment_hours=1)
        assert proven().kind == "dicom-commitment"
        assert all_asked(root) == []

        # The answer comes between two attempts, later than anybody waits on the spot.
        with monkeypatch.context() as silent_pacs:
            silent_pacs.setattr(committing, "request_commitment", lambda *_: None)
            with pytest.raises(ProofAwaited):
                deliver()
        (later,) = all_asked(root)
        assert keep_answer(root, later.transaction, later.peer_ae, later.instances, {})
        sent.clear()
        assert deliver().kind == "dicom-commitment"
        assert sent == [[]]
        assert all_asked(root) == []

        # Asked again, it answers when nobody waits for it.
        monkeypatch.setattr(committing, "forget_asked", lambda *_: None)
        with contextlib.suppress(ProofAwaited):
            deliver()
        monkeypatch.setattr(committing, "forget_asked", forget_asked)
        (asked,) = _answered(root)
        assert set(asked.committed) == {instance(n) for n in range(4)}
        assert asked.refused == {}

        # It does not promise one of them: this one is sent again, and all are asked for again.
        (left_out, *others) = asked.committed
        keep_asked(root, replace(asked, committed=tuple(others), failed={left_out: 0x0110}))
        sent.clear()
        assert proven().kind == "dicom-commitment"
        assert sent[0] == [left_out]
        assert all_asked(root) == []

        # An answer that never comes: the list has to do.
        process.kill()
        for _ in range(2):
            with pytest.raises(ProofAwaited, match="not yet answered"):
                deliver()
        (silent,) = all_asked(root)
        keep_asked(root, replace(silent, time="2026-01-01T00:00:00.000000Z"))
        assert deliver().kind == "dicom-find"
        assert all_asked(root) == []


def test_what_a_pacs_does_not_promise_is_named_for_the_ledger_only(
    files: list[Path], root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(
        peer: Peer,
        transaction: str,
        references: Sequence[tuple[str, str]],
        keep: Callable[[CommitmentReport], None],
    ) -> None:
        keep(CommitmentReport(transaction, tuple(references[2:]), {references[0]: 0x0112}))

    monkeypatch.setattr(committing, "request_commitment", refuse)
    begin = Recorder(tmp_path / "ledger")
    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        pytest.raises(InstancesMissing, match="does not promise to keep 2 of them") as caught,
    ):
        deliver_dicom(orthanc.target(commitment_hours=1), root, files, digests(files), begin=begin)
    assert caught.value.instances == {
        instance(0): "commitment refused, reason 0112",
        instance(1): "commitment refused, reason 0000",
    }
    assert "2.25." not in str(caught.value)


def _answered(root: DataRoot) -> list[AskedCommitment]:
    deadline = time.monotonic() + 170
    while not all(asked.answered for asked in all_asked(root)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return all_asked(root)


def test_a_pacs_that_does_not_know_us_gives_no_commitment(
    files: list[Path], root: DataRoot, tmp_path: Path
) -> None:
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        proof = deliver_dicom(
            orthanc.target(commitment_hours=1),
            root,
            files,
            digests(files),
            begin=Recorder(tmp_path / "ledger"),
        )
    assert proof.kind == "dicom-find"
    assert all_asked(root) == []


def test_reports_of_nobody_who_was_asked_change_nothing(process: Process, root: DataRoot) -> None:
    address = process.start()
    keep_asked(root, AskedCommitment("2026-11-25T10:00:00.000000Z", "2.25.7", "pacs", "PACS", "x", ("1.2",)))

    def report_as(title: str, transaction: str) -> None:
        report(Peer(*address, called="FIONA", calling=title, timeout=5), transaction, [(MR, "1.2")], {})

    with pytest.raises(DeliveryRefused):
        report_as("STRANGER", "2.25.7")
    with pytest.raises(PeerUnavailable, match="0115"):
        report_as("PACS", "2.25.8")
    assert [asked.answered for asked in all_asked(root)] == [""]
    report_as("PACS", "2.25.7")
    report_as("PACS", "2.25.7")
    (asked,) = all_asked(root)
    assert (bool(asked.answered), asked.committed, asked.refused) == (True, ("1.2",), {})
    forget_asked(root, "2.25.7")
