"""A contract test against a scratch project of a real REDCap: what our client and sandbox rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fiona_dagster.errors import RedcapRejected
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.dictionary import COLUMNS
from fiona_dagster.redcap.projects import require_empty
from fiona_dagster.redcap.rows import INSTANCE, INSTRUMENT, Row

_FIELDS = (
    ("record_id", "base", "text", "", ""),
    ("name", "base", "text", "", ""),
    ("day", "base", "text", "", "date_ymd"),
    ("moment", "base", "text", "", "datetime_ymd"),
    ("kind", "base", "dropdown", "1, one | 2, two", ""),
    ("marks", "base", "checkbox", "1, one | 2, two | -9, none", ""),
    ("note", "base", "notes", "", ""),
    ("paper", "base", "file", "", ""),
    ("visit", "visits", "text", "", ""),
)
_CONTENT = bytes(range(256)) * 8
_ODD = "Grüße, \"quoted\" <b>& 'x' 日本\nsecond line"


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    what: str
    problem: str = ""
    """Empty: as expected."""


def selftest(client: RedcapClient) -> Iterator[Finding]:
    """Tries everything that the gateway relies on; leaves the project without records.

    Args:
        client: of a scratch project; its dictionary is replaced.

    Raises:
        UsageError: the project holds records; nothing was changed.
    """
    require_empty(client, "the scratch project")
    yield from map(_try, _set_up(client))
    try:
        yield from map(_try, _checks(client))
    finally:
        rows = client.export_records(fields=["record_id"])
        if rows:
            client.delete_records(sorted({row["record_id"] for row in rows}))


Step = tuple[str, Callable[[], object], object]


def _try(step: Step) -> Finding:
    what, call, expected = step
    try:
        got = call()
    except RedcapRejected as error:
        if isinstance(expected, Refusal) and expected.words in str(error) and error.status == 400:
            return Finding(what)
        return Finding(what, str(error))
    return Finding(what) if got == expected else Finding(what, f"answered {got!r}, expected {expected!r}")


@dataclass(frozen=True)
class Refusal:
    """What is expected to be refused."""

    words: str
    """Part of the message; status 400."""


def _set_up(client: RedcapClient) -> list[Step]:
    rows: list[Row] = []
    for name, form, kind, choices, validation in _FIELDS:
        known = {
            "field_name": name,
            "form_name": form,
            "field_type": kind,
            "field_label": name,
            "select_choices_or_calculations": choices,
            "text_validation_type_or_show_slider_number": validation,
        }
        rows.append({column: known.get(column, "") for column in COLUMNS})
    repeats = [{"form_name": "visits", "custom_form_label": ""}]
    return [
        ("version", lambda: bool(client.version()), True),
        ("a dictionary is imported", lambda: client.import_metadata(rows), len(rows)),
        (
            "a repeating instrument is made",
            lambda: client.import_structure("repeatingFormsEvents", repeats),
            None,
        ),
        ("instruments that repeat", client.repeating, frozenset({"visits"})),
        ("export names of a checkbox", lambda: client.columns_of("marks")["-9"], "marks____9"),
        ("no events in a classic project", client.events, []),
    ]


def _checks(client: RedcapClient) -> list[Step]:
    base: Row = {"record_id": "1", INSTRUMENT: "", INSTANCE: "", "name": "a"}
    visit: Row = {"record_id": "1", INSTRUMENT: "visits", INSTANCE: "2", "visit": "v"}

    def send(row: Row, *, overwrite: bool = False) -> int:
        return client.import_records([row], overwrite=overwrite)

    def value(field: str) -> str:
        rows = client.export_records(records=["1"], fields=["record_id", field])
        return next((row[field] for row in rows if row[field]), "")

    def stored(field: str, text: str) -> str:
        send({**base, field: text}, overwrite=True)
        return value(field)

    def normal() -> str:
        send({**base, "name": "", "note": "n"})
        return value("name")

    def twice() -> int:
        send(visit)
        send(visit)
        return len(client.export_records(fields=["visit"]))

    def file() -> tuple[str, bytes]:
        client.import_file("1", "paper", "a.txt", _CONTENT)
        return client.export_file("1", "paper")

    def no_file() -> object:
        client.delete_file("1", "paper")
        return client.export_file("1", "paper")

    return [
        ("a record is imported and counted", lambda: client.import_records([base, visit]), 1),
        ("any text comes back as it was sent", lambda: stored("note", _ODD).replace("\r\n", "\n"), _ODD),
        ("a date", lambda: stored("day", "2024-02-29"), "2024-02-29"),
        ("a date and time", lambda: stored("moment", "2024-02-29 23:59"), "2024-02-29 23:59"),
        ("an empty value is ignored unless it overwrites", normal, "a"),
        ("an empty value overwrites", lambda: stored("name", ""), ""),
        ("a checkbox", lambda: _tick(client, base), ("1", "0")),
        ("the same instance twice is one", twice, 1),
        ("filterLogic", lambda: len(client.export_records(fields=["kind"], filter_logic="[kind] = '2'")), 0),
        ("dateRangeBegin", lambda: client.export_records(date_range=("2100-01-01 00:00:00", "")), []),
        ("a file", file, ("a.txt", _CONTENT)),
        ("no file", no_file, Refusal("There is no file to download")),
        (
            "an unknown field is refused",
            lambda: client.export_records(fields=["foo"]),
            Refusal("are not valid"),
        ),
        (
            "an unknown column is refused",
            lambda: send({**base, "foo": "x"}),
            Refusal("not found in the project"),
        ),
        ("a bad category is refused", lambda: send({**base, "kind": "9"}), Refusal("not a valid category")),
        ("a bad date is refused", lambda: send({**base, "day": "31.12.2024"}), Refusal("")),
        ("the log names the record", lambda: bool(client.log(record="1")), True),
        ("deleting", lambda: client.delete_records(["1"]), 1),
        ("nothing is left", lambda: client.export_records(fields=["record_id"]), []),
        ("deleting again is refused", lambda: client.delete_records(["1"]), Refusal("cannot be deleted")),
    ]


def _tick(client: RedcapClient, base: Row) -> tuple[str, str]:
    client.import_records([{**base, "marks___1": "1"}])
    (row, *_) = client.export_records(records=["1"], fields=["record_id", "marks"])
    return row["marks___1"], row["marks___2"]
