"""Taking over from another system: report-only until it is adopted, and nothing is sent a second time."""

from __future__ import annotations

import pytest

from fiona_dagster.errors import UsageError
from fiona_dagster.operations.overview import overview
from fiona_dagster.operations.reconciliation import reconcile
from fiona_dagster.transfers import adoption, assignment, delivery, outcome
from fiona_dagster.transfers.removal import confirm_removed
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site
from tests.tables import write

OTHER = "1.2.3.4"
MAPPED = "1.3.6.1.4.1.45037.77"


def finished(site: Site, study: str = STUDY, instance: int = 1, **fields: str) -> None:
    """What the other system wrote."""
    site.fill(
        instance,
        study,
        **{
            "transfer_requested_date": "2025-03-01 10:00",
            "transfer_project_name": PROJECT,
            "transfer_name": PARTICIPANT,
            "transfer_event_name": EVENT,
            "transfer_date": "2025-03-01 10:07",
            "transfer_mapped_uid": MAPPED,
            **fields,
        },
    )


def test_the_first_contact_with_finished_transfers_changes_nothing_until_they_are_adopted(site: Site) -> None:
    site.receive(1)
    finished(site)
    write(site.redcap, "Incoming", {"study_instance_uid": OTHER, "study_date": "20250101"})
    finished(site, OTHER)
    finished(site, OTHER, 2, transfer_date="", transfer_mapped_uid="", transfer_project_name="LUNG")
    before = len(site.redcap.log("Incoming"))

    for _ in range(2):
        poll = site.poll()
        assert (poll.report_only, poll.foreign, poll.accepted, poll.refused) == (True, 2, (), ())
    assert overview(site.root)["to_adopt"] == 2
    said = " ".join(fiona("status", data=site.root.path).stdout.split())
    assert "nothing is assigned or sent until `fiona adopt`" in said
    with site.open() as gateway:
        assert assignment.assign_held(gateway).asked == 0
        report = adoption.adopt(gateway, report=True)
        assert (report.finished, report.unfinished, report.adopted) == ({PROJECT: 2}, {"LUNG": 1}, 0)
        assert gateway.ledger.transfers.all() == []
        done = adoption.adopt(gateway)
        assert done.adopted == 2
        assert adoption.adopt(gateway).adopted == 0, "repeatable"
        rows = gateway.ledger.transfers.all()
        assert {(row.study, row.state, row.mapped_uid) for row in rows} == {
            (STUDY, "adopted", MAPPED),
            (OTHER, "adopted", MAPPED),
        }
    assert len(site.redcap.log("Incoming")) == before, "nothing is written to REDCap"

    assert overview(site.root)["to_adopt"] == 0
    poll = site.poll()
    assert (poll.report_only, poll.accepted, poll.foreign) == (False, (), 0)
    with site.open() as gateway:
        assert gateway.ledger.work.due("transfer") == []
        gaps = [(gap.project, gap.study) for gap in reconcile(gateway).gaps]
        assert gaps == [("LUNG", OTHER)], "what was adopted is no gap"
        assert gateway.ledger.transfers.new_revision(STUDY, 2) == [], "late images are not sent by themselves"


def test_a_redcap_without_finished_transfers_needs_no_adoption(site: Site) -> None:
    site.receive(1)
    site.ask()
    poll = site.poll()
    assert (poll.report_only, len(poll.accepted)) == (False, 1)
    finished(site, instance=2)  # later on it is one request among others
    poll = site.poll()
    assert (poll.report_only, poll.foreign) == (False, 1)


def test_what_was_adopted_is_sent_again_only_after_its_old_copy_is_gone(site: Site) -> None:
    site.receive(1)
    finished(site)
    site.poll()
    with site.open() as gateway:
        adoption.adopt(gateway)
    site.fill(1, transfer_requested_date="2026-01-01 08:00")

    (refused,) = site.poll().refused
    assert "system before this one" in refused.reason
    with site.open() as gateway:
        assert confirm_removed(gateway, STUDY, PROJECT, by="somebody") == ["previous system"]
    assert len(site.poll().accepted) == 1


def test_without_a_redcap_there_is_nothing_to_adopt(site: Site) -> None:
    site.configure(redcap={})
    with site.open() as gateway, pytest.raises(UsageError, match="no REDCap"):
        adoption.adopt(gateway)


def test_again_within_the_same_minute_is_told_from_what_another_system_did(site: Site) -> None:
    """The field has minutes: a request that is renewed while the date is still the same is a new one."""
    site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        (done,) = gateway.incoming().requests_of(STUDY)
    minute = int(done.requested_date[-2:])
    site.fill(1, transfer_requested_date=f"{done.requested_date[:-2]}{(minute - 1) % 60:02}")

    assert len(site.poll().accepted) == 1
    assert site.poll().accepted == ()


def test_the_newest_of_two_requests_counts_whichever_is_seen_first(site: Site) -> None:
    site.receive(1)
    site.fill(
        1,
        transfer_requested_date="2026-11-25 10:00",
        transfer_project_name=PROJECT,
        transfer_name=PARTICIPANT,
    )
    fields = {"transfer_project_name": PROJECT, "transfer_name": "H002", "transfer_event_name": EVENT}
    site.fill(2, transfer_requested_date="2026-11-25 10:05", **fields)
    assert len(site.poll().accepted) == 1
    site.fill(1, transfer_event_name=EVENT)  # the older one is completed later

    poll = site.poll()

    assert (poll.accepted, poll.refused) == ((), ())
    assert site.transfer().participant == "H002"
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        client = gateway.incoming().client
        rows = client.export_records(records=[STUDY], fields=["study_instance_uid", "transfer_error_message"])
        said = {row["redcap_repeat_instance"]: row["transfer_error_message"] for row in rows}
        assert said["1"] == "superseded: request 2 for the same project is newer"
        assert not said["2"]
        assert gateway.incoming().requests_of(STUDY)[0].errors == ()
