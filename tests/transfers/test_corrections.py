"""A participant or event that is corrected: before anything was sent, in the middle of it, and afterwards."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest

from fiona_dagster.demo.pacs import ResearchPacs
from fiona_dagster.errors import (
    DeliveryRefused,
    PeerUnavailable,
    RemovalAwaited,
    RequestRefused,
    Superseded,
    UsageError,
)
from fiona_dagster.transfers import completion, delivery, execution, intake, outcome, packing, requests
from fiona_dagster.transfers.removal import confirm_removed
from tests.sending import exchanging
from tests.site import EVENT, PROJECT, STUDY, Site

WRONG, RIGHT = "H001", "H002"


def write(site: Site, participant: str, *, event: str = EVENT, instance: int = 1, minute: int = 0) -> None:
    """A person writes a request into REDCap, or edits it."""
    with site.open() as gateway:
        gateway.incoming()._client.import_records(
            [
                {
                    "study_instance_uid": STUDY,
                    "redcap_repeat_instrument": "transfers",
                    "redcap_repeat_instance": str(instance),
                    "transfer_requested_date": f"2026-01-01 10:{minute:02d}",
                    "transfer_project_name": PROJECT,
                    "transfer_name": participant,
                    "transfer_event_name": event,
                }
            ]
        )


def deliver(site: Site, target: str = "pacs") -> None:
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), target)


def said(site: Site, instance: int = 1) -> str:
    """The error that stands in REDCap once the outcome is written."""
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        rows = gateway.incoming()._client.export_records(records=[STUDY])
    place = ("transfers", str(instance))
    (row,) = (r for r in rows if (r["redcap_repeat_instrument"], r["redcap_repeat_instance"]) == place)
    return row["transfer_error_message"]


def states(site: Site) -> list[tuple[str, str]]:
    with site.open() as gateway:
        return [(transfer.participant, transfer.state) for transfer in gateway.ledger.transfers.all(STUDY)]


def at_the_pacs(pacs: ResearchPacs) -> list[str]:
    """Participants of the instances that it really has."""
    found = []
    for path in pacs.folder.glob("*/*.dcm"):
        found.append(str(pydicom.dcmread(io.BytesIO(path.read_bytes()), force=True).PatientID))
    return sorted(found)


@pytest.fixture
def broken_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One of two instances of the wrong participant has reached the PACS."""
    site.project(targets=["pacs"])
    site.receive(1, 2)
    write(site, WRONG)
    assert len(site.poll().accepted) == 1
    site.make_package()
    break_after(site, monkeypatch, 1)
    with pytest.raises(PeerUnavailable):
        deliver(site)
    monkeypatch.undo()
    assert at_the_pacs(site.pacs) == [WRONG]
    return site


def break_after(site: Site, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The PACS is full after so many instances."""
    sent = 0

    def full(_: str, send: Callable[[], int]) -> int:
        nonlocal sent
        sent += 1
        return send() if sent <= count else 0xA700

    exchanging(monkeypatch, full)


@pytest.mark.parametrize("instance", [1, 2], ids=["edited", "a second request"])
def test_nothing_was_sent_so_the_correction_replaces_the_request(site: Site, instance: int) -> None:
    """Also under the same date."""
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    site.make_package()
    write(site, RIGHT, instance=instance)

    assert len(site.poll().accepted) == 1
    assert states(site) == [(WRONG, "superseded"), (RIGHT, "accepted")]
    assert site.transfer().generation == 0
    assert site.poll().accepted == ()


def test_an_edit_that_is_taken_back_counts_too(site: Site) -> None:
    site.receive(1, 2)
    for participant in (WRONG, RIGHT, WRONG):
        write(site, participant)
        assert len(site.poll().accepted) == 1
    assert (site.transfer().participant, site.poll().accepted) == (WRONG, ())


def test_an_edit_whose_date_is_taken_back_too_counts_and_nothing_goes_round(site: Site) -> None:
    """By a person, or by a restored backup of REDCap."""
    site.receive(1, 2)
    write(site, WRONG)
    assert len(site.poll().accepted) == 1
    write(site, RIGHT, minute=1)
    assert len(site.poll().accepted) == 1
    write(site, WRONG)
    assert len(site.poll().accepted) == 1
    assert site.transfer().participant == WRONG
    with site.open() as gateway:
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["transfer"]
    assert site.poll().accepted == ()


def test_a_changed_event_is_a_correction_too(broken_off: Site) -> None:
    write(broken_off, WRONG, event="Year 1")
    assert len(broken_off.poll().refused) == 1


def test_after_sending_began_a_correction_stops_everything(broken_off: Site) -> None:
    """The finding: half of one participant, half of the other, counted as proven."""
    site = broken_off
    write(site, RIGHT)
    (refused,) = site.poll().refused

    assert refused.awaits_removal
    assert f"fiona removed {STUDY}" in said(site)
    assert states(site) == [(WRONG, "stopped"), (RIGHT, "refused")]
    with pytest.raises(RequestRefused, match="stopped"):
        deliver(site)
    with site.open() as gateway:
        assert gateway.ledger.work.open(STUDY) == []
        with pytest.raises(RemovalAwaited):
            requests.assign(gateway, STUDY, PROJECT, RIGHT, EVENT)
    assert site.poll().refused == (), "the refusal is written once"
    assert at_the_pacs(site.pacs) == [WRONG]


def test_late_images_do_not_follow_a_stopped_transfer(broken_off: Site) -> None:
    site = broken_off
    write(site, RIGHT)
    site.poll()
    site.arrive(3)
    with site.open() as gateway:
        later = datetime.now(UTC) + timedelta(hours=1)
        assert completion.find_complete_studies(gateway, later) == [STUDY]
        intake.register(gateway, STUDY)
        assert "transfer" not in [work.kind for work in gateway.ledger.work.open(STUDY)]
    assert states(site)[0] == (WRONG, "stopped")


def remove_from_pacs(pacs: ResearchPacs) -> None:
    for path in pacs.folder.glob("*/*.dcm"):
        path.unlink()
        pacs._known.pop(path.stem)


def test_a_confirmed_removal_opens_the_way_under_new_uids(broken_off: Site) -> None:
    site = broken_off
    old = site.transfer().mapped_uid
    write(site, RIGHT)
    site.poll()
    with site.open() as gateway, pytest.raises(DeliveryRefused, match="still lists 1 instances"):
        confirm_removed(gateway, STUDY, PROJECT, by="Jo")
    assert site.poll().accepted == ()

    remove_from_pacs(site.pacs)
    with site.open() as gateway:
        assert confirm_removed(gateway, STUDY, PROJECT, by="Jo") == ["pacs"]
        assert any("confirmed by Jo" in what for _, what in gateway.ledger.store.history(STUDY))
        (sending,) = gateway.ledger.sendings.of(STUDY, PROJECT)
        assert (sending.removed_by, bool(sending.removed)) == ("Jo", True)

    assert [transfer.participant for transfer in site.poll().accepted] == [RIGHT], (
        "the same words, the same date"
    )
    transfer, _ = site.make_package()
    assert transfer.generation == 1
    assert transfer.mapped_uid != old
    deliver(site)
    assert site.transfer().state == "delivered"
    assert at_the_pacs(site.pacs) == [RIGHT, RIGHT]
    assert said(site) == ""


def test_the_first_participant_may_come_back(broken_off: Site) -> None:
    """The correction was the mistake: nothing has to be removed."""
    site = broken_off
    write(site, RIGHT)
    site.poll()
    write(site, WRONG)
    assert len(site.poll().accepted) == 1
    site.make_package()
    deliver(site)

    assert site.transfer().generation == 0
    assert site.transfer().state == "delivered"
    assert at_the_pacs(site.pacs) == [WRONG, WRONG]


def test_a_broken_delivery_goes_on_and_is_proven(broken_off: Site) -> None:
    deliver(broken_off)
    with broken_off.open() as gateway:
        proof = gateway.ledger.transfers.deliveries(broken_off.transfer())["pacs"].proof
    assert (proof["counts"]["sent"], proof["counts"]["there_before"]) == (1, 1)


def test_a_correction_that_comes_while_it_is_sent_stops_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sensor takes no lock: it must be seen at once."""
    site.project(targets=["pacs"])
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    site.make_package()

    def correct(_: str, send: Callable[[], int]) -> int:
        write(site, RIGHT)
        assert len(site.poll().refused) == 1
        return send()

    exchanging(monkeypatch, correct)
    before = site.transfer()
    with pytest.raises(Superseded):
        deliver(site)
    with site.open() as gateway:
        delivery.failed(gateway, before, "pacs", "was replaced", permanent=True)

    assert at_the_pacs(site.pacs) == [WRONG]
    assert states(site) == [(WRONG, "stopped"), (RIGHT, "refused")]


def test_a_replaced_transfer_neither_closes_nor_spoils_the_new_one(site: Site) -> None:
    """An old run that knows nothing of the new request comes to its end."""
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    old, package = site.make_package()
    write(site, RIGHT, minute=1)
    site.poll()

    with site.open() as gateway:
        wanted = [work.key for work in gateway.ledger.work.open(STUDY)]
        for attempt in (
            lambda: delivery.deliver(gateway, old, "archive"),
            lambda: delivery.finish(gateway, old),
            lambda: gateway.ledger.transfers.set_state(old, "delivered"),
            lambda: gateway.ledger.transfers.record_delivery(old, "archive", package.sha256, {}),
            lambda: packing.make_package(gateway, old),
            lambda: execution.give_up(gateway, old, "gone"),
        ):
            with pytest.raises(Superseded):
                attempt()
        execution.failed(gateway, old, "gone", permanent=True)
        delivery.failed(gateway, old, "archive", "gone", permanent=True)
        assert [work.key for work in gateway.ledger.work.open(STUDY)] == wanted
        assert not any(work.blocked for work in gateway.ledger.work.open(STUDY))
    assert states(site) == [(WRONG, "superseded"), (RIGHT, "accepted")]
    assert not list(site.sftp["archive"].files.iterdir())


def test_a_package_at_an_sftp_server_is_a_copy_too(site: Site) -> None:
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    site.make_package()
    deliver(site, "archive")
    write(site, RIGHT)
    assert len(site.poll().refused) == 1

    with site.open() as gateway:
        with pytest.raises(UsageError, match="nothing was sent to second"):
            confirm_removed(gateway, STUDY, PROJECT, ["second"], by="Jo")
        confirm_removed(gateway, STUDY, PROJECT, by="Jo")
    site.poll()
    site.make_package()
    deliver(site, "archive")
    names = sorted(path.name for path in site.sftp["archive"].files.glob("*.zip"))
    assert [WRONG in name for name in names] == [True, False]


def test_a_server_that_is_down_has_got_nothing(site: Site) -> None:
    """No byte left, so a correction needs no removal."""
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    site.make_package()
    site.sftp["archive"].close()
    with pytest.raises(PeerUnavailable):
        deliver(site, "archive")
    write(site, RIGHT)
    assert len(site.poll().accepted) == 1


def test_what_was_removed_on_purpose_does_not_come_back_by_itself(site: Site) -> None:
    site.receive(1, 2)
    write(site, WRONG)
    site.poll()
    site.make_package()
    deliver(site, "archive")
    for path in site.sftp["archive"].files.iterdir():
        path.unlink()
    with site.open() as gateway:
        confirm_removed(gateway, STUDY, PROJECT, by="Jo")
        assert delivery.settle(gateway) == delivery.Settled()
    assert states(site) == [(WRONG, "stopped")]

    write(site, WRONG, minute=1)
    assert len(site.poll().accepted) == 1
    site.make_package()
    deliver(site, "archive")
    assert list(site.sftp["archive"].files.glob("*.zip"))


def test_content_that_nobody_can_vouch_for_is_a_state_of_its_own(site: Site, tmp_path: Path) -> None:
    """Somebody else's copy lies at the PACS under our UIDs: an older ledger, or older rules."""
    from fiona_dagster.operations.overview import study_detail

    site.project(targets=["pacs"])
    transfer, _ = site.packaged()
    with site.open() as gateway:
        (first, *_) = gateway.ledger.transfers.verified_files(transfer)
        copy = execution.working_copy(gateway, transfer) / first
        header = pydicom.dcmread(copy)
    site.pacs._note((header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID))

    with pytest.raises(DeliveryRefused, match="1 of 2 instances are present, content unproven") as raised:
        deliver(site)
    with site.open() as gateway:
        delivery.failed(gateway, transfer, "pacs", str(raised.value), permanent=True)
    (sending,) = study_detail(site.root, STUDY)["transfers"][0]["sendings"]
    assert (sending["state"], sending["uncertain"]) == ("unproven", [header.SOPInstanceUID])
    assert site.transfer().state == "failed"
    assert "content unproven" in said(site)

    remove_from_pacs(site.pacs)
    with site.open() as gateway:
        confirm_removed(gateway, STUDY, PROJECT, by="Jo")
    assert site.waiting_targets() == ["pacs"]
    deliver(site)
    assert site.transfer().state == "delivered"
