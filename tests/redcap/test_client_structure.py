"""Events, files, groups, missing-data codes, and both layouts of Incoming, through the client."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable, RequestRefused, UsageError
from fiona_dagster.redcap import IncomingProject, RedcapClient
from fiona_dagster.redcap.sandbox import Sandbox
from tests.redcap.stub import Stub, stub_server

TOKEN = "0123456789ABCDEF0123456789ABCDEF"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
STUDY = {"study_instance_uid": "1.2.3", "study_description": "x"}
SERIES = [
    {"series_instance_uid": "1.2.3.1", "series_num_files": "3"},
    {"series_instance_uid": "1.2.3.2", "series_num_files": "20"},
]


def other(redcap: Sandbox, project: str) -> RedcapClient:
    return RedcapClient(redcap.url, redcap.tokens[project], timeout=5, sleep=lambda _seconds: None)


@pytest.fixture
def research(redcap: Sandbox) -> RedcapClient:
    return other(redcap, "ResearchProject")


def test_a_longitudinal_project(research: RedcapClient, client: RedcapClient) -> None:
    assert (research.longitudinal, client.longitudinal) == (True, False)
    assert [row["unique_event_name"] for row in research.events()] == ["event_1_arm_1", "event_2_arm_1"]
    assert client.events() == client.form_events() == []
    assert ("event_1_arm_1", "imaging") in research.repeats()
    assert {row["form"] for row in research.form_events()} == {"basic_demography", "imaging"}


def test_a_row_without_event_is_not_sent(research: RedcapClient, redcap: Sandbox) -> None:
    with pytest.raises(UsageError, match="first event"):
        research.import_records([{"record_id": "P1", "demo_participant": "P1"}])
    with pytest.raises(UsageError, match="nothing but its record id"):
        research.import_records([{"record_id": "P1", "redcap_event_name": "event_1_arm_1"}])
    assert redcap.log("ResearchProject") == []


def test_instances_of_an_event_are_imported_and_read_back(research: RedcapClient) -> None:
    row = {
        "record_id": "P1",
        "redcap_event_name": "event_2_arm_1",
        "redcap_repeat_instrument": "imaging",
        "redcap_repeat_instance": "1",
        "imaging_study_uid": "1.2.3",
    }
    base = {"record_id": "P1", "redcap_event_name": "event_1_arm_1", "demo_participant": "P1"}
    assert research.import_records([base, row]) == 1
    assert research.differences([row]) == set()
    assert research.differences([{**row, "redcap_event_name": "event_1_arm_1"}]) == {
        "record_id",
        "imaging_study_uid",
    }
    assert research.export_records(events=["event_2_arm_1"], fields=["imaging_study_uid"]) == [
        {name: row[name] for name in row if name != "record_id"}
    ]
    assert research.delete_records(["P1"], instrument="imaging", instance=1, event="event_2_arm_1") == 1
    assert research.export_records(events=["event_2_arm_1"], fields=["imaging_study_uid"]) == []


def test_instances_of_a_repeating_event(research: RedcapClient, redcap: Sandbox) -> None:
    redcap.change_setup("ResearchProject", repeats=(("event_2_arm_1", ""),))
    row = {
        "record_id": "P1",
        "redcap_event_name": "event_2_arm_1",
        "redcap_repeat_instrument": "",
        "redcap_repeat_instance": "2",
        "demo_subject": "x",
    }
    assert research.import_records([row]) == 1
    (found,) = research.export_records(fields=["record_id", "demo_subject"])
    assert found == row


def test_rows_that_are_ignored_with_a_count_that_is_right_are_found() -> None:
    with (
        stub_server(Stub(body=b'{"count": 1}')) as stub,
        pytest.raises(RedcapUnavailable, match="not a list of rows"),
    ):
        RedcapClient(stub.url, TOKEN).import_records([{"record_id": "1", "name": "x"}])


def test_files_there_and_back(redcap: Sandbox) -> None:
    client = other(redcap, "DataTransferProjects")
    client.import_records([{"record_id": "1", "project_name": "A"}])
    content = b"\r\n--boundary\x00\xff" * 1000
    redcap.faults.fail(1)
    client.import_file("1", "leave_alone_current_rek", "rek.pdf", content)
    assert client.export_file("1", "leave_alone_current_rek") == ("rek.pdf", content)
    assert (
        client.export_records(fields=["leave_alone_current_rek"])[0]["leave_alone_current_rek"] == "rek.pdf"
    )
    client.delete_file("1", "leave_alone_current_rek")
    with pytest.raises(RedcapRejected, match="There is no file to download"):
        client.export_file("1", "leave_alone_current_rek")
    with pytest.raises(RedcapRejected, match="not a"):
        client.export_file("1", "project_name")


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>a protocol, exported as a page</body></html>",
        b"<html>Your address has been banned, said the minutes</html>",
        b"ERROR: no such thing",
        b'{"error": "what a file may hold"}',
        b"",
    ],
)
def test_a_file_may_hold_what_looks_like_an_error(redcap: Sandbox, content: bytes) -> None:
    client = other(redcap, "DataTransferProjects")
    client.import_records([{"record_id": "1", "project_name": "A"}])
    client.import_file("1", "leave_alone_current_rek", "page.html", content)
    assert client.export_file("1", "leave_alone_current_rek") == ("page.html", content)


def test_a_page_is_no_receipt_for_a_file() -> None:
    """REDCap answers with nothing; a page that nobody knows as one would be taken for success."""
    page = b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN"><html>moved</html>'
    with stub_server(Stub(body=page)) as stub:
        client = RedcapClient(stub.url, TOKEN, sleep=lambda _seconds: None)
        with pytest.raises(RedcapUnavailable, match="should be empty"):
            client.import_file("1", "file", "name", b"x")
        with pytest.raises(RedcapUnavailable, match="should be empty"):
            client.delete_file("1", "file")
    assert len(stub.bodies) == 3 + 1, "an import is tried again, a removal is not"


def test_groups(redcap: Sandbox) -> None:
    redcap.change_setup("DataTransferProjects", dags=("North", "South"))
    client = other(redcap, "DataTransferProjects")
    assert [row["unique_group_name"] for row in client.data_access_groups()] == ["north", "south"]
    row = {"record_id": "1", "redcap_data_access_group": "south", "project_name": "A"}
    client.import_records([row])
    assert client.export_records(fields=["record_id"], groups=True)[0]["redcap_data_access_group"] == "south"
    token = redcap.add_token("DataTransferProjects", dag="north")
    inside = RedcapClient(redcap.url, token)
    assert inside.export_records(fields=["record_id"]) == []
    assert inside.next_record_name() == "1-1"


def test_a_missing_data_code_is_no_value(redcap: Sandbox, client: RedcapClient) -> None:
    redcap.change_setup("Incoming", missing_codes=(("NASK", "Not asked"), ("-99", "Unknown")))
    incoming = IncomingProject(client)
    incoming.register_study(STUDY, SERIES)
    place = {"study_instance_uid": "1.2.3", "redcap_repeat_instrument": "transfers"}
    codes = {"transfer_requested_date": "-99", "transfer_project_name": "P", "transfer_name": "NASK"}
    client.import_records([{**place, "redcap_repeat_instance": "1", **codes}])
    (request,) = incoming.requests()
    assert (request.requested_date, request.participant, request.active) == ("", "", False)
    assert client.missing_codes == {"NASK", "-99"}
    assert client.columns_of("transfer_error")["-99"] == "transfer_error____99"


@pytest.mark.parametrize("repeating", [(), ("series",), ("transfers",), ("series", "transfers")])
def test_every_layout_of_incoming_works(
    redcap: Sandbox, client: RedcapClient, repeating: tuple[str, ...]
) -> None:
    redcap.change_setup("Incoming", repeats=tuple(("", form) for form in repeating))
    incoming = IncomingProject(client)
    assert incoming.register_study(STUDY, SERIES).altered == ()
    assert incoming.register_study(STUDY, SERIES).rows_written == 0
    assert incoming.requests() == incoming.requests_of("1.2.3") == []
    instance = incoming.write_request("1.2.3", "P", "N001", "Event 1", NOW)
    assert instance == 1
    (request,) = incoming.requests()
    assert incoming.requests_of("1.2.3") == [request]
    assert (request.project, request.participant, request.event) == ("P", "N001", "Event 1")
    assert incoming.write_outcome("1.2.3", 1, errors=[2], message="no", expected=request)
    assert incoming.requests()[0].errors == (2,)
    assert incoming.write_outcome("1.2.3", 1, transfer_date=NOW, mapped_uid="9.8", expected=request)
    assert not incoming.write_outcome("1.2.3", 1, transfer_date=NOW, mapped_uid="9.8", expected=request)
    (done,) = incoming.requests()
    assert (done.errors, done.mapped_uid, done.transfer_date) == ((), "9.8", "2026-03-01 12:00")
    stored = client.export_records(fields=["series_instance_uid"])
    uids = [row["series_instance_uid"] for row in stored if row["series_instance_uid"]]
    assert uids == (["1.2.3.1", "1.2.3.2"] if "series" in repeating else ["1.2.3.2"])


def test_a_plain_incoming_has_room_for_one_waiting_request(redcap: Sandbox, client: RedcapClient) -> None:
    redcap.change_setup("Incoming", repeats=())
    incoming = IncomingProject(client)
    incoming.register_study(STUDY, SERIES)
    incoming.write_request("1.2.3", "P", "N001", "Event 1", NOW)
    assert incoming.write_request("1.2.3", "P", "N001", "Event 1", NOW) == 1
    with pytest.raises(RequestRefused, match="room for one"):
        incoming.write_request("1.2.3", "Q", "N002", "Event 1", NOW)
    incoming.write_outcome("1.2.3", 1, transfer_date=NOW)
    assert incoming.write_request("1.2.3", "Q", "N002", "Event 1", NOW) == 1
    assert [request.project for request in incoming.requests()] == ["Q"]


def test_a_box_that_a_site_lacks_is_left_out_until_it_is_needed(
    redcap: Sandbox, client: RedcapClient
) -> None:
    rows = client.metadata()
    for row in rows:
        if row["field_name"] == "transfer_error":
            row["select_choices_or_calculations"] = "1, anonymization error | 2, send error"
    assert client.import_metadata(rows) == len(rows)
    incoming = IncomingProject(client)
    incoming.register_study(STUDY)
    incoming.write_request("1.2.3", "P", "N001", "Event 1", NOW)
    assert incoming.write_outcome("1.2.3", 1, errors=[1])
    with pytest.raises(RedcapRejected, match="lacks choice 3"):
        incoming.write_outcome("1.2.3", 1, errors=[3])
