"""The sandbox over real sockets with plain requests: texts and statuses of redcap-api.md section 8."""

from __future__ import annotations

import csv
import http.client
import io
import json
import re
import xml.etree.ElementTree as ET
from urllib.parse import urlsplit

import pytest
import requests

from fiona_dagster.redcap.sandbox import Sandbox
from tests.redcap.conftest import Post, poster

INCOMING = "study_instance_uid"


@pytest.fixture(scope="module")
def post(quiet_redcap: Sandbox) -> Post:
    return poster(quiet_redcap)


@pytest.fixture(scope="module", autouse=True)
def _content(post: Post) -> None:
    rows = [
        {INCOMING: "1.2.3", "study_description": 'a, "quoted" <b>\nline & é'},
        {
            INCOMING: "1.2.3",
            "redcap_repeat_instrument": "series",
            "redcap_repeat_instance": "1",
            "series_instance_uid": "1.2.3.1",
        },
        {
            INCOMING: "1.2.3",
            "redcap_repeat_instrument": "transfers",
            "redcap_repeat_instance": "1",
            "transfer_error___2": "1",
        },
    ]
    answer = post(content="record", format="json", data=json.dumps(rows))
    assert (answer.status_code, answer.json()) == (200, {"count": 1})


REFUSALS = {
    "unknown content": (
        {"content": "nonsense"},
        400,
        'The value of the parameter "content" is not valid',
    ),
    "no content": ({}, 400, 'The value of the parameter "content" is not valid'),
    "unknown field": (
        {"content": "record", "fields[0]": "foo"},
        400,
        "The following values in the parameter \"fields\" are not valid: 'foo'",
    ),
    "checkbox column as field": (
        {"content": "record", "fields[0]": "transfer_error___1"},
        400,
        "The following values in the parameter \"fields\" are not valid: 'transfer_error___1'",
    ),
    "pseudo-field": (
        {"content": "record", "fields[0]": "redcap_repeat_instance"},
        400,
        "The following values in the parameter \"fields\" are not valid: 'redcap_repeat_instance'",
    ),
    "unknown form": (
        {"content": "record", "forms[0]": "foo"},
        400,
        "The following values in the parameter \"forms\" are not valid: 'foo'",
    ),
    "arms": ({"content": "arm"}, 400, "You cannot export arms for classic projects"),
    "events": ({"content": "event"}, 400, "You cannot export events for classic projects"),
    "mappings": (
        {"content": "formEventMapping"},
        400,
        "You cannot export form/event mappings for classic projects",
    ),
    "file field": (
        {"content": "file", "action": "export", "field": "mugshotttttt"},
        400,
        "The field 'mugshotttttt' does not exist or is not a 'file' field",
    ),
    "renaming nothing": (
        {"content": "record", "action": "rename", "record": "-1", "new_record_name": "2"},
        400,
        'The record "-1" does not exist',
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("fmt", ["json", "csv", "xml"])
def test_refusals_have_redcaps_words_in_every_format(post: Post, case: str, fmt: str) -> None:
    fields, status, text = REFUSALS[case]
    answer = post(fields=fields, format=fmt)
    assert answer.status_code == status
    assert _error(answer, fmt) == text


def _error(answer: requests.Response, fmt: str) -> str:
    answer.encoding = "utf-8"
    if fmt == "json":
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
        assert set(answer.json()) == {"error"}
        return str(answer.json()["error"])
    if fmt == "csv":
        assert answer.text.startswith("ERROR: ")
        return answer.text.removeprefix("ERROR: ")
    assert answer.text.startswith('<?xml version="1.0" encoding="UTF-8" ?>\n<hash><error>')
    found = ET.fromstring(answer.content).findtext("error")  # noqa: S314
    assert found is not None
    return found


@pytest.mark.parametrize("token", ["", "0" * 32, "not a token"])
def test_a_wrong_token_is_403(post: Post, token: str) -> None:
    answer = post(token=token, content="version", format="json")
    assert (answer.status_code, answer.json()) == (
        403,
        {"error": "You do not have permissions to use the API"},
    )


@pytest.mark.parametrize(
    ("rights", "fields", "text"),
    [
        ((), {"content": "version"}, "You do not have permissions to use the API"),
        (("api",), {"content": "record", "data": "[]"}, "You do not have API Import/Update privileges"),
        (
            ("api", "export", "import"),
            {"content": "record", "action": "delete", "records[0]": "1.2.3"},
            "You do not have Delete Record privileges",
        ),
    ],
)
def test_missing_rights_are_403(
    quiet_redcap: Sandbox, post: Post, rights: tuple[str, ...], fields: dict[str, str], text: str
) -> None:
    answer = post(fields=fields, token=quiet_redcap.add_token("Incoming", rights), format="json")
    assert (answer.status_code, answer.json()["error"]) == (403, text)


def test_import_of_unknown_columns(post: Post) -> None:
    data = json.dumps([{INCOMING: "1.2.9", "foo": "1"}, {INCOMING: "1.2.9", "baz": "1", "study_date": "2"}])
    answer = post(content="record", format="json", data=data)
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "The following fields were not found in the project as real data fields: foo, baz"
    )


@pytest.mark.parametrize("column", ["transfer_info_text", "redcap_event_name", "transfer_error"])
def test_columns_that_hold_no_data_are_unknown_too(post: Post, column: str) -> None:
    answer = post(content="record", format="json", data=json.dumps([{INCOMING: "1.2.9", column: "1"}]))
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(f"real data fields: {column}")


@pytest.mark.parametrize("fmt", ["json", "csv", "xml"])
def test_bad_categories_are_told_in_lines(post: Post, fmt: str) -> None:
    rows = [{"record_id": "p1", "project_type": "9"}, {"record_id": "p2", "project_active": "yes"}]
    answer = post(
        "DataTransferProjects", content="record", format="json", returnFormat=fmt, data=json.dumps(rows)
    )
    assert answer.status_code == 400
    assert _error(answer, fmt).split("\n") == [
        '"p1","project_type","9","The value is not a valid category for project_type"',
        '"p2","project_active","yes","The value is not a valid category for project_active"',
    ]


def test_nothing_to_repeat_and_no_file(post: Post) -> None:
    answer = post("AutoID", content="repeatingFormsEvents", format="json")
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "You cannot export repeating instruments and events because the project does not contain any "
        "repeating instruments and events"
    )
    answer = post(
        "DataTransferProjects",
        content="file",
        action="export",
        field="leave_alone_current_rek",
        format="json",
    )
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "There is no file to download for this record",
    )


def test_deleting_unknown_records_deletes_nothing(post: Post) -> None:
    answer = post(
        content="record", action="delete", format="json", fields={"records[0]": "1.2.3", "records[1]": "9"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "One or more of the records provided cannot be deleted because they do not exist"
    )
    assert post(content="record", format="json", fields={"records[0]": "1.2.3"}).json()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_405(quiet_redcap: Sandbox, method: str) -> None:
    assert requests.request(method, quiet_redcap.url, timeout=5).status_code == 405


def test_other_addresses(quiet_redcap: Sandbox) -> None:
    answer = requests.post(quiet_redcap.url.rstrip("/"), timeout=120, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (301, "/api/")
    assert requests.post(quiet_redcap.url + "v1/", timeout=120).status_code == 404


def test_xml_is_the_default_of_data_and_errors(post: Post) -> None:
    assert post(content="metadata").headers["content-type"].startswith("text/xml")
    assert _error(post(content="nonsense"), "xml") == 'The value of the parameter "content" is not valid'
    assert _error(post(content="nonsense", format="csv"), "csv")
    assert _error(post(content="nonsense", format="xml", returnFormat="json"), "json")


def test_texts_without_quotes(post: Post) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", post(content="version", format="json").text)
    assert post("CouplingList", content="generateNextRecordName", format="json").text == "1"


def test_metadata_instruments_and_field_names(post: Post) -> None:
    rows = post(content="metadata", format="json").json()
    assert rows[0]["field_name"] == INCOMING
    assert list(rows[0])[:4] == ["field_name", "form_name", "section_header", "field_type"]
    assert {len(row) for row in rows} == {18}
    assert len(post(content="metadata", format="json", fields={"fields[0]": "study_date"}).json()) == 1
    assert [row["instrument_name"] for row in post(content="instrument", format="json").json()] == [
        "incoming_studies",
        "series",
        "transfers",
    ]
    names = post(content="exportFieldNames", format="json").json()
    assert {
        "original_field_name": "transfer_error",
        "choice_value": "2",
        "export_field_name": "transfer_error___2",
    } in names
    assert post(content="exportFieldNames", field="foo", format="json").status_code == 400


def test_project_is_one_object_with_integers_for_flags(post: Post) -> None:
    answer = post(content="project", format="json").json()
    assert (answer["is_longitudinal"], answer["has_repeating_instruments_or_events"]) == (0, 1)
    assert post("AutoID", content="project", format="json").json()["has_repeating_instruments_or_events"] == 0


def test_flat_rows_base_first_then_a_row_per_instance(post: Post) -> None:
    asked = {"fields[0]": INCOMING, "fields[1]": "series_instance_uid", "fields[2]": "transfer_error"}
    blank = {
        INCOMING: "1.2.3",
        "redcap_repeat_instrument": "",
        "redcap_repeat_instance": "",
        "series_instance_uid": "",
        **{f"transfer_error___{code}": "" for code in "123"},
    }
    series = {
        "redcap_repeat_instrument": "series",
        "redcap_repeat_instance": 1,
        "series_instance_uid": "1.2.3.1",
    }
    transfer = {"redcap_repeat_instrument": "transfers", "redcap_repeat_instance": 1}
    boxes = {"transfer_error___1": "0", "transfer_error___2": "1", "transfer_error___3": "0"}
    assert post(content="record", format="json", fields=asked).json() == [
        blank,
        {**blank, **series},
        {**blank, **transfer, **boxes},
    ]


def test_the_record_id_comes_only_when_asked_for(post: Post) -> None:
    rows = post(content="record", format="json", fields={"fields[0]": "series_instance_uid"}).json()
    assert rows == [
        {"redcap_repeat_instrument": "series", "redcap_repeat_instance": 1, "series_instance_uid": "1.2.3.1"}
    ]


def test_csv_and_xml_hold_the_same_values_as_json(post: Post) -> None:
    asked = {"fields[0]": INCOMING, "fields[1]": "study_description"}
    rows = post(content="record", format="json", fields=asked).json()
    wanted = 'a, "quoted" <b>\nline & é'
    assert rows[0]["study_description"] == wanted
    text = post(content="record", format="csv", fields=asked).content.decode()
    assert next(csv.DictReader(io.StringIO(text)))["study_description"] == wanted
    root = ET.fromstring(post(content="record", format="xml", fields=asked).content)  # noqa: S314
    assert (root.tag, root.findtext("item/study_description")) == ("records", wanted)


@pytest.mark.parametrize(("fmt", "nothing"), [("json", "[]"), ("csv", ""), ("xml", "<records></records>")])
def test_no_record_matches(post: Post, fmt: str, nothing: str) -> None:
    answer = post(content="record", format=fmt, fields={"records[0]": "no such"})
    assert answer.status_code == 200
    assert answer.text.endswith(nothing)


def test_a_descriptive_field_may_be_asked_for_and_has_no_column(post: Post) -> None:
    asked = {"fields[0]": "transfer_info_text", "fields[1]": "study_description"}
    (row,) = post(content="record", format="json", fields=asked).json()
    assert "transfer_info_text" not in row


def test_labels(post: Post) -> None:
    asked = {"fields[0]": "transfer_error", "rawOrLabel": "label"}
    (row,) = post(content="record", format="json", fields=asked).json()
    assert [row[f"transfer_error___{code}"] for code in "123"] == ["Unchecked", "Checked", "Unchecked"]


def test_lists_may_be_comma_separated(post: Post) -> None:
    (row,) = post(content="record", format="json", fields={"fields": f"{INCOMING},study_date"}).json()
    assert set(row) == {INCOMING, "study_date", "redcap_repeat_instrument", "redcap_repeat_instance"}


def test_a_body_that_is_too_large_is_413_before_it_is_read(quiet_redcap: Sandbox) -> None:
    connection = http.client.HTTPConnection(urlsplit(quiet_redcap.url).netloc, timeout=5)
    connection.putrequest("POST", "/api/")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
