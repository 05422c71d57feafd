"""PyCap, a client that we did not write, against the sandbox."""

from __future__ import annotations

import io
from typing import Any

import pytest
from redcap.project import Project
from redcap.request import RedcapError

from fiona_dagster.redcap.sandbox import Sandbox


@pytest.fixture
def classic(redcap: Sandbox) -> Any:
    return Project(redcap.url, redcap.tokens["DataTransferProjects"])


@pytest.fixture
def longitudinal(redcap: Sandbox) -> Any:
    return Project(redcap.url, redcap.tokens["ResearchProject"])


def test_what_it_finds_out_about_projects(classic: Any, longitudinal: Any) -> None:
    assert (classic.is_longitudinal, longitudinal.is_longitudinal) == (False, True)
    assert classic.def_field == longitudinal.def_field == "record_id"
    assert set(longitudinal.forms) == {"basic_demography", "imaging"}
    assert str(classic.export_version()) == "14.5.5"
    assert classic.export_project_info()["is_longitudinal"] == 0
    assert [row["unique_event_name"] for row in longitudinal.export_events()] == [
        "event_1_arm_1",
        "event_2_arm_1",
    ]
    assert longitudinal.export_arms() == [{"arm_num": 1, "name": "Arm 1"}]
    assert len(longitudinal.export_instrument_event_mappings()) == 4
    assert longitudinal.export_repeating_instruments_events()[0] == {
        "event_name": "event_1_arm_1",
        "form_name": "imaging",
        "custom_form_label": "",
    }
    assert len(classic.export_field_names()) > 20
    assert len(classic.export_instruments()) == 3
    with pytest.raises(RedcapError, match="classic projects"):
        classic.export_events()


@pytest.mark.parametrize("fmt", ["json", "csv", "xml"])
def test_records_there_and_back(classic: Any, fmt: str) -> None:
    assert classic.import_records([{"record_id": "1", "project_name": "A & B"}]) == {"count": 1}
    told = classic.export_records(format_type=fmt, fields=["project_name"])
    assert "A &amp; B" in told or "A & B" in str(told)
    assert classic.generate_next_record_name() == "2"
    assert classic.delete_records(["1"]) == 1
    assert classic.export_records() == []


def test_records_with_events_and_repeats(longitudinal: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"record_id": "P1", "redcap_event_name": "event_1_arm_1", "demo_participant": "P1"},
        {
            "record_id": "P1",
            "redcap_event_name": "event_2_arm_1",
            "redcap_repeat_instrument": "imaging",
            "redcap_repeat_instance": 2,
            "imaging_study_uid": "1.2.3",
        },
    ]
    assert longitudinal.import_records(rows) == {"count": 1}
    found = longitudinal.export_records(fields=["record_id", "imaging_study_uid", "demo_participant"])
    assert [(r["redcap_event_name"], r["redcap_repeat_instance"]) for r in found] == [
        ("event_1_arm_1", ""),
        ("event_2_arm_1", 2),
    ]
    assert longitudinal.export_records(events=["event_2_arm_1"], fields=["imaging_study_uid"]) == [
        {
            "record_id": "P1",  # PyCap asks for it by itself
            "redcap_event_name": "event_2_arm_1",
            "redcap_repeat_instrument": "imaging",
            "redcap_repeat_instance": 2,
            "imaging_study_uid": "1.2.3",
        }
    ]
    logic = "[event_1_arm_1][demo_participant] = 'P1'"
    assert len(longitudinal.export_records(fields=["imaging_study_uid"], filter_logic=logic)) == 2
    with pytest.raises(RedcapError, match="redcap_event_name are invalid: nowhere_arm_1"):
        longitudinal.import_records([{**rows[0], "redcap_event_name": "nowhere_arm_1"}])


def test_an_event_left_out_is_the_first_as_on_live_servers(longitudinal: Any) -> None:
    longitudinal.import_records([{"record_id": "P1", "demo_participant": "P1"}])
    (row,) = longitudinal.export_records(fields=["demo_participant"])
    assert row["redcap_event_name"] == "event_1_arm_1"


def test_files(classic: Any) -> None:
    classic.import_records([{"record_id": "1", "project_name": "A"}])
    content = bytes(range(256)) * 10
    classic.import_file("1", "leave_alone_current_rek", "approval 1.pdf", io.BytesIO(content))
    got, headers = classic.export_file("1", "leave_alone_current_rek")
    assert got == content
    assert headers["name"].replace("%20", " ") == "approval 1.pdf"
    classic.delete_file("1", "leave_alone_current_rek")
    with pytest.raises(RedcapError, match="no file"):
        classic.export_file("1", "leave_alone_current_rek")
    with pytest.raises(ValueError, match="not a 'file' field"):
        classic.export_file("1", "project_name")


def test_the_file_repository(classic: Any) -> None:
    (made,) = classic.create_folder_in_repository("reports")
    classic.import_file_into_repository("a.txt", io.BytesIO(b"abc"), folder_id=made["folder_id"])
    (listed,) = classic.export_file_repository(folder_id=made["folder_id"])
    assert listed["name"] == "a.txt"
    assert classic.export_file_from_repository(listed["doc_id"])[0] == b"abc"
    classic.delete_file_from_repository(listed["doc_id"])
    assert classic.export_file_repository(folder_id=made["folder_id"]) == []


def test_set_up(longitudinal: Any) -> None:
    assert longitudinal.import_arms([{"arm_num": 2, "name": "Second"}]) == 1
    assert longitudinal.import_events([{"event_name": "Late", "arm_num": 2}]) == 1
    assert [row["arm_num"] for row in longitudinal.export_arms()] == [1, 2]
    assert longitudinal.delete_events(["late_arm_2"]) == 1
    dictionary = longitudinal.export_metadata()
    assert longitudinal.import_metadata([*dictionary, {**dictionary[-1], "field_name": "more"}]) == 8
    mappings = longitudinal.export_instrument_event_mappings()
    assert longitudinal.import_instrument_event_mappings(mappings) == 4
    repeats = longitudinal.export_repeating_instruments_events()
    assert longitudinal.import_repeating_instruments_events(repeats) == 2


def test_groups_and_users(classic: Any, redcap: Sandbox) -> None:
    assert classic.import_dags([{"data_access_group_name": "North wing", "unique_group_name": ""}]) == 1
    assert classic.export_dags()[0]["unique_group_name"] == "north_wing"
    rows = [
        {"record_id": "1", "project_name": "A", "redcap_data_access_group": "north_wing"},
        {"record_id": "2", "project_name": "B"},
    ]
    classic.import_records(rows)
    found = classic.export_records(fields=["record_id"], export_data_access_groups=True)
    assert [row["redcap_data_access_group"] for row in found] == ["north_wing", ""]
    inside = Project(redcap.url, redcap.add_token("DataTransferProjects", dag="north_wing"))
    assert [row["record_id"] for row in inside.export_records(fields=["record_id"])] == ["1"]
    assert inside.generate_next_record_name() == "1-1"
    with pytest.raises(RedcapError):
        inside.import_records([{"record_id": "2", "project_name": "C"}])
    assert {user["username"] for user in classic.export_users()} == {"site_admin", "somebody"}


def test_the_log_reports_and_pdfs(classic: Any) -> None:
    classic.import_records([{"record_id": "1", "project_name": "A"}])
    assert classic.export_logging(log_type="record_add")[0]["action"] == "Create record (API) 1"
    assert classic.export_report("7")[0]["project_name"] == "A"
    assert classic.export_pdf()[0].startswith(b"%PDF")
