"""A request that was taken back stops everywhere; absence alone means nothing; many at once ask a person."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests as http

from fiona_dagster.errors import (
    ConsentWithdrawn,
    RedcapUnavailable,
    RequestRefused,
    Superseded,
    UsageError,
    WithdrawalAsked,
)
from fiona_dagster.ledger import Content, Transfer, Transfers
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.redcap import RedcapClient
from fiona_dagster.redcap.dictionary import Dictionary
from fiona_dagster.redcap.sandbox.setup import Setup
from fiona_dagster.transfers import delivery, execution, intake, outcome, requests, withdrawals
from fiona_dagster.transfers.leftovers import remove_leftovers
from fiona_dagster.transfers.unbooked import remove_unbooked
from tests.accounting import assert_all_accounted
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site

OTHER = "BRAIN"


def list_all(site: Site, minutes: int = 20) -> requests.Poll:
    """A poll at which the time for a complete list has come."""
    with site.open() as gateway:
        gateway.ledger.store.remember(requests.LISTED, "")
        return requests.poll_requests(gateway, datetime.now(UTC) + timedelta(minutes=minutes))


def delete_request(site: Site, instance: int = 1) -> None:
    """A person deletes the request in REDCap, the record stays."""
    form = {
        "token": site.redcap.tokens["Incoming"],
        "content": "record",
        "action": "delete",
        "records[0]": STUDY,
        "instrument": "transfers",
        "repeat_instance": str(instance),
        "format": "json",
    }
    answer = http.post(site.redcap.url, data=form, timeout=120)
    assert answer.status_code == 200, answer.text


def overwrite(site: Site, fields: dict[str, str]) -> None:
    """A person edits the request, or empties fields of it."""
    row = {
        "study_instance_uid": STUDY,
        "redcap_repeat_instrument": "transfers",
        "redcap_repeat_instance": 1,
        **fields,
    }
    form = {
        "token": site.redcap.tokens["Incoming"],
        "content": "record",
        "format": "json",
        "overwriteBehavior": "overwrite",
        "data": json.dumps([row]),
    }
    assert http.post(site.redcap.url, data=form, timeout=120).status_code == 200


def told(site: Site, instance: int = 1) -> dict[str, str]:
    with site.open() as gateway:
        rows = gateway.incoming().client.export_records(records=[STUDY])
    return next(
        row
        for row in rows
        if row["redcap_repeat_instance"] == str(instance) and row["redcap_repeat_instrument"] == "transfers"
    )


def newest(site: Site) -> Transfer:
    with site.open() as gateway:
        return gateway.ledger.transfers.all(STUDY)[-1]


def test_a_marked_request_stops_before_the_next_step_and_leaves_nothing(site: Site) -> None:
    transfer, package = site.packaged()
    assert (site.root.path / package.path).is_file()
    site.fill(1, transfer_withdrawn="1")
    poll = site.poll()
    assert [t.id for t in poll.withdrawn] == [transfer.id]
    assert newest(site).state == "withdrawn"
    assert site.waiting_targets() == []
    assert not list(site.root.outbox.glob("*/*"))
    assert not list((site.root.projects / PROJECT).glob("*"))
    with site.open() as gateway:
        with pytest.raises(Superseded):
            delivery.deliver(gateway, transfer, "archive")
        with pytest.raises(RequestRefused, match="withdrawn in REDCap"):
            execution.transfer_of(gateway, STUDY, PROJECT)
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    row = told(site)
    assert row["transfer_error_message"] == "withdrawn in REDCap; nothing more is sent"
    assert (row["transfer_date"], row["transfer_error___1"], row["transfer_error___2"]) == ("", "0", "0")
    assert site.poll().withdrawn == ()  # said once
    assert_all_accounted(site.root)
    site.fill(1, transfer_withdrawn="0", transfer_requested_date="2027-01-01 10:00")
    assert len(site.poll().accepted) == 1  # another date is another request


def test_it_is_asked_again_directly_before_sending(site: Site) -> None:
    transfer, _ = site.packaged()
    site.fill(1, transfer_withdrawn="1")  # after the last poll
    with site.open() as gateway, pytest.raises(Superseded):
        delivery.deliver(gateway, transfer, "archive")
    assert not list(site.sftp["archive"].files.glob("*.zip"))
    assert newest(site).state == "withdrawn"


def test_a_redcap_that_does_not_answer_is_asked_once_before_sending(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer, _ = site.packaged()
    redcap = json.loads(site.root.config_file.read_text())["redcap"]
    site.configure(redcap={**redcap, "timeout_seconds": 0.4})
    monkeypatch.setattr(withdrawals, "PATIENCE_SECONDS", 0.1)
    site.redcap.faults.delay(0.9, calls=20)
    before = len(site.redcap.calls)
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        assert gateway.redcap_patience > 1000
    time.sleep(1)
    assert len(site.redcap.calls) - before == 1
    assert list(site.sftp["archive"].files.glob("*.zip"))


def test_while_it_is_sent_it_stops_between_two_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer, _ = site.packaged()
    original = Transfers.begin_sending

    def then_withdrawn(self: Transfers, this: Transfer, target: str, content: Content) -> object:
        sending = original(self, this, target, content)
        with site.open() as other:
            withdrawals.withdraw(other, STUDY, PROJECT, by="somebody")
        return sending

    monkeypatch.setattr(Transfers, "begin_sending", then_withdrawn)
    with site.open() as gateway:
        with intake.study_lock(gateway, STUDY), pytest.raises(Superseded):  # as every run holds it
            delivery.deliver(gateway, transfer, "archive")
        assert list(site.root.outbox.glob("*/*"))
        withdrawals.clean(gateway)
    assert not list(site.root.outbox.glob("*/*"))
    assert not list(site.sftp["archive"].files.glob("*.zip"))
    assert "Something of it may be at: archive" in newest(site).reason
    assert newest(site).state == "withdrawn"


def test_a_package_that_a_kill_left_unbooked_goes_with_its_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    site.project(package={"deliver": ["dicom", "tgz"]})
    with monkeypatch.context() as patched:
        patched.setattr(Transfers, "record_package", killed)
        with pytest.raises(Killed):
            site.packaged()
    left = sorted(path.suffix for path in site.root.outbox.glob("*/*"))
    assert left == ["", ".json", ".md5", ".sha256", ".zip"]
    with site.open() as gateway:
        assert remove_unbooked(gateway) == 0, "the step is repeated"
    assert_all_accounted(site.root)

    site.fill(1, transfer_withdrawn="1")
    with monkeypatch.context() as patched:
        patched.setattr(withdrawals, "remove_unbooked", lambda _: 0)
        site.poll()
    assert newest(site).state == "withdrawn"
    assert len(list(site.root.outbox.glob("*/*"))) == len(left)
    assert_all_accounted(site.root)
    with site.open() as gateway:
        with intake.study_lock(gateway, STUDY):
            assert remove_unbooked(gateway) == 0, "somebody is at it"
        assert remove_leftovers(gateway) == 1
    assert not list(site.root.outbox.glob("*/*"))


def test_what_was_delivered_is_named_for_follow_up(site: Site) -> None:
    transfer, _ = site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
    site.fill(1, transfer_withdrawn="1")
    site.poll()
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        (sending,) = gateway.ledger.sendings.at(STUDY, PROJECT)
    assert sending.state == "proven"
    row = told(site)
    assert "Something of it may be at: archive" in row["transfer_error_message"]
    assert row["transfer_withdrawn"] == "1"
    assert PARTICIPANT not in row["transfer_error_message"]
    assert_all_accounted(site.root)


def test_absence_means_nothing_until_two_lists_and_the_log_agree(site: Site) -> None:
    site.packaged()
    delete_request(site)
    first = list_all(site)
    assert first.complete
    assert (first.withdrawn, newest(site).state) == ((), "packaged")
    assert len(list_all(site, 40).withdrawn) == 1
    assert newest(site).state == "withdrawn"
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)  # no record to tell: no fault


def test_a_restored_backup_withdraws_nothing(site: Site) -> None:
    """Lists lack the request, but the log knows of no deletion; and when it is back, all is as before."""
    site.receive(1)
    backup = site.redcap.backup()
    site.ask()
    site.poll()
    later = site.redcap.backup()
    site.redcap.restore(backup)
    for _ in range(4):
        assert list_all(site).withdrawn == ()
    assert newest(site).state == "accepted"
    site.redcap.restore(later)
    list_all(site)
    with site.open() as gateway:
        assert gateway.ledger.withdrawals.all() == []


def test_what_a_restored_backup_lost_of_a_withdrawal_is_told_again(site: Site) -> None:
    """The request was delivered before: REDCap shows that, and the mark that a person set again."""
    transfer, _ = site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
    site.fill(1, transfer_date="2026-11-25 10:00")
    backup = site.redcap.backup()
    site.fill(1, transfer_withdrawn="1")
    site.poll()
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    message = told(site)["transfer_error_message"]
    assert "Something of it may be at" in message

    site.redcap.restore(backup)
    site.fill(1, transfer_withdrawn="1")
    list_all(site)
    with site.open() as gateway:
        assert gateway.ledger.work.get(f"status:{STUDY}:{PROJECT}") is not None
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    assert told(site)["transfer_error_message"] == message
    list_all(site, 40)
    with site.open() as gateway:
        assert gateway.ledger.work.get(f"status:{STUDY}:{PROJECT}") is None


def test_an_emptied_request_counts_as_deleted(site: Site) -> None:
    site.receive(1)
    site.ask()
    site.poll()
    overwrite(site, {"transfer_requested_date": ""})
    assert list_all(site).withdrawn == ()
    assert len(list_all(site).withdrawn) == 1


def asking(site: Site) -> dict[str, Any]:
    """A configuration that lets a person decide about each withdrawal."""
    return {
        "url": site.redcap.url,
        "token_file": "secrets/redcap-token",
        "calls_per_minute": 6000,
        "withdrawals_at_once": 0,
    }


@pytest.fixture
def asked(site: Site) -> Site:
    """More withdrawals at once than allowed (none at all)."""
    site.configure(redcap=asking(site))
    site.packaged()
    site.fill(1, transfer_withdrawn="1")
    poll = site.poll()
    assert (poll.withdrawn, poll.asked) == ((), 1)
    return site


def test_many_at_once_ask_a_person_and_nothing_is_sent_meanwhile(asked: Site) -> None:
    with asked.open() as gateway:
        with pytest.raises(WithdrawalAsked, match="fiona withdrawals"):
            delivery.deliver(gateway, asked.transfer(), "archive")
        assert not list(asked.sftp["archive"].files.glob("*.zip"))
        withdrawals.decide(gateway, None, confirm=True, by="somebody")
    assert newest(asked).state == "withdrawn"
    assert not list(asked.root.outbox.glob("*/*"))


def test_a_request_that_stands_goes_on(asked: Site) -> None:
    with asked.open() as gateway:
        withdrawals.decide(gateway, STUDY, confirm=False, by="somebody")
        assert asked.poll().asked == 0  # the mark still stands in REDCap; somebody decided
        proof, _ = delivery.deliver(gateway, asked.transfer(), "archive")
        assert proof is not None
        with pytest.raises(UsageError):
            withdrawals.decide(gateway, None, confirm=True, by="somebody")


def test_a_withdrawn_consent_stops_all_and_lets_nothing_new_in(site: Site) -> None:
    transfer, _ = site.packaged()
    with site.open() as gateway:
        stopped = withdrawals.withdraw_consent(gateway, PROJECT, PARTICIPANT, by="somebody")
        assert [t.id for t in stopped] == [transfer.id]
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    assert told(site)["transfer_withdrawn"] == "1"
    site.fill(1, transfer_withdrawn="0", transfer_requested_date="2027-01-01 10:00")
    (refused,) = site.poll().refused
    assert "consent" in refused.reason
    assert PARTICIPANT not in refused.reason
    with site.open() as gateway, pytest.raises(ConsentWithdrawn):
        gateway.ledger.withdrawals.require_consent(transfer)
    with site.open() as gateway, pytest.raises(ConsentWithdrawn):  # `fiona assign`: nothing is written
        requests.assign(gateway, STUDY, PROJECT, PARTICIPANT, EVENT)
    site.ask(participant="H002")  # somebody else is not concerned
    assert len(site.poll().accepted) == 1
    with site.open() as gateway:
        assert gateway.ledger.withdrawals.give_consent_again(PROJECT, PARTICIPANT)


def test_a_lost_ledger_remembers_withdrawals(site: Site) -> None:
    site.packaged()
    with site.open() as gateway:
        withdrawals.withdraw_consent(gateway, PROJECT, PARTICIPANT, by="somebody")
        before = gateway.ledger.withdrawals.all()
    assert rebuild(site.root).problems == []
    with site.open() as gateway:
        assert gateway.ledger.withdrawals.all() == before
        assert gateway.ledger.withdrawals.consent_withdrawn(PROJECT, PARTICIPANT)
    assert newest(site).state == "withdrawn"


def test_an_incoming_without_the_field_works_unchanged(site: Site) -> None:
    """An existing site's dictionary: requests go on, withdrawing at the gateway works."""
    rows = [
        row
        for row in site.redcap.store.project("Incoming").dictionary.rows()
        if row["field_name"] != "transfer_withdrawn"
    ]
    project = site.redcap.store.project("Incoming")
    site.redcap.store.change_project("Incoming", Dictionary.from_rows(rows), project.setup)
    site.packaged()
    with site.open() as gateway:
        assert not gateway.incoming().knows_withdrawn
        withdrawals.withdraw(gateway, STUDY, PROJECT, by="somebody")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        assert gateway.ledger.work.get(f"status:{STUDY}:{PROJECT}") is None
    site.poll()
    with site.open() as gateway:
        assert gateway.ledger.work.get(f"status:{STUDY}:{PROJECT}") is None  # not renewed for ever
    assert told(site)["transfer_error_message"].startswith("withdrawn at the gateway")


def test_a_request_withdrawn_before_it_was_taken_up_is_left_alone(site: Site) -> None:
    site.receive(1)
    site.ask()
    site.fill(1, transfer_withdrawn="1")
    poll = site.poll()
    assert (poll.accepted, poll.refused, poll.withdrawn) == ((), (), ())


def test_changes_are_read_between_two_lists(site: Site) -> None:
    site.receive(1)
    assert site.poll().complete
    site.ask()
    poll = site.poll()
    assert (poll.complete, len(poll.accepted)) == (False, 1)


def held(site: Site, transfer: Transfer) -> None:
    """The transfer goes no further, and nothing that was made of it is left to be sent."""
    with site.open() as gateway:
        (now,) = (each for each in gateway.ledger.transfers.all(STUDY) if each.id == transfer.id)
        assert now.state in ("stopped", "withdrawn"), now
        assert gateway.ledger.transfers.current(STUDY, PROJECT) is None
        with pytest.raises(Superseded):
            delivery.deliver(gateway, transfer, "archive")
    assert site.waiting_targets() == []
    assert not list(site.sftp["archive"].files.glob("*.zip"))


@pytest.mark.parametrize("way", ["edited", "deleted, and its number given out again"])
@pytest.mark.parametrize("known", [True, False], ids=["taken up", "refused"])
def test_a_request_that_names_another_project_and_date_stops_the_first(
    site: Site, way: str, known: bool
) -> None:
    """The number of the instance is the same; nobody asks for the first project any more."""
    if known:
        site.project(OTHER)
    transfer, package = site.packaged()
    if way != "edited":
        delete_request(site)
    words = {"transfer_name": PARTICIPANT, "transfer_event_name": "Baseline"}
    date = (datetime.now(UTC) + timedelta(minutes=2)).strftime("%Y-%m-%d %H:%M")
    site.fill(1, transfer_requested_date=date, transfer_project_name=OTHER, **words)
    poll = site.poll()
    assert [t.project for t in (poll.accepted if known else poll.refused)] == [OTHER]
    held(site, transfer)
    assert not (site.root.path / package.path).exists()
    with site.open() as gateway:  # what is to be said of the first does not go into the other's record
        gateway.ledger.transfers.outcome_due(transfer)
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    assert told(site)["transfer_error_message"] == ""
    assert_all_accounted(site.root)


@pytest.mark.parametrize("repeats", [True, False], ids=["repeating", "room for one request"])
def test_where_the_first_project_has_it_already_is_told(site: Site, repeats: bool) -> None:
    if not repeats:
        project = site.redcap.store.project("Incoming")
        site.redcap.store.change_project("Incoming", project.dictionary, Setup.classic(["series"]))
    site.project(OTHER)
    transfer, _ = site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        row = {"study_instance_uid": STUDY, "transfer_project_name": OTHER}
        if repeats:
            row |= {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": "1"}
        gateway.incoming().client.import_records([{**row, "transfer_requested_date": "2099-01-01 10:00"}])
    assert [t.project for t in site.poll().accepted] == [OTHER]
    with site.open() as gateway:
        places = [(place["project"], place["target"]) for place in withdrawals.follow_up(gateway)]
        assert places == ([(PROJECT, "archive")] if repeats else []), "there is no other place to ask in"
        assert gateway.ledger.transfers.new_revision(STUDY, 2)[0].project == OTHER, "no late images either"


@pytest.mark.parametrize(
    "edit",
    [{"transfer_name": "nobody"}, {"transfer_name": ""}, {"transfer_project_name": ""}],
    ids=["refused", "half filled in", "emptied"],
)
def test_older_words_do_not_stay_in_force(site: Site, edit: dict[str, str]) -> None:
    """Whatever becomes of what a request says now. What is undone is asked for again, under its old date."""
    transfer, _ = site.packaged()
    before = told(site)
    overwrite(site, edit)
    poll = list_all(site)
    assert poll.accepted == ()
    held(site, transfer)
    overwrite(site, {name: before[name] for name in edit})
    (again,) = list_all(site, 40).accepted
    assert (again.participant, again.requested_date) == (PARTICIPANT, transfer.requested_date)
    assert list_all(site, 60).accepted == ()


def test_a_change_is_seen_directly_before_sending(site: Site) -> None:
    transfer, _ = site.packaged()
    site.fill(1, transfer_name="H002")  # after the last poll
    with site.open() as gateway, pytest.raises(Superseded):
        delivery.deliver(gateway, transfer, "archive")
    held(site, transfer)
    assert [t.participant for t in site.poll().accepted] == ["H002"]


def test_a_mark_counts_after_a_person_said_that_a_missing_request_stands(site: Site) -> None:
    site.configure(redcap=asking(site))
    transfer, _ = site.packaged()
    before = told(site)
    overwrite(site, {"transfer_requested_date": ""})
    list_all(site)
    assert list_all(site, 40).asked == 1
    with site.open() as gateway:
        withdrawals.decide(gateway, STUDY, confirm=False, by="somebody")
        again = gateway.ledger.transfers.current(STUDY, PROJECT)
    assert again is not None, "it goes on, although REDCap lacks it"
    assert (list_all(site, 60).asked, newest(site).state) == (0, "accepted")
    overwrite(site, {"transfer_requested_date": before["transfer_requested_date"]})
    site.fill(1, transfer_withdrawn="1")
    assert list_all(site, 80).asked == 1
    with site.open() as gateway, pytest.raises(WithdrawalAsked):
        gateway.ledger.transfers.require_wanted(newest(site))
    assert transfer.id != again.id


def test_a_mark_that_is_set_again_counts_again(asked: Site) -> None:
    with asked.open() as gateway:
        withdrawals.decide(gateway, STUDY, confirm=False, by="somebody")
    asked.fill(1, transfer_withdrawn="0")
    assert asked.poll().asked == 0
    asked.fill(1, transfer_withdrawn="1")
    assert asked.poll().asked == 1


def test_a_mark_concerns_the_project_that_the_request_names(site: Site) -> None:
    """What the place said before is stopped; it is not withdrawn by a mark on something else."""
    site.project(OTHER)
    transfer, _ = site.packaged()
    site.fill(1, transfer_project_name=OTHER, transfer_withdrawn="1")
    assert site.poll().withdrawn == ()
    held(site, transfer)
    assert newest(site).state == "stopped"


def test_a_corrected_request_can_be_withdrawn_under_the_same_date(site: Site) -> None:
    site.packaged()
    site.fill(1, transfer_withdrawn="1")
    assert len(site.poll().withdrawn) == 1
    site.fill(1, transfer_withdrawn="0", transfer_name="H002")
    assert len(site.poll().accepted) == 1
    site.fill(1, transfer_withdrawn="1")
    assert len(site.poll().withdrawn) == 1
    assert newest(site).state == "withdrawn"


def test_a_field_that_redcap_leaves_out_is_not_an_empty_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does for a user who may not export identifiers: nothing is stopped, and it is said."""
    transfer, _ = site.packaged()
    export = RedcapClient.export_records

    def without(self: RedcapClient, **wanted: Any) -> list[dict[str, str]]:
        rows = export(self, **wanted)
        return [{name: value for name, value in row.items() if name != "transfer_name"} for row in rows]

    monkeypatch.setattr(RedcapClient, "export_records", without)
    for look in (site.poll, lambda: list_all(site)):
        with pytest.raises(RedcapUnavailable, match=r"left transfer_name out.*Full Data Set"):
            look()
    assert newest(site) == transfer
