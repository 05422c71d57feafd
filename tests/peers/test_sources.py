"""Orthanc, dcmqrscp and misbehaving peers as sources: what they count, and what becomes of a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined] # it makes them when it is imported
    StudyRootQueryRetrieveInformationModelFind,
)

from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.dicom.sources import StudyCount, count_study
from fiona_dagster.landing import import_paths
from fiona_dagster.transfers.completion import find_complete_studies
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.sources import answer_questions
from tests.peers.test_pacs_delivery import make_file
from tests.peers_fixtures import CuttingProxy, Orthanc, free_port, running_dcmqrscp
from tests.transfers.conftest import Configure, configure

__all__ = ["configure"]

pytestmark = pytest.mark.peers

STUDY, SERIES = "2.25.5", ("2.25.6.0", "2.25.6.1")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    return [make_file(folder / f"{number}.dcm", number) for number in range(6)]


def send(port: int, called: str, files: list[Path]) -> None:
    results = store_files(Peer("127.0.0.1", port, called), [read_instance(path) for path in files])
    assert all(result.stored for result in results)


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    """A real PACS, empty."""
    if request.param == "orthanc":
        running: Orthanc = request.getfixturevalue("orthanc")
        yield Peer("127.0.0.1", running.dicom_port, running.ae_title, timeout=10)
    else:
        with running_dcmqrscp(tmp_path / "qr") as port:
            yield Peer("127.0.0.1", port, "QRSCP", timeout=10)


def source(peer: Peer, **more: Any) -> dict[str, Any]:
    return {
        "host": peer.host,
        "port": peer.port,
        "called_ae_title": peer.called,
        "timeout_seconds": peer.timeout,
        **more,
    }


def test_a_pacs_counts_study_and_series(pacs: Peer, files: list[Path]) -> None:
    assert count_study(pacs, STUDY) is None
    send(pacs.port, pacs.called, files)

    assert count_study(pacs, STUDY) == StudyCount(6, {SERIES[0]: 3, SERIES[1]: 3})


def later(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_study_waits_for_what_its_source_has_and_goes_on_when_it_is_here(
    pacs: Peer, files: list[Path], configure: Configure
) -> None:
    gateway = configure(sources={"clinical": source(pacs)})
    send(pacs.port, pacs.called, files)
    import_paths(gateway.root, files[:4])

    assert find_complete_studies(gateway, later(17)) == []  # asks
    assert answer_questions(gateway, "clinical") == 1
    assert answer_questions(gateway, "clinical") == 0
    assert find_complete_studies(gateway, later(17)) == []
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert judged.reasons == ("source clinical counts 6 instances, 2 are missing",)

    import_paths(gateway.root, files[4:])
    assert find_complete_studies(gateway, later(17)) == []  # asks again, since something came
    assert answer_questions(gateway, "clinical") == 1
    assert find_complete_studies(gateway, later(17)) == [STUDY]
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert (judged.outcome, judged.expected, judged.missing) == ("complete", 6, 0)


def test_a_study_goes_on_after_the_limit_with_the_numbers(
    pacs: Peer, files: list[Path], configure: Configure
) -> None:
    gateway = configure(sources={"clinical": source(pacs)}, completion={"wait_limit_seconds": 600})
    send(pacs.port, pacs.called, files)
    import_paths(gateway.root, files[:4])
    find_complete_studies(gateway, later(17))
    answer_questions(gateway, "clinical")

    assert find_complete_studies(gateway, later(590)) == []
    assert find_complete_studies(gateway, later(601)) == [STUDY]
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert (judged.outcome, judged.received, judged.expected, judged.missing) == ("incomplete", 4, 6, 2)


def test_a_source_that_does_not_know_the_study_is_no_evidence(
    pacs: Peer, files: list[Path], configure: Configure
) -> None:
    gateway = configure(sources={"clinical": source(pacs)})
    import_paths(gateway.root, files)
    find_complete_studies(gateway, later(17))
    answer_questions(gateway, "clinical")

    assert find_complete_studies(gateway, later(17)) == [STUDY]
    judged = gateway.ledger.evidence.completion(STUDY)
    assert judged is not None
    assert "source clinical has no evidence to give" in judged.reasons


def test_only_the_sources_of_its_senders_are_asked(files: list[Path], configure: Configure) -> None:
    peer = Peer("127.0.0.1", free_port(), "X", timeout=1)
    gateway = configure(
        sources={
            "other": source(peer, callers=["MR9"]),
            "mine": source(peer, callers=["IMPORT", "MR1"]),
            "all": source(peer),
        }
    )
    import_paths(gateway.root, files)
    find_complete_studies(gateway, later(17))

    assert [count.source for count in gateway.ledger.evidence.counts(STUDY)] == ["all", "mine"]


@pytest.mark.parametrize("stall", [False, True])
def test_a_dead_source_is_tried_once_a_round_and_holds_nothing_up(
    orthanc: Orthanc, files: list[Path], configure: Configure, stall: bool
) -> None:
    with CuttingProxy(orthanc.dicom_port, 0, cuts=99, stall=stall) as proxy:
        gateway = configure(sources={"dead": source(Peer("127.0.0.1", proxy.port, "X", timeout=0.5))})
        import_paths(gateway.root, files)
        for number in range(5):
            gateway.ledger.evidence.ask(f"1.9.{number}", "dead", "t")
        find_complete_studies(gateway, later(17))
        assert answer_questions(gateway, "dead") == 6
        assert proxy.connections == 1
    assert {count.state for count in gateway.ledger.evidence.counts(STUDY)} == {"silent"}
    assert find_complete_studies(gateway, later(17)) == [STUDY]


@contextmanager
def strange_source(*answers: dict[str, str], status: int = 0x0000) -> Iterator[Peer]:
    """A source that answers every query with the same."""

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for values in answers:
            answer = Dataset()
            answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            for keyword, value in values.items():
                setattr(answer, keyword, value)
            yield 0xFF00, answer
        yield status, None

    entity = AE(ae_title="STRANGE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    assert server is not None
    assert server.socket is not None
    try:
        yield Peer("127.0.0.1", server.socket.getsockname()[1], "STRANGE", timeout=5)
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], None),
        ([{"StudyInstanceUID": "9.9", "NumberOfStudyRelatedInstances": "7"}], None),  # another study
        ([{"StudyInstanceUID": STUDY, "NumberOfStudyRelatedInstances": "0"}], StudyCount()),
        ([{"StudyInstanceUID": STUDY}], StudyCount()),
        (
            [{"StudyInstanceUID": STUDY, "SeriesInstanceUID": "", "NumberOfStudyRelatedInstances": "12"}],
            StudyCount(12),
        ),
        (
            [
                {
                    "StudyInstanceUID": STUDY,
                    "SeriesInstanceUID": "1.7",
                    "NumberOfStudyRelatedInstances": "99",
                    "NumberOfSeriesRelatedInstances": "5",
                }
            ],
            StudyCount(5, {"1.7": 5}),  # the finer statement
        ),
    ],
)
def test_odd_answers(answers: list[dict[str, str]], expected: StudyCount | None) -> None:
    with strange_source(*answers) as peer:
        assert count_study(peer, STUDY) == expected


def test_a_source_that_refuses_queries_is_no_evidence(files: list[Path], configure: Configure) -> None:
    with strange_source(status=0xA700) as peer:
        gateway = configure(sources={"odd": source(peer)})
        import_paths(gateway.root, files)
        find_complete_studies(gateway, later(17))
        answer_questions(gateway, "odd")

    (count,) = gateway.ledger.evidence.counts(STUDY)
    assert count.state == "silent"
    assert "A700" in count.why
    assert find_complete_studies(gateway, later(17)) == [STUDY]


def wait_for(gateway: Gateway, state: str) -> None:
    deadline = time.monotonic() + 170
    while [count.state for count in gateway.ledger.evidence.counts(STUDY)] != [state]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_program_asks_by_itself_and_ends_at_once(
    orthanc: Orthanc, files: list[Path], configure: Configure
) -> None:
    peer = Peer("127.0.0.1", orthanc.dicom_port, orthanc.ae_title, timeout=10)
    gateway = configure(sources={"clinical": source(peer)})
    send(peer.port, peer.called, files)
    import_paths(gateway.root, files)
    find_complete_studies(gateway, later(17))
    log = gateway.root.logs / "outreach.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "fiona_dagster.transfers.outreach"],
            env={**os.environ, "FIONA_DATA": str(gateway.root.path)},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            assert process.stdout.readline() == "at work\n", log.read_text()
            wait_for(gateway, "counted")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(170) == 0
    assert find_complete_studies(gateway, later(17)) == [STUDY]
    assert "Planted" not in log.read_text()
