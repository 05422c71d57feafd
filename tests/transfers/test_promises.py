"""An answer to a request for storage commitment wakes its delivery; requests that nobody waits for go."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fiona_dagster.errors import ProofAwaited
from fiona_dagster.landing.asked import AskedCommitment, all_asked, keep_answer, keep_asked
from fiona_dagster.ledger import utc_after, work_key
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
