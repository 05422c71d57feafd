"""Incoming: registration, requests and outcomes, each written once however often it is called."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest

from fiona_dagster.errors import (
    ConfigurationError,
    RedcapRejected,
    RedcapUnavailable,
    RequestRefused,
    UnknownStudy,
    UsageError,
)
from fiona_dagster.redcap import IncomingProject, RedcapClient, TransferRequest, site_time
from fiona_dagster.redcap.sandbox import Sandbox
from fiona_dagster.redcap.sandbox.records import Place

STUDY = "1.2.826.0.1.3680043.2.1125.1"
STUDY_FIELDS = {
    "study_instance_uid": STUDY,
    "study_patient_name": "DOE^JANE",
    "study_patient_id": "0815",
    "study_description": "HEAD",
    "study_date": "20261123",
    "study_aetitle_sender": "MR1",
}
NOW = datetime(2026, 11, 23, 23, 40, 30, tzinfo=UTC)
ZONE = "Europe/Oslo"


def series(*numbers: int, files: int = 3) -> list[dict[str, object]]:
    return [
        {
            "series_instance_uid": f"{STUDY}.{number}",
            "series_description": f"T{number}",
            "series_num_files": files,
            "series_classify_types": "T1, axial",
        }
        for number in numbers
    ]


def stored_series(client: RedcapClient) -> dict[str, tuple[str, str]]:
    rows = client.export_records(records=[STUDY], forms=["series"])
    return {
        row["redcap_repeat_instance"]: (
            row["series_instance_uid"].rpartition(".")[2],
            row["series_num_files"],
        )
        for row in rows
        if row["redcap_repeat_instrument"] == "series"
    }


def test_an_optional_field_is_written_where_the_project_has_it(
    incoming: IncomingProject, client: RedcapClient, redcap: Sandbox
) -> None:
    optional = {"study_completeness": "complete", "study_of_a_newer_fiona": "x"}
    incoming.register_study(STUDY_FIELDS, series(1), optional)
    (row,) = [r for r in client.export_records(records=[STUDY]) if not r["redcap_repeat_instrument"]]
    assert row["study_completeness"] == "complete"

    before = writes(redcap)
    incoming.register_study(STUDY_FIELDS, series(1), optional)
    assert writes(redcap) == before
    incoming.register_study(STUDY_FIELDS, series(1), {"study_completeness": "incomplete: 3 of 4 instances"})
    assert writes(redcap) == before + 1


def writes(redcap: Sandbox) -> int:
    return sum(call.action == "import" for call in redcap.calls)


@pytest.fixture
def registered(incoming: IncomingProject, redcap: Sandbox) -> IncomingProject:
    """Incoming with one study in it; calls counted from here."""
    incoming.register_study(STUDY_FIELDS, series(1, 2))
    redcap.calls.clear()
    return incoming


def test_a_study_is_registered_with_its_series(incoming: IncomingProject, client: RedcapClient) -> None:
    done = incoming.register_study(STUDY_FIELDS, series(1, 2))
    assert (done.rows_written, done.altered) == (3, ())
    rows = client.export_records(records=[STUDY])
    assert {key: rows[0][key] for key in STUDY_FIELDS} == STUDY_FIELDS
    assert stored_series(client) == {"1": ("1", "3"), "2": ("2", "3")}


def test_registering_again_writes_nothing(registered: IncomingProject, redcap: Sandbox) -> None:
    log = redcap.log("Incoming")
    assert registered.register_study(STUDY_FIELDS, series(1, 2)).rows_written == 0
    assert writes(redcap) == 0
    assert redcap.log("Incoming") == log


def test_a_series_keeps_its_number_a_new_one_gets_the_next_a_vanished_one_stays(
    registered: IncomingProject, client: RedcapClient
) -> None:
    done = registered.register_study(STUDY_FIELDS, [*series(3), *series(2, files=9)])
    assert done.rows_written == 2
    assert stored_series(client) == {"1": ("1", "3"), "2": ("2", "9"), "3": ("3", "3")}


def test_numbers_that_people_left_out_are_not_reused(
    registered: IncomingProject, client: RedcapClient
) -> None:
    client.delete_records([STUDY], instrument="series", instance=1)
    registered.register_study(STUDY_FIELDS, series(1, 2))
    assert stored_series(client) == {"2": ("2", "3"), "3": ("1", "3")}


def test_a_series_that_is_there_twice_is_updated_in_its_first_place(
    registered: IncomingProject, client: RedcapClient
) -> None:
    client.import_records(
        [
            {
                "study_instance_uid": STUDY,
                "redcap_repeat_instrument": "series",
                "redcap_repeat_instance": "7",
                "series_instance_uid": f"{STUDY}.1",
            }
        ]
    )
    registered.register_study(STUDY_FIELDS, series(1, files=8))
    assert stored_series(client)["1"] == ("1", "8")
    assert stored_series(client)["7"] == ("1", "")


def test_the_same_series_given_twice_is_one(incoming: IncomingProject, client: RedcapClient) -> None:
    incoming.register_study(STUDY_FIELDS, series(1, 1))
    assert list(stored_series(client)) == ["1"]


def test_a_value_that_became_empty_is_erased(registered: IncomingProject, client: RedcapClient) -> None:
    registered.register_study({**STUDY_FIELDS, "study_description": ""}, [])
    (row,) = client.export_records(records=[STUDY], fields=["study_description", "study_date"])
    assert (row["study_description"], row["study_date"]) == ("", "20261123")


def test_a_transfer_is_left_alone_by_a_revision(registered: IncomingProject) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    before = registered.requests()
    registered.register_study({**STUDY_FIELDS, "study_description": "late"}, series(1, 2, 3))
    assert registered.requests() == before


@pytest.mark.parametrize("uid", ["", "1..2", "DOE^JANE", "1." * 40 + "1"])
def test_what_is_no_uid_is_not_registered(incoming: IncomingProject, redcap: Sandbox, uid: str) -> None:
    with pytest.raises(UsageError, match="study_instance_uid") as caught:
        incoming.register_study({**STUDY_FIELDS, "study_instance_uid": uid})
    with pytest.raises(UsageError, match="series_instance_uid"):
        incoming.register_study(STUDY_FIELDS, [{"series_instance_uid": uid}])
    assert "DOE" not in str(caught.value)
    assert writes(redcap) == 0


def test_a_cut_connection_while_registering(
    incoming: IncomingProject, redcap: Sandbox, client: RedcapClient
) -> None:
    redcap.faults.cut_after_import()
    incoming.register_study(STUDY_FIELDS, series(1, 2))
    assert stored_series(client) == {"1": ("1", "3"), "2": ("2", "3")}
    assert len(redcap.log("Incoming")) == 3


def test_rows_that_redcap_ignores_are_found(incoming: IncomingProject, redcap: Sandbox) -> None:
    redcap.faults.count_zero(9)
    with pytest.raises(RedcapRejected, match="study_instance_uid"):
        incoming.register_study(STUDY_FIELDS, series(1))


def test_a_request_is_written_in_the_sites_time_and_read_back(registered: IncomingProject) -> None:
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW, zone=ZONE) == 1
    (request,) = registered.requests()
    assert request == TransferRequest(STUDY, 1, "2026-11-24 00:40", "TEST", "p1", "E1")
    assert request.active


def test_the_same_request_is_made_once(registered: IncomingProject, redcap: Sandbox) -> None:
    for minutes in (0, 0, 30):
        later = NOW + timedelta(minutes=minutes)
        assert registered.write_request(STUDY, "TEST", "p1", "E1", later) == 1
    assert writes(redcap) == 1


def test_other_requests_get_other_numbers(registered: IncomingProject) -> None:
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW) == 1
    assert registered.write_request(STUDY, "TEST", "p1", "E2", NOW) == 2
    assert registered.write_request(STUDY, "OTHER", "p1", "E1", NOW) == 3
    assert [(request.instance, request.project) for request in registered.requests()] == [
        (1, "TEST"),
        (2, "TEST"),
        (3, "OTHER"),
    ]


def test_a_finished_or_failed_request_can_be_made_again(registered: IncomingProject) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    registered.write_outcome(STUDY, 1, transfer_date=NOW, mapped_uid="2.25.1")
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW) == 1  # a repeat of the call that made it
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW + timedelta(minutes=5)) == 2
    registered.write_outcome(STUDY, 2, errors=[2])
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW + timedelta(minutes=9)) == 3


def test_a_request_whose_answer_is_lost_is_there_once(registered: IncomingProject, redcap: Sandbox) -> None:
    redcap.faults.cut_after_import()
    assert registered.write_request(STUDY, "TEST", "p1", "E1", NOW) == 1
    assert len(registered.requests()) == 1


def test_a_study_that_is_not_registered_takes_no_request(incoming: IncomingProject, redcap: Sandbox) -> None:
    with pytest.raises(UnknownStudy, match="not registered"):
        incoming.write_request("1.2.3.4", "TEST", "p1", "E1", NOW)
    assert writes(redcap) == 0


def test_requests_of_people_and_of_all_studies(incoming: IncomingProject, client: RedcapClient) -> None:
    for number in (2, 1):
        incoming.register_study({**STUDY_FIELDS, "study_instance_uid": f"1.{number}"}, series(1))
    place = {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": "4"}
    client.import_records([{"study_instance_uid": "1.2", **place, "transfer_project_name": "TEST"}])
    incoming.write_request("1.1", "TEST", "p1", "E1", NOW)
    assert [(request.study, request.instance, request.active) for request in incoming.requests()] == [
        ("1.1", 1, True),
        ("1.2", 4, False),
    ]


def test_records_that_are_no_studies_are_left_out_and_not_named(
    incoming: IncomingProject, client: RedcapClient, caplog: pytest.LogCaptureFixture
) -> None:
    place = {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": "1"}
    client.import_records([{"study_instance_uid": "../DOE", **place, "transfer_project_name": "TEST"}])
    caplog.set_level(logging.WARNING)
    assert incoming.requests() == []
    assert "1 request(s)" in caplog.text
    assert "DOE" not in caplog.text


def test_polling_asks_for_no_names_of_patients(registered: IncomingProject, redcap: Sandbox) -> None:
    seen: list[dict[str, str]] = []
    answer = redcap.answer

    def watched(form: dict[str, str], _files: object = None) -> object:
        seen.append(dict(form))
        return answer(form)

    redcap.answer = watched  # type: ignore[method-assign, assignment]
    registered.requests()
    (form,) = [form for form in seen if form["content"] == "record"]
    asked = {value for key, value in form.items() if key.startswith(("fields", "forms"))}
    assert asked == {
        "study_instance_uid",
        "transfer_requested_date",
        "transfer_project_name",
        "transfer_name",
        "transfer_event_name",
        "transfer_withdrawn",
        "transfer_date",
        "transfer_error",
        "transfer_mapped_uid",
    }


def test_a_requests_repr_names_nobody() -> None:
    request = TransferRequest(STUDY, 1, "2026-11-24 00:40", "TEST", "P-17", "Year 1", mapped_uid="2.25.77")
    assert "P-17" not in repr(request)
    assert "Year 1" not in repr(request)
    assert "2.25.77" not in repr(request)


def test_an_outcome_is_written_once(
    registered: IncomingProject, redcap: Sandbox, client: RedcapClient
) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    redcap.calls.clear()
    again = [
        registered.write_outcome(
            STUDY, 1, transfer_date=NOW, zone=ZONE, mapped_uid="2.25.1", errors=[3], message='{"a": "b"}'
        )
        for _ in range(3)
    ]
    assert again == [True, False, False]
    assert writes(redcap) == 1
    looks = [call for call in redcap.calls if (call.content, call.action) == ("record", "export")]
    assert len(looks) == 4, "one before and one after the write, one where there is nothing to write"
    (request,) = registered.requests()
    assert (request.transfer_date, request.errors, request.mapped_uid) == ("2026-11-24 00:40", (3,), "2.25.1")
    rows = client.export_records(fields=["transfer_error_message"])
    assert rows[-1]["transfer_error_message"] == '{"a": "b"}'


def test_a_failure_leaves_the_date_and_a_success_clears_the_failure(
    registered: IncomingProject, client: RedcapClient
) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    registered.write_outcome(STUDY, 1, transfer_date=NOW, mapped_uid="2.25.1")
    registered.write_outcome(STUDY, 1, errors=[2], message="no route")
    (request,) = registered.requests()
    assert (request.transfer_date, request.errors, request.mapped_uid) == ("2026-11-23 23:40", (2,), "2.25.1")
    registered.write_outcome(STUDY, 1, transfer_date=NOW + timedelta(hours=1))
    (request,) = registered.requests()
    assert (request.transfer_date, request.errors) == ("2026-11-24 00:40", ())
    assert client.export_records(fields=["transfer_error_message"])[-1]["transfer_error_message"] == ""


def test_an_outcome_survives_a_cut_and_a_dead_server_says_so(
    registered: IncomingProject, redcap: Sandbox
) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    redcap.faults.cut_after_import()
    assert registered.write_outcome(STUDY, 1, transfer_date=NOW)
    entries = [entry for entry in redcap.log("Incoming") if "transfer_date" in entry.details]
    assert len(entries) == 1
    redcap.faults.fail(20, 503)
    with pytest.raises(RedcapUnavailable):
        registered.write_outcome(STUDY, 1, errors=[2])
    redcap.faults.clear()
    assert registered.write_outcome(STUDY, 1, errors=[2])


def test_the_outcome_of_a_request_that_is_gone_or_changed_is_not_written(
    registered: IncomingProject, client: RedcapClient, redcap: Sandbox
) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    (request,) = registered.requests()
    place = {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": "1"}
    client.import_records([{"study_instance_uid": STUDY, **place, "transfer_name": "p2"}])
    count = writes(redcap)
    with pytest.raises(RequestRefused, match="changed") as caught:
        registered.write_outcome(STUDY, 1, transfer_date=NOW, expected=request)
    assert "p1" not in str(caught.value)
    client.delete_records([STUDY], instrument="transfers", instance=1)
    with pytest.raises(RequestRefused, match="no longer in REDCap"):
        registered.write_outcome(STUDY, 1, transfer_date=NOW)
    client.delete_records([STUDY])
    with pytest.raises(UnknownStudy):
        registered.write_outcome(STUDY, 1, transfer_date=NOW)
    assert writes(redcap) == count


def test_an_error_code_that_redcap_does_not_have(registered: IncomingProject) -> None:
    registered.write_request(STUDY, "TEST", "p1", "E1", NOW)
    with pytest.raises(UsageError, match="4"):
        registered.write_outcome(STUDY, 1, errors=[4])


@pytest.mark.parametrize(
    ("moment", "zone", "text"),
    [
        (NOW, "UTC", "2026-11-23 23:40"),
        (NOW, "Europe/Oslo", "2026-11-24 00:40"),
        (datetime(2026, 6, 1, 12, tzinfo=UTC), "America/New_York", "2026-06-01 08:00"),
    ],
)
def test_site_time(moment: datetime, zone: str, text: str) -> None:
    assert site_time(moment, zone) == text


def test_times_and_zones_that_can_not_be() -> None:
    with pytest.raises(UsageError, match="time zone"):
        site_time(NOW.replace(tzinfo=None), "UTC")
    for zone in ("Mars/Olympus", "", "../etc/passwd"):
        with pytest.raises(ConfigurationError, match="LOCALTIMEZONE"):
            site_time(NOW, zone)


def test_many_open_records_are_polled_quickly(redcap: Sandbox, incoming: IncomingProject) -> None:
    with redcap.store.transaction():
        for number in range(2000):
            record = f"1.2.{number}"
            redcap.store.touch("Incoming", record)
            redcap.store.put("Incoming", Place(record), {"study_patient_name": "X" * 50})
            redcap.store.put(
                "Incoming",
                Place(record, "", "transfers", 1),
                {"transfer_requested_date": "2026-11-23 23:40", "transfer_project_name": "TEST"},
            )
    assert len(incoming.requests()) == 2000
