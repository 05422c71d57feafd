"""An answer to a request for storage commitment wakes its delivery; requests that nobody waits for go."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fiona_dagster.config import DicomTarget
from fiona_dagster.errors import ProofAwaited
from fiona_dagster.landing import asked as asked_module
from fiona_dagster.landing.asked import AskedCommitment, all_asked, forget_asked, keep_answer, keep_asked
from fiona_dagster.ledger import WorkList, utc_after, work_key
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.promises import Looked, take_answers
from fiona_dagster.transfers.targets import committing
from tests.site import PROJECT, STUDY, Site

KEY = work_key("deliver", STUDY, PROJECT, "pacs")


def look(site: Site) -> Looked:
    with site.open() as gateway:
        return take_answers(gateway)


def is_due(site: Site) -> bool:
    with site.open() as gateway:
        return [work.key for work in gateway.ledger.work.due("deliver")] == [KEY]


def fail(site: Site, message: str) -> None:
    """As the run of the delivery books it."""
    with site.open() as gateway:
        for work in gateway.ledger.work.due("deliver"):
            gateway.ledger.work.requested(work.key)
        delivery.failed(gateway, site.transfer(), "pacs", message, permanent=False)


@pytest.fixture
def asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> AskedCommitment:
    """A delivery was sent, and waits for the answer."""
    monkeypatch.setattr(committing, "request_commitment", lambda *_: None)
    monkeypatch.setattr("fiona_dagster.ledger.work.FIRST_DELAY_SECONDS", 900.0)
    pacs = {**site.settings()["targets"]["pacs"], "commitment_hours": 1}
    site.configure(targets={"pacs": pacs})
    site.project(targets=["pacs"])
    site.packaged()
    with site.open() as gateway, pytest.raises(ProofAwaited):
        delivery.deliver(gateway, site.transfer(), "pacs")
    fail(site, "awaits its proof")
    (one,) = all_asked(site.root)
    return one


def test_an_answer_wakes_its_delivery_once(site: Site, asked: AskedCommitment) -> None:
    assert asked.transfer == site.transfer().id
    assert look(site) == Looked()
    assert not is_due(site)

    assert keep_answer(site.root, asked.transaction, asked.peer_ae, asked.instances, {})
    assert look(site) == Looked(woken=1)
    assert is_due(site)
    fail(site, "the PACS is down")
    assert look(site) == Looked(), "a failure has its delay, answer or not"
    assert not is_due(site)

    with site.open() as gateway:
        proof, _ = delivery.deliver(gateway, site.transfer(), "pacs")
    assert proof is not None
    assert proof.kind == "dicom-commitment"
    assert all_asked(site.root) == []


def test_an_answer_in_the_middle_of_an_attempt_wakes_it_afterwards(
    site: Site, asked: AskedCommitment
) -> None:
    with site.open() as gateway:
        gateway.ledger.work.wake(KEY)
        gateway.ledger.work.requested(KEY)
    assert keep_answer(site.root, asked.transaction, asked.peer_ae, asked.instances, {})
    assert look(site) == Looked()
    fail(site, "awaits its proof")
    assert look(site) == Looked(woken=1)
    assert is_due(site)


def test_requests_that_nobody_waits_for_are_forgotten(site: Site, asked: AskedCommitment) -> None:
    old = (datetime.now(UTC) - timedelta(days=31)).isoformat().replace("+00:00", "Z")
    keep_asked(site.root, replace(asked, transaction="2.25.1", transfer=0, time=old))
    keep_asked(site.root, replace(asked, transaction="2.25.2", transfer=0, time=utc_after(-3600.0)))
    keep_asked(site.root, replace(asked, transaction="2.25.3", transfer=asked.transfer + 1))
    keep_asked(site.root, replace(asked, transaction="2.25.4", target="other"))
    assert look(site) == Looked(forgotten=3)
    assert {one.transaction for one in all_asked(site.root)} == {asked.transaction, "2.25.2"}

    file = site.root.project_files / f"{PROJECT}.json"
    content = file.read_text()
    file.unlink()
    assert look(site) == Looked(), "its file may come back"
    file.write_text(content)
    with site.open() as gateway:
        gateway.ledger.transfers.set_state(site.transfer(), "stopped")
    assert look(site) == Looked(forgotten=1)


def test_what_was_asked_about_other_bytes_of_the_transfer_is_forgotten(
    site: Site, asked: AskedCommitment
) -> None:
    target = {"kind": "dicom", "host": "h", "called_ae_title": "A", "commitment_hours": 1}
    from fiona_dagster.config import DicomTarget

    committing.Commitment(DicomTarget.model_validate(target), site.root, "pacs", {"1.2": "x"}, asked.transfer)
    assert all_asked(site.root) == []


def test_what_is_settled_is_brought_back_by_nobody(
    site: Site, asked: AskedCommitment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor and the receiver may have read it before: its answer is about what lay there then."""
    assert keep_answer(site.root, asked.transaction, asked.peer_ae, asked.instances, {})
    wake = WorkList.wake

    def settled_meanwhile(work: WorkList, key: str) -> bool:
        forget_asked(site.root, asked.transaction)
        return wake(work, key)

    monkeypatch.setattr(WorkList, "wake", settled_meanwhile)
    assert look(site) == Looked(woken=1)
    assert all_asked(site.root) == []

    keep_asked(site.root, asked)
    read = asked_module._read

    def forget_behind(path: Path) -> AskedCommitment | None:
        """Another process begins to forget it as soon as it was read, and waits until it may."""
        found = read(path)
        if found is not None and found.transaction == asked.transaction and not forgetting.is_alive():
            forgetting.start()
            forgetting.join(0.2)
        return found

    forgetting = threading.Thread(target=forget_asked, args=(site.root, asked.transaction))
    monkeypatch.setattr(asked_module, "_read", forget_behind)
    assert keep_answer(site.root, asked.transaction, asked.peer_ae, asked.instances, {})
    forgetting.join()
    assert all_asked(site.root) == []


def test_what_is_sent_once_more_is_asked_for_anew(site: Site, asked: AskedCommitment) -> None:
    """The answer that is awaited may be given for what the PACS lost meanwhile."""
    target = site.settings()["targets"]["pacs"]
    assert target["commitment_hours"] == 1
    with site.open() as gateway:
        configured = gateway.target("pacs")
        assert isinstance(configured, DicomTarget)
        digests = dict.fromkeys(asked.instances, "")
        commitment = committing.Commitment(configured, site.root, "pacs", digests)
    commitment._asked = asked
    commitment.sent_again()
    assert not keep_answer(site.root, asked.transaction, asked.peer_ae, asked.instances, {})
    assert all_asked(site.root) == []
