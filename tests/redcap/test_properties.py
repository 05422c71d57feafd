"""What goes in comes out: values over the wire, CSV, and texts without values."""

from __future__ import annotations

import contextlib
import json
import string
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.redcap import RedcapClient, site_time
from fiona_dagster.redcap.answers import error_text, redact
from fiona_dagster.redcap.rows import clean_value, same_value
from fiona_dagster.redcap.sandbox import Sandbox
from fiona_dagster.redcap.sandbox.exports import natural
from fiona_dagster.redcap.sandbox.formats import ApiError, error_answer, parse_rows, rows_answer, to_csv

TEXT = st.text(max_size=60)
FIELDS = ("study_institution_name", "study_patient_name", "study_description", "study_accession_number")
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXT)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(values=st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXT)))
def test_any_text_survives_the_wire(quiet_redcap: Sandbox, values: dict[str, str]) -> None:
    client = RedcapClient(quiet_redcap.url, quiet_redcap.tokens["Incoming"], calls_per_minute=10**6)
    row = {"study_instance_uid": "1.2.3", "study_date": "20261123", **values}
    client.import_records([row], overwrite=True)
    assert client.differences([row]) == set()
    (stored,) = client.export_records(records=["1.2.3"], fields=["study_instance_uid", *FIELDS])
    assert {name: stored[name] for name in FIELDS} == {name: clean_value(values[name]) for name in FIELDS}


@given(st.text())
def test_a_cleaned_value_is_json_and_utf_8_and_stays_clean(value: str) -> None:
    clean = clean_value(value)
    assert json.loads(json.dumps(clean)) == clean
    assert clean.encode("utf-8").decode("utf-8") == clean
    assert clean_value(clean) == clean
    assert same_value("study_description", clean, clean)


@given(ROWS, st.sampled_from([",", ";", "\t", "|", "^"]))
def test_csv_is_read_as_it_was_written(rows: list[dict[str, str]], delimiter: str) -> None:
    clean = [{name: clean_value(value) for name, value in row.items()} for row in rows]
    assert parse_rows(to_csv(clean, FIELDS, delimiter), "csv", delimiter) == clean


@given(ROWS)
def test_xml_is_read_as_it_was_written(rows: list[dict[str, str]]) -> None:
    clean = [{name: clean_value(value) for name, value in row.items()} for row in rows]
    answer = rows_answer(clean, "xml", "records", FIELDS)  # type: ignore[arg-type]
    assert parse_rows(answer.body.decode(), "xml") == [
        {name: value.replace("\ufffe", "").replace("\uffff", "") for name, value in row.items()}
        for row in clean
    ]


def test_a_value_may_look_like_a_doctype_but_there_is_none() -> None:
    rows = [{"a": "<!DOCTYPE x [<!ENTITY y 'z'>]>"}]
    answer = rows_answer(rows, "xml", "records", ["a"])  # type: ignore[arg-type]
    assert parse_rows(answer.body.decode(), "xml") == rows
    for before in ("", "<!-- <![CDATA[ -->"):
        text = f"{before}<!DOCTYPE x [<!ENTITY y 'z'>]><records><item><a>&y;]]&gt;</a></item></records>"
        with pytest.raises(ApiError):
            parse_rows(text, "xml")


@given(st.text(min_size=1), st.sampled_from(["json", "csv", "xml"]))
def test_anything_can_be_parsed_or_is_refused(data: str, fmt: str) -> None:
    rows = None
    with contextlib.suppress(ApiError):
        rows = parse_rows(data, fmt)
    assert rows is None or all(isinstance(value, str) for row in rows for value in row.values())


@given(
    st.text(string.ascii_letters + " .<>&'", min_size=1).map(str.strip).filter(bool),
    st.sampled_from(["json", "csv", "xml"]),
)
def test_error_texts_come_back_from_every_format(text: str, fmt: str) -> None:
    assert error_text(error_answer(ApiError(text), fmt).body.decode()) == text.strip('"')


@given(st.text())
def test_any_body_can_be_judged(body: str) -> None:
    assert error_text(body) is None or isinstance(error_text(body), str)


SECRET = st.from_regex(r"[A-Z][A-Za-z0-9^]{2,12}[0-9]", fullmatch=True)


@given(
    st.sampled_from(
        [
            '"{0}","transfer_name","{0}","The value is not a valid category for transfer_name"',
            "The following values of redcap_event_name are invalid: {0}, {0}",
            'The record "{0}" does not exist',
            "The record '{0}' does not exist",
            "Record {0} is locked",
            "The value {0} of transfer_name is a duplicate of {0}.",
        ]
    ),
    SECRET,
)
def test_no_value_of_a_server_reaches_our_errors(text: str, secret: str) -> None:
    told = redact(text.format(secret), known={"transfer_name", "redcap_event_name"})
    assert secret not in told
    assert len(told) > 10


@given(st.from_regex(r"[a-z]{3,12}", fullmatch=True).filter(lambda value: value not in "record is locked by"))
def test_values_that_we_sent_are_taken_out_even_when_they_look_like_words(secret: str) -> None:
    assert secret not in redact(f"record {secret} is locked by {secret}", sent=[secret])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '"P1","project_type","9","The value is not a valid category for project_type"',
            "project_type: The value is not a valid category for project_type",
        ),
        (
            "The following fields were not found in the project as real data fields: foo, Baz",
            "The following fields were not found in the project as real data fields: foo, …",
        ),
        ("You do not have API Import/Update privileges", "You do not have API Import/Update privileges"),
        ("ERROR: You do not have permissions to use the API", "You do not have permissions to use the API"),
    ],
)
def test_what_helps_stays(text: str, told: str) -> None:
    assert redact(text, known={"project_type", "foo"}) == told


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_record_names_sort_as_numbers(a: int, b: int) -> None:
    assert (natural(f"p-{a}") < natural(f"p-{b}")) == (a < b)


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_record_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural)) == sorted(names)


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["UTC", "Europe/Oslo", "America/St_Johns", "Asia/Kathmandu"]),
)
def test_site_times_name_the_same_minute(moment: datetime, zone: str) -> None:
    aware = moment.replace(tzinfo=UTC)
    there = aware.astimezone(ZoneInfo(zone))
    text = site_time(aware, zone)
    assert len(text) == 16
    read = datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone), fold=there.fold)
    assert 0 <= (aware - read.astimezone(UTC)).total_seconds() < 60
