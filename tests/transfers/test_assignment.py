"""Held studies that are assigned without a person, end to end against the sandbox; and those that are not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from fiona_dagster.cli.status import _print_overview, _print_study
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.sensors import POLLED, transfer_requests_sensor
from fiona_dagster.errors import (
    ConfigurationError,
    OptOutUnavailable,
    RedcapRejected,
    RedcapUnavailable,
    RequestRefused,
    ResidualIdentifier,
    Superseded,
)
from fiona_dagster.ledger import Request, StudyAssignment, Transfer, person_of, utc_after
from fiona_dagster.ledger.records import records_folder
from fiona_dagster.operations.overview import overview, study_detail
from fiona_dagster.redcap import IncomingProject, NewRequest
from fiona_dagster.redcap.silence import Silence
from fiona_dagster.transfers import assignment, autoid, delivery, outage, outcome, projects, rules
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site
from tests.tables import couple, enter_project, own_redcap, read, rule, use_tables, write

REQUEST = {
    "transfer_requested_date": "2026-11-25 10:00",
    "transfer_project_name": PROJECT,
    "transfer_name": PARTICIPANT,
    "transfer_event_name": EVENT,
}
PATIENT_ID, ACCESSION = "ZX83015577", "ACC4455667"


def ago(days: float = 0, minutes: float = 0) -> str:
    return (datetime.now(UTC) - timedelta(days=days, minutes=minutes)).strftime("%Y-%m-%d %H:%M")


def look(site: Site) -> StudyAssignment:
    """One round as the sensor does it; what it made of the study."""
    with site.open() as gateway:
        projects.refresh(gateway)
        assignment.assign_held(gateway)
        found = gateway.ledger.assignments.of(STUDY)
        assert found is not None
        for word in (*PLANTED, PARTICIPANT):
            assert word not in found.reason
            assert word not in str(gateway.ledger.store.history(STUDY))
        return found


def asked(site: Site) -> list[tuple[str, str, str]]:
    with site.open() as gateway:
        return [(r.project, r.participant, r.event) for r in gateway.incoming().requests_of(STUDY)]


@pytest.fixture
def held(site: Site) -> Site:
    """The study is held; all tables are configured and empty; the project takes hospital numbers."""
    site.project(participant_pattern="H[0-9]{3}|ZX[0-9]+", participant_may_be_identifier=True)
    use_tables(site, receiver={"reserve_mb": 0, "allowed_callers": ["CT1"]})
    site.receive(1)
    site.poll()  # the first contact: there is nothing to adopt
    with site.open() as gateway, gateway.ledger.store.writing() as db:
        db.execute("UPDATE studies SET calling_ae = 'CT1', called_ae = 'HEART_IN'")
        db.execute("DELETE FROM senders")
    return site


def test_an_entry_of_the_coupling_list_takes_a_study_all_the_way(held: Site) -> None:
    couple(held, 0, ACCESSION, date=ago(days=1))
    couple(held, 1, "ANOTHER", participant="H009", date=ago(days=1))

    found = look(held)

    assert (found.state, found.way, found.project) == ("asked", "coupling", PROJECT)
    assert asked(held) == [(PROJECT, PARTICIPANT, EVENT)]
    assert len(held.poll().accepted) == 1
    held.make_package()
    with held.open() as gateway:
        delivery.deliver(gateway, held.transfer(), "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        (request,) = gateway.incoming().requests_of(STUDY)
    assert request.transfer_date
    assert request.mapped_uid
    look(held)
    assert len(asked(held)) == 1, "once"


def test_a_request_that_is_there_comes_first(held: Site) -> None:
    couple(held, 0, ACCESSION, date=ago(minutes=5), participant="H002")
    held.fill(1, transfer_project_name=PROJECT)  # somebody is at it

    assert look(held).state == "requested"
    assert asked(held) == [(PROJECT, "", "")]


def test_a_later_entry_for_another_project_is_a_request_of_its_own(held: Site) -> None:
    """The original ignored coupling entries once a request was there."""
    held.project("LUNG", participant_pattern="L[0-9]+", events=[EVENT])
    held.ask()
    assert len(held.poll().accepted) == 1
    couple(held, 0, ACCESSION, project="LUNG", participant="L1", date=ago(minutes=10))
    assert look(held).state == "requested", "it was there before the request"

    couple(held, 1, ACCESSION, project="LUNG", participant="L1", date=ago(minutes=-2))
    assert look(held).way == "coupling"
    assert asked(held) == [(PROJECT, PARTICIPANT, EVENT), ("LUNG", "L1", EVENT)]


def test_an_entry_that_the_project_does_not_take_is_refused_in_its_record(held: Site) -> None:
    couple(held, 0, ACCESSION, participant="X1", date=ago())
    look(held)
    (refused,) = held.poll().refused
    assert "does not match the pattern" in refused.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"routing_incoming_aetitle": "HEART_IN"},
        {
            "routing_sending_aetitle": "CT1",
            "routing_allowed_patientid": "ZX",
            "routing_allowed_patientname": "Quis",
        },
    ],
    ids=["addressed", "sender and patterns"],
)
def test_a_routing_rule_names_the_participant_by_its_patient_id(held: Site, fields: dict[str, str]) -> None:
    rule(held, **fields)

    assert look(held).way == "routing"
    assert asked(held) == [(PROJECT, PATIENT_ID, EVENT)]
    assert len(held.poll().accepted) == 1


def test_the_patient_id_counts_from_trusted_senders_only_and_must_fit_the_project(held: Site) -> None:
    rule(held, routing_incoming_aetitle="HEART_IN")
    use_tables(held, redcap={"trusted_senders": ["MR1"]})
    assert "not trusted" in look(held).reason

    use_tables(held, redcap={"trusted_senders": ["CT1"]})
    held.project(participant_pattern="H[0-9]{3}")
    assert "no participant id of its project" in look(held).reason
    assert asked(held) == []


def test_what_a_trusted_sender_s_patient_id_says_goes_all_the_way(held: Site) -> None:
    """One word, in redcap.trusted_senders; without it the study waits before anything is de-identified."""
    held.project(participant_pattern="ZX[0-9]+")
    rule(held, routing_incoming_aetitle="HEART_IN")
    assert "name the sender in redcap.trusted_senders" in look(held).reason

    use_tables(held, redcap={"trusted_senders": ["CT1"]})
    assert look(held).way == "routing"
    assert len(held.poll().accepted) == 1
    held.make_package()
    assert held.transfer().participant == PATIENT_ID

    use_tables(held, redcap={"trusted_senders": ["MR1"]})  # a mistake: what is not sent yet stays here
    with held.open() as gateway, pytest.raises(Superseded):
        delivery.deliver(gateway, held.transfer(), "archive")
    with held.open() as gateway:
        assert gateway.ledger.transfers.current(STUDY, PROJECT) is not None
    with pytest.raises(ResidualIdentifier):
        held.make_package()


@pytest.mark.parametrize("way", ["person", "coupling"])
def test_only_a_routing_rule_makes_a_participant_of_a_hospital_s_number(held: Site, way: str) -> None:
    """A person who types the hospital's number by mistake is refused, trusted sender or not."""
    held.project(participant_pattern="ZX[0-9]+")
    use_tables(held, redcap={"trusted_senders": ["CT1"]})
    if way == "person":
        held.ask(PATIENT_ID)
    else:
        couple(held, 0, ACCESSION, participant=PATIENT_ID, date=ago())
        assert look(held).way == "coupling"
    assert len(held.poll().accepted) == 1

    with pytest.raises(ResidualIdentifier, match="is the assigned participant id"):
        held.make_package()


def test_a_request_of_routing_stays_one_when_it_is_asked_again(
    held: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REDCap's answer to the write is lost, and a person asks for the same again; a second id ends it."""
    held.project(participant_pattern="ZX[0-9]+")
    use_tables(held, redcap={"trusted_senders": ["CT1"]})
    rule(held, routing_incoming_aetitle="HEART_IN")
    write_requests = IncomingProject.write_requests

    def and_lose_the_answer(self: IncomingProject, *values: Any, **named: Any) -> frozenset[str]:
        write_requests(self, *values, **named)
        raise RedcapUnavailable("lost")

    with monkeypatch.context() as patched:
        patched.setattr(IncomingProject, "write_requests", and_lose_the_answer)
        with pytest.raises(RedcapUnavailable):
            look(held)
    assert len(held.poll().accepted) == 1
    held.make_package()
    assert held.transfer().state == "packaged"
    record = json.loads((records_folder(held.root) / f"{STUDY}.json").read_bytes())
    assert [row["project"] for row in record["routed"]] == [PROJECT], "a lost ledger knows it again"

    held.fill(1, transfer_requested_date=ago(minutes=-5))
    assert len(held.poll().accepted) == 1
    held.make_package()

    held.arrive(2, PatientID="ZX1")
    with held.open() as gateway:
        gateway.ledger.assignments.record_person(STUDY, person_of([PATIENT_ID, "ZX1"]))
        assert rules.settings_of(gateway, held.transfer()).trusted_senders == ()


def test_what_routing_wrote_is_known_by_its_place_and_words(held: Site) -> None:
    def transfer(instance: int, participant: str, date: str = "2026-11-25 10:00") -> Transfer:
        return ledger.transfers.accept(Request(STUDY, PROJECT, instance, date, participant, EVENT), 1)

    with held.open() as gateway:
        ledger = gateway.ledger
        ledger.assignments.record_routed([(STUDY, PROJECT)], "2026-11-25 10:00")
        was_routed = ledger.transfers.was_routed
        assert was_routed(transfer(1, "ZX1"))
        assert was_routed(transfer(1, "ZX1", "2026-11-26 10:00")), "the same, asked again"
        assert not was_routed(transfer(1, "ZX2", "2026-11-27 10:00")), "a person corrected it"
        assert not was_routed(transfer(2, "ZX1", "2026-11-27 10:00")), "a person's own"


def test_automatic_ids_are_drawn_once_for_a_person(held: Site) -> None:
    enter_project(
        held,
        project_patient_naming="H[0-9]{3}",
        project_use_autoid="1",
        project_autoid_aetitle="HEART_IN",
    )

    assert look(held).way == "autoid"

    ((project, participant, event),) = asked(held)
    assert (project, event) == (PROJECT, EVENT)
    (row,) = read(held.redcap, "AutoID")
    assert (row["record_id"], row["autoid_value"], row["autoid_method"]) == ("0", participant, "1")
    assert PATIENT_ID not in str(row)
    assert len(held.poll().accepted) == 1

    with held.open() as gateway:  # the same person comes again
        person = gateway.ledger.assignments.person(STUDY)
        client, (entry,) = gateway.table("AutoID"), projects.entries(gateway)
        assert client is not None
        assert person is not None
        assert autoid.participants(gateway, client, entry, [person]) == {person: participant}
    assert len(read(held.redcap, "AutoID")) == 1


def test_the_sensor_assigns_and_takes_up_at_once_and_shows_it_on_the_studys_page(
    held: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    couple(held, 0, ACCESSION, date=ago())

    @dg.job
    def nothing() -> None: ...

    sensor = transfer_requests_sensor({PROJECT: ["archive"]}, [nothing])
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance)
        result = sensor(context, gateway=GatewayResource(data_root=str(held.root.path)))
    assert isinstance(result, dg.SensorResult)
    (observation,) = result.asset_events
    assert (observation.partition, observation.asset_key.path) == (STUDY, ["incoming_record"])
    shown = {key: value.value for key, value in observation.metadata.items()}
    assert shown == {
        "assignment": "a request was written to REDCap",
        "by": "coupling list",
        "project": PROJECT,
    }
    (run,) = result.run_requests or ()
    assert (run.job_name, run.partition_key) == (f"transfer_{PROJECT}", STUDY)

    document = study_detail(held.root, STUDY)
    assert document["assignment"]["state"] == "asked"
    for word in PLANTED:
        assert word not in str(document["assignment"])
    document["transfers"] = []
    _print_study(document)
    assert f"assigned to project {PROJECT} (coupling)" in capsys.readouterr().out


def test_a_redcap_that_does_not_answer_keeps_no_delivery_waiting(
    held: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that lasts too long is ended by Dagster, and what it was to launch is not launched."""
    held.ask()
    assert len(held.poll().accepted) == 1
    use_tables(held, redcap={"timeout_seconds": 0.4, "poll_seconds": 60})
    monkeypatch.setattr("fiona_dagster.defs.sensors.PATIENCE_SECONDS", 0.1)
    with held.open() as gateway:
        gateway.ledger.store.remember(POLLED, ago(minutes=5) + "+00:00")
    held.redcap.faults.delay(0.9, calls=40)
    held.redcap.calls.clear()

    @dg.job
    def nothing() -> None: ...

    sensor = transfer_requests_sensor({PROJECT: ["archive"]}, [nothing])
    for _ in range(2):
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance)
            result = sensor(context, gateway=GatewayResource(data_root=str(held.root.path)))
        assert isinstance(result, dg.SensorResult)
        assert [run.partition_key for run in result.run_requests or ()] == [STUDY]
        with held.open() as gateway, gateway.ledger.store.writing() as db:
            db.execute("UPDATE work SET requested = NULL")
    time.sleep(1)
    assert len(held.redcap.calls) == 1, "one that hung, and none in the next tick"


def fall_silent(site: Site) -> None:
    """A call of another process was not answered."""
    file = site.root.redcap_calls_file.with_name("redcap-silence")
    Silence(site.redcap.url, file, probe_seconds=60).unanswered()
    site.redcap.calls.clear()


def test_write_backs_wait_for_a_silent_redcap_and_go_on_at_once_when_it_speaks(
    held: Site,
) -> None:
    """Each has its own time of waiting, up to an hour; meanwhile one tries, since a poll may fail alone."""
    with held.open() as gateway:
        for number in range(5):
            gateway.ledger.work.need("status", f"1.2.{number}", 1, project=PROJECT)
    sensor = transfer_requests_sensor({PROJECT: ["archive"]}, [dg.define_asset_job("nothing")])

    def tick() -> list[str]:
        with held.open() as gateway, gateway.ledger.store.writing() as db:
            gateway.ledger.store.remember(POLLED, ago(minutes=5) + "+00:00")
            db.execute("UPDATE work SET requested = NULL")
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance)
            result = sensor(context, gateway=GatewayResource(data_root=str(held.root.path)))
        assert isinstance(result, dg.SensorResult)
        return [str(run.partition_key) for run in result.run_requests or ()]

    fall_silent(held)
    assert len(tick()) == 1
    assert len(tick()) == 0, "one a minute"
    with held.open() as gateway:
        gateway.ledger.store.remember("redcap_tried:status", utc_after(-outage.TRY_SECONDS - 1))
    assert len(tick()) == 1
    with held.open() as gateway, gateway.ledger.store.writing():
        for number in range(5):
            for _ in range(9):
                gateway.ledger.work.failed(f"status:1.2.{number}:{PROJECT}", "no answer", permanent=False)
    assert tick() == []

    held.root.redcap_calls_file.with_name("redcap-silence").unlink()
    assert len(tick()) == 5


def test_a_token_that_was_renewed_lets_everything_go_on(
    held: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expired token refuses every call; nobody tells FIONA when a new one lies in its place."""
    held.ask(project="NOSUCH")
    assert len(held.poll().refused) == 1
    token = held.root.secrets / "redcap-token"
    good = token.read_text()
    token.write_text("0" * 32)
    sensor = transfer_requests_sensor({PROJECT: ["archive"]}, [dg.define_asset_job("nothing")])

    def tick() -> None:
        with held.open() as gateway:
            gateway.ledger.store.remember(POLLED, ago(minutes=5) + "+00:00")
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance)
            sensor(context, gateway=GatewayResource(data_root=str(held.root.path)))

    tick()
    with held.open() as gateway:
        (work,) = gateway.ledger.work.open(STUDY)
        assert (work.blocked, work.attempt) == (False, 2)
        assert "do not have permissions to use the API" in work.error
        assert gateway.ledger.work.due("status") == []
    document = overview(held.root)
    assert "do not have permissions" in document["redcap_down"]["why"]
    document["dagster"] = {}
    _print_overview(document)
    said = " ".join(capsys.readouterr().out.split())
    assert "REDCap: no usable answer since" in said

    token.write_text(good)
    tick()
    with held.open() as gateway:
        assert gateway.ledger.work.open(STUDY) == []
    assert overview(held.root)["redcap_down"] is None


def test_a_delivery_waits_for_no_redcap_that_another_one_found_silent(held: Site) -> None:
    """It asks once more whether its request still stands; where it can't, the last look counts."""
    held.ask()
    assert len(held.poll().accepted) == 1
    held.make_package()
    fall_silent(held)
    with held.open() as gateway:
        assert delivery.deliver(gateway, held.transfer(), "archive")[0] is not None
        with pytest.raises(RedcapUnavailable, match="does not answer since"):
            outcome.write_outcomes(gateway, STUDY, PROJECT)
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["status"]
    assert list(held.redcap.calls) == []


def test_a_pattern_that_is_used_up_waits_for_a_person(held: Site) -> None:
    enter_project(
        held, project_patient_naming="H00[12]", project_use_autoid="1", project_autoid_aetitle="HEART_IN"
    )
    for number, value in enumerate(("H001", "H002")):
        write(
            held.redcap,
            "AutoID",
            {
                "record_id": str(number),
                "autoid_project_name": PROJECT,
                "autoid_hash": f"somebody {number}",
                "autoid_value": value,
            },
        )
    assert "no free participant id" in look(held).reason
    assert asked(held) == []


@pytest.mark.parametrize(
    "pattern", ["H[0-9", "(?>H[0-9]{3})", "H[0-9]{200}", "((((a+)+)+)+)+", "(?:){99999999}H"]
)
def test_a_pattern_that_no_id_can_be_drawn_from_waits_for_a_person(held: Site, pattern: str) -> None:
    enter_project(
        held, project_patient_naming=pattern, project_use_autoid="1", project_autoid_aetitle="HEART_IN"
    )
    assert "no participant id can be drawn from the pattern" in look(held).reason
    assert asked(held) == []


def test_a_pattern_without_end_holds_its_study_and_no_other(held: Site) -> None:
    """Of a routing rule, and of a project: named in the history and in REDCap's record."""
    slow = "(Z|ZZ)*$"
    with held.open() as gateway:
        gateway.ledger.assignments.record_person(STUDY, person_of(["Z" * 60 + "!"]))
    rule(held, routing_incoming_aetitle="HEART_IN", routing_allowed_patientid=slow)
    found = look(held)
    assert (found.state, found.project) == ("waiting", "")
    assert (
        "routing rule HEART: routing_allowed_patientid: the regular expression takes too long" in found.reason
    )
    assert found.seen, "it is not tried again before something changes"

    held.project("LUNG", participant_pattern="L[0-9]+", events=[EVENT])
    enter_project(held, project_patient_naming=slow)
    held.project(participant_pattern="Z.*")
    look(held)
    held.ask("Z" * 60 + "!")
    held.ask("L1", project="LUNG")
    poll = held.poll()
    assert [transfer.project for transfer in poll.accepted] == ["LUNG"]
    (refused,) = poll.refused
    assert (
        "the pattern of project HEART in DataTransferProjects: the regular expression takes" in refused.reason
    )


def test_a_project_that_is_set_up_wrongly_holds_up_no_other(held: Site) -> None:
    """A token or pattern that somebody mistyped in the table is that project's trouble alone."""
    held.project("LUNG", participant_pattern="L[0-9]+", events=[EVENT])
    enter_project(held, project_token="mistyped", project_use_autoid="1", project_autoid_aetitle="HEART_IN")
    found = look(held)
    assert (found.state, found.seen) == ("waiting", "")
    assert "can't make participant ids now" in found.reason
    assert "mistyped" not in found.reason

    held.ask()
    held.ask("L1", project="LUNG")
    poll = held.poll()
    assert [transfer.project for transfer in poll.accepted] == ["LUNG"]
    assert (poll.postponed, poll.waiting) == (True, 1)

    enter_project(held, project_patient_naming="H[", project_use_autoid="0")
    look(held)
    held.fill(1, transfer_requested_date="2031-01-01 10:00")
    (refused,) = held.poll().refused
    assert "no regular expression" in refused.reason


def test_what_redcap_does_not_take_of_one_study_holds_up_no_other(
    held: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.arrive(1, StudyInstanceUID=f"{STUDY}.7", AccessionNumber="ACC2", SeriesInstanceUID=f"{STUDY}.7.1")
    held.complete()
    held.register(f"{STUDY}.7")
    couple(held, 0, ACCESSION, date=ago())
    couple(held, 1, "ACC2", participant="H002", date=ago())
    write_requests = IncomingProject.write_requests

    def picky(
        incoming: IncomingProject, wanted: Sequence[NewRequest], now: datetime, *, zone: str
    ) -> frozenset[str]:
        if any(request.study == STUDY for request in wanted):
            raise RedcapRejected("REDCap call content=record: refused", 400)
        return write_requests(incoming, wanted, now, zone=zone)

    with monkeypatch.context() as patched:
        patched.setattr(IncomingProject, "write_requests", picky)
        assert "REDCap took no request" in look(held).reason
    assert asked(held) == []
    with held.open() as gateway:
        assert [r.participant for r in gateway.incoming().requests_of(f"{STUDY}.7")] == ["H002"]
    assert look(held).state == "asked", "the next round tries again"


def test_the_order_is_coupling_list_routing_automatic_ids(held: Site) -> None:
    enter_project(held, project_use_autoid="1", project_autoid_aetitle="HEART_IN")
    rule(held, routing_incoming_aetitle="HEART_IN")
    couple(held, 0, ACCESSION, date=ago())
    assert look(held).way == "coupling"
    assert read(held.redcap, "AutoID") == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"project_active": "0"}, "is not active in REDCap's DataTransferProjects"),
        ({"project_rec_end_date": "2020-01-31"}, "ended on 2020-01-31"),
        ({"project_patient_naming": "H9[0-9]{2}"}, "pattern of project HEART in DataTransferProjects"),
    ],
    ids=["inactive", "expired", "pattern"],
)
def test_what_the_table_of_projects_forbids_is_refused_also_before_sending(
    held: Site, fields: dict[str, str], reason: str
) -> None:
    enter_project(held)
    look(held)
    held.ask()
    assert len(held.poll().accepted) == 1
    held.make_package()

    enter_project(held, **fields)
    look(held)
    held.redcap.stop()  # what was read last counts

    with held.open() as gateway, pytest.raises(RequestRefused, match=reason):
        delivery.deliver(gateway, held.transfer(), "archive")


def test_the_import_filter_of_the_table_of_projects_counts(held: Site) -> None:
    """Also while packages wait: it is a rule of the project. The filter in the project's file goes first."""
    enter_project(held, project_import_rule_1_tag="0008,1030")
    look(held)
    with held.open() as gateway:
        assert gateway.project(PROJECT).import_rule() is None, "one field alone is no filter"
    held.ask()
    assert len(held.poll().accepted) == 1
    before, _ = held.make_package()
    rule = {
        "project_import_rule_1_tag": "0008,1030",
        "project_import_rule_1_regexp": r"(?P<what>Heart)",
    }
    enter_project(held, **rule)
    look(held)
    with held.open() as gateway:
        assert gateway.project(PROJECT).project_import_rule_1_regexp == rule["project_import_rule_1_regexp"]
        assert gateway.project(PROJECT).import_rule() is not None
        assert delivery.settle(gateway).restarted == 1
    assert held.transfer().id != before.id

    held.project(project_import_rule_1_tag="0008,1030", project_import_rule_1_regexp="(?P<own>x)")
    with held.open() as gateway:
        assert gateway.project(PROJECT).project_import_rule_1_regexp == "(?P<own>x)"

    held.project()
    enter_project(held, **{**rule, "project_import_rule_1_regexp": "no group"})
    look(held)
    with held.open() as gateway:
        with pytest.raises(ConfigurationError, match=r"DataTransferProjects.*group"):
            gateway.project(PROJECT)
        (work,) = gateway.ledger.work.due("transfer")
        gateway.ledger.work.failed(work.key, "the filter is wrong", permanent=True)
    look(held)
    with held.open() as gateway:
        assert gateway.ledger.work.due("transfer") == []
    enter_project(held, **rule)
    look(held)
    with held.open() as gateway:
        assert [due.key for due in gateway.ledger.work.due("transfer")] == [work.key]


def test_events_are_those_of_the_projects_own_redcap(held: Site) -> None:
    held.project(events=[])
    own_redcap(held)
    look(held)
    held.ask(event="Event 1")
    held.fill(2, **{**REQUEST, "transfer_event_name": "Baseline"})

    poll = held.poll()

    assert [transfer.event for transfer in poll.accepted] == ["Event 1"]
    assert [refused.reason for refused in poll.refused] == ["project HEART has no such event in its REDCap"]


def test_a_project_redcap_that_refuses_us_only_postpones(held: Site) -> None:
    own_redcap(held)
    enter_project(held, project_token="F" * 32)
    look(held)
    held.ask()

    assert (held.poll().postponed, held.poll().waiting, held.poll().refused) == (True, 1, ())
    held.project(events=[])
    enter_project(held, project_token=held.redcap.tokens[PROJECT])
    held.ask(event="Event 1")
    assert len(held.poll().accepted) == 1


def opt_out(site: Site, text: str, **more: float) -> None:
    (site.root.config / "opt-out.csv").write_text(text)
    use_tables(site, opt_out={"file": "opt-out.csv", **more})


@pytest.mark.parametrize(
    "text",
    ["PatientID;since\nzx-8301 5577;2026\n", "since\tPatientID\n2026\tzx83015577\n", "zx83015577\n"],
    ids=["csv", "tabs", "ids"],
)
def test_who_opted_out_is_not_assigned(held: Site, text: str) -> None:
    couple(held, 0, ACCESSION, date=ago())
    opt_out(held, text)
    assert (look(held).state, asked(held)) == ("opted_out", [])

    held.ask()  # not by hand either
    (refused,) = held.poll().refused
    assert "opt-out" in refused.reason


def test_who_opts_out_after_the_packaging_is_not_sent(held: Site) -> None:
    opt_out(held, "PatientID\n4711\n")
    held.ask()
    assert len(held.poll().accepted) == 1
    held.make_package()
    opt_out(held, f"PatientID\n4711\n{PATIENT_ID}\n")

    with held.open() as gateway, pytest.raises(RequestRefused, match="opt-out"):
        delivery.deliver(gateway, held.transfer(), "archive")
    assert held.waiting_targets() == ["archive"]


def test_a_list_that_is_missing_or_too_old_stops_everything(held: Site) -> None:
    couple(held, 0, ACCESSION, date=ago())
    opt_out(held, "PatientID\n4711\n", max_age_hours=24)
    file = held.root.config / "opt-out.csv"
    os.utime(file, (time.time() - 25 * 3600,) * 2)
    with held.open() as gateway:
        with pytest.raises(OptOutUnavailable, match="older than 24 hours"):
            assignment.assign_held(gateway)
        file.unlink()
        with pytest.raises(OptOutUnavailable, match="can't be read"):
            assignment.assign_held(gateway)
        file.write_text("")  # somebody begins to write it
        with pytest.raises(OptOutUnavailable, match="is empty"):
            assignment.assign_held(gateway)
    assert asked(held) == []
    opt_out(held, "PatientID\n4711\n", max_age_hours=24)
    assert look(held).way == "coupling"


def test_many_studies_cost_a_few_calls(held: Site) -> None:
    """A round reads each table once and writes a hundred requests in three calls."""
    with held.open() as gateway:
        uids = [f"1.2.3.{number}" for number in range(150)]
        with gateway.ledger.store.writing() as db:
            for number, uid in enumerate(uids):
                db.execute(
                    """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae,
                       caller_ip, revision, registered, open)
                       VALUES (?, 't', 't', 'CT1', 'HEART_IN', '', 1, 1, 0)""",
                    (uid,),
                )
                gateway.ledger.assignments.record_person(uid, person_of([f"P{number}"], [], [f"A{number}"]))
        write(
            held.redcap,
            "Incoming",
            *({"study_instance_uid": uid} | {"study_date": "20260101"} for uid in uids),
        )
        entries = [
            {
                "record_id": str(number),
                "cl_accessionnumber": f"A{number}",
                "cl_projectname": PROJECT,
                "cl_subjectid": f"H{number:03}",
                "cl_eventname": EVENT,
                "cl_date": ago(),
            }
            for number in range(150)
        ]
        write(held.redcap, "CouplingList", *entries)
        before = len(held.redcap.calls)
        found = assignment.assign_held(gateway)
    assert found.asked == 150
    assert len(held.redcap.calls) - before < 25
