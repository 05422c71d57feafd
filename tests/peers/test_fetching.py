"""Orthanc and dcmqrscp send what is missing, and are not asked for ever for what they never send."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sources import move
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, UsageError
from fiona_dagster.landing import import_paths
from fiona_dagster.ledger import Ledger
from fiona_dagster.transfers import fetching
from fiona_dagster.transfers.completion import find_complete_studies
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.fetching import fetch_missing, pull
from fiona_dagster.transfers.sources import answer_questions
from tests.peers.test_sources import STUDY, files, later, send
from tests.peers_fixtures import free_port, running_dcmqrscp, running_orthanc
from tests.receiver.conftest import Process, process
from tests.running import fiona

__all__ = ["files", "process"]

pytestmark = pytest.mark.peers

SERIES = "2.25.6.1"


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path, process: Process) -> Iterator[Peer]:
    """A real PACS that knows our running receiver as FIONA."""
    _, port = process.start(quiet_seconds=16)
    if request.param == "orthanc":
        modalities = {"fiona": ["FIONA", "127.0.0.1", port]}
        with running_orthanc(
            tmp_path / "orthanc", DicomModalities=modalities, DicomAlwaysAllowMove=True
        ) as orthanc:
            yield Peer("127.0.0.1", orthanc.dicom_port, orthanc.ae_title, timeout=10)
    else:
        with running_dcmqrscp(tmp_path / "qr", {"FIONA": port}) as port:
            yield Peer("127.0.0.1", port, "QRSCP", timeout=10)


Opened = Callable[..., Gateway]


@pytest.fixture
def opened(root: DataRoot) -> Iterator[Opened]:
    """Opens the gateway with a source; the running receiver keeps the settings that it started with."""
    gateways: list[Gateway] = []

    def open_(peer: Peer, **more: Any) -> Gateway:
        source = {
            "host": peer.host,
            "port": peer.port,
            "called_ae_title": peer.called,
            "timeout_seconds": peer.timeout,
            "fetch": True,
            **more,
        }
        document = json.loads(root.config_file.read_text()) if root.config_file.exists() else {}
        root.config_file.write_text(json.dumps({**document, "sources": {"clinical": source}}))
        gateways.append(Gateway(root))
        return gateways[-1]

    yield open_
    for gateway in gateways:
        gateway.close()


def judge(gateway: Gateway, seconds: float = 17) -> list[str]:
    """One look of the sensor, and one round of outreach's questions before the next look."""
    find_complete_studies(gateway, later(seconds))
    answer_questions(gateway, "clinical")
    return find_complete_studies(gateway, later(seconds))


def age(gateway: Gateway, seconds: float) -> None:
    """Makes attempts older than they are."""
    then = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    with gateway.ledger.store.writing() as db:
        db.execute("UPDATE fetches SET time = ?", (then,))


def test_missing_series_are_fetched_and_the_study_is_complete(
    pacs: Peer, files: list[Path], opened: Opened
) -> None:
    gateway = opened(pacs)
    send(pacs.port, pacs.called, files)
    import_paths(gateway.root, [files[number] for number in (0, 2, 4, 1)])  # series 1 lacks two

    assert judge(gateway) == []
    assert fetch_missing(gateway, "clinical") == 1  # only the series that lacks something
    gateway.ledger.receipts.read_journals()
    assert gateway.ledger.receipts.study(STUDY).instances == 6
    assert judge(gateway) == [STUDY]
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert (judged.outcome, judged.missing) == ("complete", 0)
    assert fetch_missing(gateway, "clinical") == 0
    (told,) = [what for _, what in gateway.ledger.store.history(STUDY) if "asked source" in what]
    assert told.startswith("asked source clinical to send a series: status 0000, 3 sent")


def test_a_destination_that_the_source_does_not_know(pacs: Peer, files: list[Path]) -> None:
    send(pacs.port, pacs.called, files)
    try:
        said = str(move(pacs, STUDY, SERIES, "NOWHERE"))  # Orthanc has one status for every fault
    except DeliveryRefused as error:
        said = str(error)

    assert "status C000" in said or "does not know the move destination NOWHERE" in said


def test_a_person_can_pull_a_study_that_is_not_here_at_all(
    pacs: Peer, files: list[Path], opened: Opened, root: DataRoot
) -> None:
    send(pacs.port, pacs.called, files)
    opened(pacs)
    done = fiona("pull", STUDY, "--from", "clinical", "--json", data=root.path)

    assert done.returncode == 0, done.stderr
    said = {"source": "clinical", "study": STUDY, "status": "0000", "completed": 6, "failed": 0}
    assert json.loads(done.stdout) == said
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        assert ledger.receipts.study(STUDY).instances == 6


class Counting:
    """A source that counts two more than arrived, and sends nothing."""

    def __init__(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.fault: Exception | None = None
        monkeypatch.setattr(fetching, "move", self.move)
        self.gateway = gateway

    def move(self, peer: Peer, study: str, series: str, destination: str) -> str:
        self.asked.append(series)
        if self.fault:
            raise self.fault
        return "status 0000, 0 sent, 0 failed"

    def count(self, **series: int) -> None:
        book = self.gateway.ledger.evidence
        find_complete_studies(self.gateway, later(17))
        for question in book.questions("clinical"):
            book.answer(question, series={key.replace("_", "."): n for key, n in series.items()})


@pytest.fixture
def counting(opened: Opened, files: list[Path], root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> Counting:
    gateway = opened(Peer("127.0.0.1", free_port(), "X", timeout=1))
    import_paths(root, files[:4])
    return Counting(gateway, monkeypatch)


def test_a_count_that_is_never_sent_is_given_up_and_not_waited_for(counting: Counting) -> None:
    gateway = counting.gateway
    counting.count(**{"2_25_6_0": 2, "2_25_6_1": 4})
    for attempt in range(1, 4):
        assert find_complete_studies(gateway, later(17)) == []
        assert fetch_missing(gateway, "clinical") == 1
        assert fetch_missing(gateway, "clinical") == 0  # not at once again
        assert counting.asked == [SERIES] * attempt
        age(gateway, 61)

    assert fetch_missing(gateway, "clinical") == 0
    assert find_complete_studies(gateway, later(17)) == [STUDY]  # long before the limit
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert (judged.outcome, judged.missing) == ("incomplete", 2)
    assert judged.reasons == ("source clinical counts 6 instances, 2 are missing; it does not send them",)


def test_what_was_given_up_is_remembered_for_later_revisions(
    counting: Counting, files: list[Path], root: DataRoot
) -> None:
    gateway = counting.gateway
    counting.count(**{SERIES.replace(".", "_"): 9})
    for _ in range(3):
        fetch_missing(gateway, "clinical")
        age(gateway, 61)
    assert find_complete_studies(gateway, later(17)) == [STUDY]

    import_paths(root, files[4:5])  # a late image of the other series
    counting.count(**{SERIES.replace(".", "_"): 9})
    assert fetch_missing(gateway, "clinical") == 0
    assert find_complete_studies(gateway, later(17)) == [STUDY]
    assert len(counting.asked) == 3


def test_another_count_is_another_chance_but_not_for_ever(
    counting: Counting, files: list[Path], root: DataRoot
) -> None:
    gateway = counting.gateway
    for number in range(30):
        with gateway.ledger.store.writing() as db:  # the source changes its mind each time
            db.execute("DELETE FROM source_counts")
        counting.count(**{SERIES.replace(".", "_"): 10 + number})
        fetch_missing(gateway, "clinical")
        age(gateway, 61)

    assert len(counting.asked) == fetching.MOST_ATTEMPTS
    assert find_complete_studies(gateway, later(17)) == [STUDY]


def test_a_dead_source_is_asked_once_a_round(counting: Counting) -> None:
    counting.count(**{"2_25_6_0": 7, "2_25_6_1": 7})
    counting.fault = PeerUnavailable("gone")
    assert fetch_missing(counting.gateway, "clinical") == 1


def test_nothing_is_pulled_while_the_switch_holds_it(counting: Counting, root: DataRoot) -> None:
    counting.count(**{SERIES.replace(".", "_"): 9})
    root.enabled_file.write_text("101")

    assert fetch_missing(counting.gateway, "clinical") == 0
    with pytest.raises(UsageError, match="switched off"):
        pull(counting.gateway, STUDY, "clinical")
    root.enabled_file.write_text("111")
    assert fetch_missing(counting.gateway, "clinical") == 1


def test_a_source_without_fetch_is_only_asked(opened: Opened, files: list[Path], root: DataRoot) -> None:
    gateway = opened(Peer("127.0.0.1", free_port(), "X", timeout=1), fetch=False)
    import_paths(root, files[:4])
    book = gateway.ledger.evidence
    find_complete_studies(gateway, later(17))
    (question,) = book.questions("clinical")
    book.answer(question, series={SERIES: 9})

    assert fetch_missing(gateway, "clinical") == 0
    assert find_complete_studies(gateway, later(17)) == []
