"""A peer that shows another certificate in the middle of a delivery: told of, wherever it happens."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fiona_dagster.config import DataRoot, DicomTarget
from fiona_dagster.dicom import sender
from fiona_dagster.dicom.instances import Instance, read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.retrieving import Getter
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.dicom.web import WebClient, WebPeer
from fiona_dagster.errors import PeerNotTrusted, UnreadableDicom
from fiona_dagster.landing.asked import all_asked
from fiona_dagster.transfers.targets import committing, comparing, dicom, stow
from tests.making import data_set, part10

TARGET = DicomTarget(kind="dicom", host="127.0.0.1", port=1, called_ae_title="PACS")
PEER = Peer("127.0.0.1", 1, "PACS", timeout=1)


def not_trusted(*_: object, **__: object) -> NoReturn:
    raise PeerNotTrusted("another certificate")


@pytest.fixture
def instances(tmp_path: Path) -> list[Instance]:
    found = []
    for number in range(6):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(part10(data_set(f"1.2.3.{number}"), f"1.2.3.{number}"))
        found.append(read_instance(path))
    return found


def test_on_one_of_several_associations(instances: list[Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    both = threading.Event()

    class Association:
        def __init__(self, _: Peer, contexts: list[Any]) -> None:
            opened.append(self)
            if len(opened) == 2:
                both.set()
                not_trusted()
            self.accepted = dict.fromkeys(contexts, 1)

        def __enter__(self) -> Association:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def store(self, *_: object) -> None:
            pass

        def answer(self, _: float) -> int:
            assert both.wait(60)
            return 0

    monkeypatch.setattr(sender, "Requestor", Association)
    with pytest.raises(PeerNotTrusted):
        store_files(PEER, instances, associations=2)


def test_where_it_is_compared(instances: list[Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Getter, "fetch", not_trusted)
    comparison = comparing.Comparison(TARGET, PEER, "pacs", lambda: None)
    with pytest.raises(PeerNotTrusted):
        comparison.same(instances, {"1.2.3.1"})
    assert comparison.offered, "it is asked again once it is who it should be"


def test_where_it_is_listed(instances: list[Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "find_instance_uids", not_trusted)
    with pytest.raises(PeerNotTrusted):
        dicom._listed(PEER, "1.2.3", instances)


def test_where_it_is_asked_to_keep_it_safe(
    tmp_path: Path, instances: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = DataRoot(tmp_path / "data")
    target = TARGET.model_copy(update={"commitment_hours": 1.0})
    commitment = committing.Commitment(target, root, "pacs", {"1.2.3.1": "ab"}, 1)
    monkeypatch.setattr(committing, "request_commitment", not_trusted)
    with pytest.raises(PeerNotTrusted):
        commitment.proves(PEER, instances)
    assert not list(all_asked(root)), "nothing was asked"


def test_where_it_is_retrieved_by_wado(instances: list[Instance], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebClient, "retrieve", not_trusted)
    with WebClient(WebPeer("pacs", "https://localhost:1")) as client, pytest.raises(PeerNotTrusted):
        stow._compare(client, instances[0], None)


def test_an_instance_that_can_not_be_read_ends_no_comparison(
    instances: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for one that can't be transcoded: it can't have got there from us, and the others are looked at."""

    def as_sent(instance: Instance) -> Any:
        if instance.sop_instance == "1.2.3.1":
            raise UnreadableDicom("damaged")
        return contextlib.nullcontext(instance)

    def fetch(_: object, instance: Instance, out: Any, __: int) -> bool:
        out.write(instance.path.read_bytes()[instance.data_set_offset :])
        return True

    monkeypatch.setattr(Getter, "fetch", fetch)
    comparison = comparing.Comparison(TARGET, PEER, "pacs", lambda: None, as_sent)
    assert comparison.same(instances, {"1.2.3.1", "1.2.3.2"}) == {"1.2.3.2"}
    assert comparison.differing == {"1.2.3.1"}
