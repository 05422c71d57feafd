"""Transfer requests by themselves: what is taken up, what is refused and why, what is left alone."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable, RequestRefused, UnknownStudy
from fiona_dagster.redcap import ANONYMIZATION_ERROR, RequestReader, TransferRequest
from fiona_dagster.redcap.dictionary import Dictionary
from fiona_dagster.transfers import delivery, outcome, requests, server_clock
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site
from tests.tables import write


def in_redcap(site: Site, instance: int = 1) -> TransferRequest:
    with site.open() as gateway:
        return next(r for r in gateway.incoming().requests_of(STUDY) if r.instance == instance)


def refusal(site: Site) -> str:
    (refused,) = site.poll().refused
    return refused.reason


def test_a_request_is_taken_up_once(site: Site) -> None:
    site.receive(1)
    site.ask()

    first, second = site.poll(), site.poll()

    assert ([t.project for t in first.accepted], second.accepted) == ([PROJECT], ())
    assert second.open == 1
    transfer = site.transfer()
    assert (transfer.participant, transfer.event, transfer.revision) == (PARTICIPANT, EVENT, 1)


@pytest.mark.parametrize(
    ("request_", "project", "reason"),
    [
        ({"project": "NOSUCH"}, {}, "the project is not known here"),
        ({"participant": "X1"}, {}, "does not match the pattern"),
        ({"event": "Year 9"}, {}, "has no such event"),
        ({}, {"active": False}, "is not active"),
        ({}, {"targets": []}, "has no targets"),
        ({"event": "a=b"}, {"events": []}, "can't be written into DICOM"),
    ],
    ids=["project", "participant", "event", "inactive", "no targets", "not for DICOM"],
)
def test_what_is_refused_says_why_in_redcap(
    site: Site, request_: dict[str, Any], project: dict[str, Any], reason: str
) -> None:
    site.receive(1)
    site.project(**project)
    site.ask(**request_)

    (refused,) = site.poll().refused

    assert reason in refused.reason
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, refused.project)
        assert gateway.ledger.transfers.current(STUDY, refused.project) is None
        assert gateway.ledger.work.due("transfer") == []
    assert in_redcap(site).errors == (ANONYMIZATION_ERROR,)
    assert site.poll().refused == (), "it is not refused over and over"
    for word in (request_.get("participant"), request_.get("event")):
        assert word is None or word not in refused.reason


def test_a_study_of_two_patients_can_not_be_assigned(site: Site) -> None:
    site.arrive(2, PatientID="OTHER", PatientName="Other^Person")
    site.receive(1)
    site.ask()

    assert "is flagged" in refusal(site)


def test_a_refused_request_that_a_person_corrects_is_taken_up_under_its_old_date(site: Site) -> None:
    site.receive(1)
    instance = site.ask(participant="wrong")
    assert "pattern" in refusal(site)
    before = in_redcap(site, instance).requested_date

    site.fill(instance, transfer_name=PARTICIPANT)

    assert len(site.poll().accepted) == 1
    assert in_redcap(site, instance).requested_date == before


def test_half_filled_requests_and_unknown_studies_wait(site: Site) -> None:
    site.receive(1)
    site.fill(1, transfer_project_name=PROJECT, transfer_requested_date="2026-11-25 10:00")
    site.fill(1, study="9.9.9", transfer_project_name=PROJECT, transfer_name=PARTICIPANT)

    poll = site.poll()
    assert (poll.waiting, poll.accepted, poll.refused) == (1, (), ())

    site.fill(1, study="9.9.9", transfer_event_name=EVENT, transfer_requested_date="2026-11-25 10:00")
    assert (site.poll().waiting, site.poll().accepted) == (2, ())


def test_many_that_wait_for_their_images_cost_no_calls(site: Site) -> None:
    """A list has all that is needed to take requests up; only what REDCap was told is read besides."""
    site.receive(1)
    site.ask()
    rows = [
        {
            "study_instance_uid": f"9.9.{number}",
            "redcap_repeat_instrument": "transfers",
            "redcap_repeat_instance": "1",
            "transfer_requested_date": "2026-11-25 10:00",
            "transfer_project_name": PROJECT,
            "transfer_name": PARTICIPANT,
            "transfer_event_name": EVENT,
        }
        for number in range(250)
    ]
    write(site.redcap, "Incoming", *rows)
    site.redcap.calls.clear()

    poll = site.poll()

    assert (poll.complete, poll.waiting, len(poll.accepted)) == (True, 250, 1)
    assert len([call for call in site.redcap.calls if call.content == "record"]) == 1


def test_a_field_that_people_take_out_of_incoming_stops_one_poll_at_most(site: Site) -> None:
    """What a project is made of is remembered for minutes; a refusal makes it be asked for anew."""
    site.receive(1)
    site.ask()
    site.poll()
    incoming = site.redcap.store.project("Incoming")
    rows = [row for row in incoming.dictionary.rows() if row["field_name"] != "transfer_withdrawn"]
    site.redcap.store.change_project("Incoming", Dictionary.from_rows(rows), incoming.setup)
    with pytest.raises(RedcapRejected, match="transfer_withdrawn"):
        site.poll()
    assert site.poll().open == 1


def test_what_another_system_finished_is_reported_and_left_alone(site: Site) -> None:
    site.receive(1)
    instance = site.ask()
    site.fill(instance, transfer_date="2099-01-01 00:00")

    poll = site.poll()

    assert (poll.foreign, poll.accepted) == (1, ())


def test_another_date_asks_again_and_supersedes(site: Site) -> None:
    site.packaged()
    first = site.transfer()
    site.fill(1, transfer_requested_date="2099-01-01 00:00")

    assert len(site.poll().accepted) == 1

    again = site.transfer()
    assert again.id != first.id
    with site.open() as gateway:
        assert [t.state for t in gateway.ledger.transfers.all(STUDY)] == ["superseded", "accepted"]
        assert site.waiting_targets() == [], "the old package is not delivered any more"


def test_after_delivery_another_participant_is_refused_until_the_copy_is_removed(site: Site) -> None:
    site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
    site.ask(participant="H002")

    reason = refusal(site)

    assert "under another participant or event" in reason
    assert "H002" not in reason
    assert PARTICIPANT not in reason
    with site.open() as gateway:
        found = [(transfer.participant, transfer.state) for transfer in gateway.ledger.transfers.all(STUDY)]
    assert found == [(PARTICIPANT, "stopped"), ("H002", "refused")]


@pytest.mark.parametrize(
    "correction", [{"transfer_name": "H002"}, {"transfer_event_name": "Year 1"}], ids=["participant", "event"]
)
def test_a_correction_made_while_nobody_polled_is_seen_by_the_list(
    site: Site, correction: dict[str, str]
) -> None:
    """No look at changes shows it: those reach back some minutes before the last look, and no further."""
    site.packaged()
    site.fill(1, **correction)
    wanted = {"transfer_name": PARTICIPANT, "transfer_event_name": EVENT, **correction}
    with site.open() as gateway:
        gateway.ledger.store.remember(requests.LISTED, "")
        poll = requests.poll_requests(gateway, datetime.now(UTC) + timedelta(hours=4))
    assert (poll.complete, len(poll.accepted)) == (True, 1)
    with site.open() as gateway:
        current = gateway.ledger.transfers.current(STUDY, PROJECT)
    assert current is not None
    assert {"transfer_name": current.participant, "transfer_event_name": current.event} == wanted
    assert site.waiting_targets() == [], "the package under the wrong name is not delivered any more"
    assert site.poll().accepted == ()


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Asia/Kolkata", "America/New_York"])
def test_a_request_is_seen_at_the_next_look_whatever_the_zone_of_redcaps_clock(
    site: Site, zone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The sandbox's clock is this machine's; ``LOCALTIMEZONE`` says another."""
    site.configure(LOCALTIMEZONE=zone)
    assert site.poll().complete
    site.receive(1)
    site.ask()

    poll = site.poll()

    assert (poll.complete, len(poll.accepted)) == (False, 1)
    now = datetime.now().astimezone()
    difference = (now.astimezone(ZoneInfo(zone)).utcoffset() or timedelta()) - (
        now.utcoffset() or timedelta()
    )
    expected = max(0, math.ceil(difference / timedelta(hours=1)))
    assert ("behind LOCALTIMEZONE" in caplog.text) == bool(expected)
    with site.open() as gateway:
        assert (gateway.ledger.store.fact(server_clock.CLOCK) or "").startswith(f"{zone}|{expected}|")


def test_a_record_that_tells_nothing_of_redcaps_clock_is_no_measure(site: Site) -> None:
    site.poll()
    site.receive(1)
    with site.open() as gateway:
        reader = RequestReader(gateway.incoming(), "UTC")
        long_after = datetime.now(UTC) + timedelta(hours=30)
        assert server_clock.behind(gateway, reader, long_after) == timedelta(0)
        gateway.ledger.store.note("1.2.3", "registered, revision 1")  # a record that REDCap does not have
        assert server_clock.behind(gateway, reader, datetime.now(UTC)) == timedelta(0)
        assert gateway.ledger.store.fact(server_clock.CLOCK) is None


def test_a_redcap_that_is_down_changes_nothing(site: Site) -> None:
    site.receive(1)
    site.ask()
    site.redcap.stop()

    with pytest.raises(RedcapUnavailable):
        site.poll()
    with site.open() as gateway:
        assert gateway.ledger.transfers.all() == []


def test_assign_refuses_before_it_writes(site: Site) -> None:
    site.receive(1)
    with site.open() as gateway:
        with pytest.raises(RequestRefused, match="pattern"):
            requests.assign(gateway, STUDY, PROJECT, "wrong", EVENT)
        with pytest.raises(UnknownStudy):
            requests.assign(gateway, "1.2.3", PROJECT, PARTICIPANT, EVENT)
        assert gateway.incoming().requests_of(STUDY) == []
        assert requests.assign(gateway, STUDY, PROJECT, PARTICIPANT, EVENT) == 1
    assert in_redcap(site).requested_date <= (datetime.now(UTC) + timedelta(minutes=1)).strftime(
        "%Y-%m-%d %H:%M"
    )


def test_two_who_assign_a_study_at_once_have_a_request_each(site: Site) -> None:
    """REDCap gives no number of an instance away by itself."""
    names = ("HEART", "LUNG", "LIVER")
    for name in names:
        site.project(name)
    site.receive(1)

    def assign(project: str) -> int:
        with site.open() as gateway:
            return requests.assign(gateway, STUDY, project, PARTICIPANT, EVENT)

    site.redcap.faults.delay(0.2, calls=12)
    with ThreadPoolExecutor(3) as pool:
        places = list(pool.map(assign, names))
    site.redcap.faults.clear()

    assert sorted(places) == [1, 2, 3]
    with site.open() as gateway:
        found = {request.instance: request.project for request in gateway.incoming().requests_of(STUDY)}
    assert found == dict(zip(places, names, strict=True))


def test_assign_before_the_registration_says_where_the_study_is(site: Site) -> None:
    site.arrive(1)
    with (
        site.open() as gateway,
        pytest.raises(RequestRefused, match=r"not registered in REDCap yet \(arriving\)"),
    ):
        requests.assign(gateway, STUDY, PROJECT, PARTICIPANT, EVENT)
