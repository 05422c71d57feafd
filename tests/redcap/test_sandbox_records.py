"""Imports, deletions, filters: what the sandbox keeps and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.errors import ConfigurationError
from fiona_dagster.redcap.sandbox import Sandbox, running_sandbox
from fiona_dagster.redcap.sandbox.records import Place
from tests.redcap.conftest import Post

PROJECTS = "DataTransferProjects"
REPEAT, INSTANCE = "redcap_repeat_instrument", "redcap_repeat_instance"


def send(post: Post, rows: object, project: str = PROJECTS, **more: str) -> Any:
    answer = post(project, content="record", format="json", data=json.dumps(rows), **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refuse(post: Post, rows: object, project: str = PROJECTS, **more: str) -> str:
    answer = post(project, content="record", format="json", data=json.dumps(rows), **more)
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"])


def rows(post: Post, project: str = PROJECTS, field: str = "", **more: str) -> list[dict[str, Any]]:
    asked = {"fields[0]": field} if field else {}
    found = post(project, asked, content="record", format="json", **more).json()
    assert isinstance(found, list)
    return found


def test_normal_ignores_empty_values_overwrite_erases_them(post: Post) -> None:
    send(post, [{"record_id": "1", "project_name": "A", "project_contact": "B"}])
    send(post, [{"record_id": "1", "project_name": "", "project_contact": "C"}])
    assert (rows(post)[0]["project_name"], rows(post)[0]["project_contact"]) == ("A", "C")
    send(post, [{"record_id": "1", "project_name": ""}], overwriteBehavior="overwrite")
    assert (rows(post)[0]["project_name"], rows(post)[0]["project_contact"]) == ("", "C")


def test_records_are_counted_not_rows(post: Post) -> None:
    three = [
        {"record_id": "1", REPEAT: "rewritepixelexclusions", INSTANCE: n, "rewrite_ex_reg": "x"}
        for n in (1, 2, 3)
    ]
    assert send(post, three) == {"count": 1}
    assert send(post, three, returnContent="ids") == ["1"]
    answer = post(PROJECTS, content="record", format="json", data=json.dumps(three), returnContent="nothing")
    assert (answer.status_code, answer.text) == (200, "")
    answer = post(PROJECTS, content="record", format="json", returnFormat="csv", data=json.dumps(three))
    assert answer.text == "1"
    answer = post(PROJECTS, content="record", format="json", returnFormat="xml", data=json.dumps(three))
    assert answer.text == '<?xml version="1.0" encoding="UTF-8" ?>\n<count>1</count>'


def test_a_bare_object_imports_nothing(post: Post) -> None:
    assert send(post, {"record_id": "1", "project_name": "A"}) == {"count": 0}
    assert rows(post) == []


@pytest.mark.parametrize("data", ["", "{", "[1]", '[{"record_id": {"a": 1}}]', "null"])
def test_data_that_is_no_list_of_rows_is_refused(post: Post, data: str) -> None:
    assert post(PROJECTS, content="record", action="import", format="json", data=data).status_code == 400


def test_a_row_of_blanks_makes_no_record(post: Post) -> None:
    assert send(post, [{"record_id": "1"}, {"record_id": "2", "project_name": ""}]) == {"count": 2}
    assert rows(post) == []


def test_one_bad_value_and_nothing_is_stored(post: Post, redcap: Sandbox) -> None:
    refuse(post, [{"record_id": "1", "project_name": "A"}, {"record_id": "2", "project_type": "7"}])
    assert rows(post) == []
    assert redcap.log(PROJECTS) == []


@pytest.mark.parametrize(
    ("project", "row", "good"),
    [
        ("CouplingList", {"record_id": "0", "cl_date": "2026-11-23 23:40"}, True),
        ("CouplingList", {"record_id": "0", "cl_date": "2026-11-23"}, False),
        ("CouplingList", {"record_id": "0", "cl_date": "2026-02-30 10:00"}, False),
        ("CouplingList", {"record_id": "0", "cl_date": "2026-11-23 23:40:10"}, False),
        (PROJECTS, {"record_id": "0", "project_rec_start_date": "2026-11-23"}, True),
        (PROJECTS, {"record_id": "0", "project_rec_start_date": "23.11.2026"}, False),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "series", INSTANCE: 1, "series_num_files": 12},
            True,
        ),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "series", INSTANCE: 1, "series_num_files": "12.5"},
            False,
        ),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "series", INSTANCE: "1", "series_complete": "2"},
            True,
        ),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "series", INSTANCE: "1", "series_complete": "3"},
            False,
        ),
        ("Incoming", {"study_instance_uid": "1", REPEAT: "transfers", "transfer_error___1": "2"}, False),
        ("Incoming", {"study_instance_uid": "1", REPEAT: "nonsense", "transfer_name": "x"}, False),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "transfers", INSTANCE: "-1", "transfer_name": "x"},
            False,
        ),
        (
            "Incoming",
            {"study_instance_uid": "1", REPEAT: "series", "transfer_name": "on another form"},
            False,
        ),
        ("Incoming", {"study_instance_uid": "1", "transfer_name": "without its instrument"}, False),
        ("Incoming", {"study_description": "without record"}, False),
    ],
)
def test_validation(post: Post, project: str, row: dict[str, str], good: bool) -> None:
    if good:
        assert send(post, [row], project) == {"count": 1}
        assert rows(post, project)
    else:
        assert refuse(post, [row], project)
        assert rows(post, project) == []


def test_dates_in_other_orders(post: Post) -> None:
    send(post, [{"record_id": "1", "cl_date": "23/11/2026 10:00"}], "CouplingList", dateFormat="DMY")
    send(post, [{"record_id": "2", "cl_date": "11-3-2026 10:00"}], "CouplingList", dateFormat="MDY")
    assert [row["cl_date"] for row in rows(post, "CouplingList")] == ["2026-11-23 10:00", "2026-11-03 10:00"]


def test_new_is_the_next_instance(post: Post) -> None:
    new = [{"study_instance_uid": "1.2", REPEAT: "transfers", INSTANCE: "new", "transfer_name": "a"}]
    send(post, new, "Incoming")
    send(post, new * 2, "Incoming")
    assert [row[INSTANCE] for row in rows(post, "Incoming") if row[REPEAT]] == [1, 2, 3]


def test_auto_numbers(post: Post) -> None:
    send(post, [{"record_id": "7", "autoid_value": "a"}], "AutoID")
    sent = [{"record_id": "x", "autoid_value": "b"}, {"record_id": "y", "autoid_value": "c"}]
    answer = send(post, sent, "AutoID", forceAutoNumber="true", returnContent="auto_ids")
    assert answer == ["8,x", "9,y"]


def test_record_names_are_sorted_as_numbers(post: Post) -> None:
    send(post, [{"record_id": name, "autoid_value": "a"} for name in ("10", "9", "2")], "AutoID")
    assert [row["record_id"] for row in rows(post, "AutoID")] == ["2", "9", "10"]


def test_eav_both_ways(post: Post) -> None:
    lines = [
        {"record": "1.2", REPEAT: "transfers", INSTANCE: "1", "field_name": "transfer_error", "value": "2"},
        {"record": "1.2", REPEAT: "transfers", INSTANCE: "1", "field_name": "transfer_name", "value": "x"},
    ]
    assert send(post, lines, "Incoming", type="eav") == {"count": 1}
    asked = {"fields[0]": "transfer_error", "fields[1]": "transfer_name"}
    found = post("Incoming", content="record", format="json", type="eav", fields=asked).json()
    assert [(row["field_name"], row["value"], row[INSTANCE]) for row in found] == [
        ("transfer_name", "x", 1),
        ("transfer_error", "2", 1),
    ]


def test_csv_and_xml_imports(post: Post) -> None:
    text = 'record_id,project_name,project_contact\r\n1,"A, ""quoted""\nline",B\r\n'
    assert post(PROJECTS, content="record", format="csv", data=text).text == "1"
    xml = (
        "<records><item><record_id>2</record_id><project_name><![CDATA[<A>]]></project_name></item></records>"
    )
    assert "<count>1</count>" in post(PROJECTS, content="record", format="xml", data=xml).text
    assert [row["project_name"] for row in rows(post)] == ['A, "quoted"\nline', "<A>"]


@pytest.mark.parametrize(
    "data",
    ["<records>", '<!DOCTYPE x [<!ENTITY a "b">]><records><item><record_id>&a;</record_id></item></records>'],
)
def test_xml_that_is_broken_or_has_entities_is_refused(post: Post, data: str) -> None:
    assert post(PROJECTS, content="record", format="xml", data=data).status_code == 400


@pytest.mark.parametrize(
    ("logic", "records"),
    [
        ("[project_type] = '1'", ["2"]),
        ("[project_type] <> '1' and [record_id] > 2", ["3"]),
        ('([project_name] = "A" or [project_name] = "B") and [project_type] >= 0', ["1", "2"]),
        ("[project_name] = ''", ["3"]),
        ("[rewrite_ex_reg] = 'x'", ["3"]),
    ],
)
def test_filter_logic(post: Post, logic: str, records: list[str]) -> None:
    send(
        post,
        [
            {"record_id": "1", "project_name": "A", "project_type": "0"},
            {"record_id": "2", "project_name": "B", "project_type": "1"},
            {"record_id": "3", "project_type": "2"},
        ],
    )
    send(post, [{"record_id": "3", REPEAT: "rewritepixelexclusions", INSTANCE: 1, "rewrite_ex_reg": "x"}])
    found = rows(post, filterLogic=logic, field="record_id")
    assert list(dict.fromkeys(row["record_id"] for row in found)) == records


def test_filter_logic_of_checkboxes(post: Post) -> None:
    for name, code in (("1.1", "1"), ("1.2", "2")):
        send(
            post,
            [{"study_instance_uid": name, REPEAT: "transfers", INSTANCE: 1, f"transfer_error___{code}": "1"}],
            "Incoming",
        )
    found = rows(post, "Incoming", filterLogic="[transfer_error(2)] = '1'", field="study_instance_uid")
    assert {row["study_instance_uid"] for row in found} == {"1.2"}


@pytest.mark.parametrize(
    "logic", ["[foo] = '1'", "[record_id] =", "= '1'", "[record_id] = '1' )", "delete", "[record_id"]
)
def test_logic_that_makes_no_sense_is_refused(post: Post, logic: str) -> None:
    assert post(PROJECTS, content="record", format="json", filterLogic=logic).status_code == 400


def test_date_ranges(post: Post) -> None:
    send(post, [{"record_id": "1", "project_name": "A"}])
    assert rows(post, dateRangeBegin="2000-01-01 00:00:00", dateRangeEnd="2100-01-01 00:00:00")
    assert rows(post, dateRangeBegin="2100-01-01 00:00:00") == []
    assert rows(post, dateRangeEnd="2000-01-01 00:00:00") == []
    assert post(PROJECTS, content="record", format="json", dateRangeBegin="yesterday").status_code == 400


def test_deleting_and_renaming(post: Post) -> None:
    transfers = [
        {"study_instance_uid": "1", REPEAT: "transfers", INSTANCE: n, "transfer_name": "a"} for n in (1, 2)
    ]
    send(post, [{"study_instance_uid": "1", "study_date": "2"}, *transfers], "Incoming")
    one = {"action": "delete", "records[0]": "1", "instrument": "transfers", "repeat_instance": "1"}
    assert post("Incoming", content="record", format="json", fields=one).text == "1"
    assert [row[INSTANCE] for row in rows(post, "Incoming")] == ["", 2]
    rename = {"action": "rename", "record": "1", "new_record_name": "2"}
    assert post("Incoming", content="record", format="json", fields=rename).text == "1"
    assert [row["study_instance_uid"] for row in rows(post, "Incoming")] == ["2", "2"]
    assert (
        post("Incoming", content="record", format="json", fields={"action": "delete", "records[0]": "2"}).text
        == "1"
    )
    assert rows(post, "Incoming") == []


def test_the_log_tells_each_change_once(post: Post, redcap: Sandbox) -> None:
    row = [{"record_id": "1", "project_name": "A"}]
    send(post, row)
    send(post, row)
    send(post, [{"record_id": "1", "project_name": "B"}])
    assert [(entry.action, entry.details) for entry in redcap.log(PROJECTS)] == [
        ("Update record (API) 1", "project_name = 'B'"),
        ("Create record (API) 1", "project_name = 'A'"),
    ]
    told = post(PROJECTS, content="log", format="json", logtype="record_add").json()
    assert [entry["action"] for entry in told] == ["Create record (API) 1"]
    assert [call.action for call in redcap.calls] == ["import"] * 3 + [""]


def test_another_dictionary_can_be_imported(post: Post) -> None:
    dictionary = (
        post("AutoID", content="metadata", format="csv").text + "extra,autoid,,text,Extra" + "," * 13 + "\n"
    )
    assert post("AutoID", content="metadata", format="csv", data=dictionary).text == "6"
    assert send(post, [{"record_id": "1", "extra": "there"}], "AutoID") == {"count": 1}
    assert post("AutoID", content="metadata", format="csv", data="nonsense\n1\n").status_code == 400


def test_a_restart_keeps_records_tokens_and_log(tmp_path: Path) -> None:
    with running_sandbox(tmp_path) as sandbox:
        tokens, port = sandbox.tokens, int(sandbox.url.split(":")[2].split("/")[0])
        sandbox.store.put("AutoID", Place("1"), {"autoid_value": "a"})
        sandbox.store.touch("AutoID", "1")
        sandbox.store.write_log("AutoID", "me", "record_add", "Create record 1")
    with running_sandbox(tmp_path, port) as sandbox:
        assert sandbox.tokens == tokens
        assert sandbox.store.records("AutoID") == ["1"]
        assert len(sandbox.log("AutoID")) == 1


def test_a_port_in_use_and_a_strange_folder_are_told(tmp_path: Path, redcap: Sandbox) -> None:
    port = int(redcap.url.split(":")[2].split("/")[0])
    with pytest.raises(ConfigurationError, match=r"another --port"), running_sandbox(tmp_path / "b", port):
        pass
    (tmp_path / "redcap.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigurationError, match=r"another --data"):
        Sandbox(tmp_path)
