"""Record import: all is checked first, then all is stored or nothing (redcap-api.md section 4)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from fiona_dagster.redcap.dictionary import Field, checkbox_column
from fiona_dagster.redcap.rows import EVENT, INSTANCE, INSTRUMENT
from fiona_dagster.redcap.sandbox import validation
from fiona_dagster.redcap.sandbox.exports import GROUP
from fiona_dagster.redcap.sandbox.formats import ApiError, parse_rows
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.records import Place
from fiona_dagster.redcap.sandbox.store import Access, Project, Store

Row = dict[str, str]

_NOT_IN_EVENT = "This field is on an instrument that is not designated for this event"
_ELSEWHERE = "This field is on a repeating instrument: {} must be given, and name the field's own instrument"


@dataclass(frozen=True)
class Imported:
    """Names of the records that were sent, in order; with forceAutoNumber also what they became."""

    records: tuple[str, ...]
    sent: tuple[str, ...]


def import_records(store: Store, project: Project, params: Params, access: Access) -> Imported | None:
    """Stores the call's ``data``; None for a bare object.

    Raises:
        ApiError: 400, and nothing was stored.
    """
    rows = parse_rows(params.get("data"), params.format, params.delimiter)
    if rows is None:
        return None
    if params.choice("type", ("flat", "eav"), "flat") == "eav":
        rows = _flattened(project, rows)
    overwrite = params.choice("overwriteBehavior", ("normal", "overwrite"), "normal") == "overwrite"
    date_format = params.choice("dateFormat", ("YMD", "DMY", "MDY"), "YMD")
    _check_columns(project, rows)
    with store.transaction():
        sent = _record_names(project, rows)
        names = (
            _numbered(store, project, sent, access)
            if params.flag("forceAutoNumber")
            else {name: name for name in sent}
        )
        ready = [_ready(store, project, row, names, date_format) for row in rows]
        if problems := [problem for place, row in ready for problem in _problems(project, place, row)]:
            raise ApiError("\n".join(problems))
        _check_groups(store, project, access, names.values(), rows)
        for place, row in ready:
            _store(
                store, project, _resolved(store, project, place), row, user=access.user, overwrite=overwrite
            )
        _join_groups(store, project, access, names, rows)
    return Imported(tuple(names.values()), tuple(names))


def _check_columns(project: Project, rows: Iterable[Row]) -> None:
    known = {name for name, field in project.column_fields.items() if field.importable}
    known |= {f"{form}_complete" for form in project.dictionary.forms}
    if project.setup.repeats:
        known |= {INSTRUMENT, INSTANCE}
    if project.setup.longitudinal:
        known.add(EVENT)
    if project.setup.dags:
        known.add(GROUP)
    columns = dict.fromkeys(name for row in rows for name in row)
    if unknown := [name for name in columns if name not in known]:
        raise ApiError(
            "The following fields were not found in the project as real data fields: " + ", ".join(unknown)
        )


def _record_names(project: Project, rows: Iterable[Row]) -> list[str]:
    names = dict.fromkeys(row.get(project.dictionary.record_id, "").strip() for row in rows)
    if any(not name or len(name) > 100 for name in names):
        raise ApiError(
            f"The record id field {project.dictionary.record_id} is missing or too long in the data"
        )
    return list(names)


def _numbered(store: Store, project: Project, names: Iterable[str], access: Access) -> dict[str, str]:
    prefix, _, first = next_record_name(store, project, access).rpartition("-")
    prefix += "-" if prefix else ""
    return {name: f"{prefix}{int(first) + index}" for index, name in enumerate(names)}


def next_record_name(store: Store, project: Project, access: Access) -> str:
    """One more than the highest whole number among the record names; in a group after the group's number."""
    prefix = f"{1 + list(project.setup.dag_names).index(access.dag)}-" if access.dag else ""
    tails = [name.removeprefix(prefix) for name in store.records(project.name) if name.startswith(prefix)]
    return f"{prefix}{max((int(tail) for tail in tails if tail.isdecimal()), default=0) + 1}"


def _check_groups(
    store: Store, project: Project, access: Access, records: Iterable[str], rows: Iterable[Row]
) -> None:
    named = {row.get(GROUP, "") for row in rows} - {""}
    if invalid := sorted(named - project.setup.dag_names.keys()):
        raise ApiError(f"The following values of {GROUP} are invalid: {', '.join(invalid)}")
    if access.dag:
        members = store.members(project.name)
        strange = [r for r in records if store.has_record(project.name, r) and members.get(r) != access.dag]
        if strange:
            raise ApiError(f'The record "{strange[0]}" does not belong to your data access group')


def _join_groups(
    store: Store, project: Project, access: Access, names: dict[str, str], rows: Iterable[Row]
) -> None:
    for row in rows:
        group = access.dag or row.get(GROUP, "")
        record = names[row[project.dictionary.record_id].strip()]
        if group and store.has_record(project.name, record):
            store.join(project.name, record, group)


def _ready(
    store: Store, project: Project, row: Row, names: dict[str, str], date_format: str
) -> tuple[Place, Row]:
    """Where a row goes (instance -1: a new one) and what it holds, dates in REDCap's order."""
    record = names[row[project.dictionary.record_id].strip()]
    event, form = _event(project, row), row.get(INSTRUMENT, "").strip()
    if form and not project.setup.form_repeats(event, form):
        raise ApiError(f"The following values of {INSTRUMENT} are invalid: {form}")
    fields = project.column_fields
    values: Row = {}
    for name, value in row.items():
        if name in (INSTRUMENT, INSTANCE, EVENT, GROUP, project.dictionary.record_id):
            continue
        dated = name in fields and validation.is_date(fields[name])
        values[name] = validation.to_ymd(value, date_format) if dated else value
    repeats = bool(form) or project.setup.event_repeats(event)
    return Place(record, event, form, _instance(row, repeats=repeats)), values


def _event(project: Project, row: Row) -> str:
    """The row's event; without one it lands in the first (as live servers do)."""
    if not project.setup.longitudinal:
        return ""
    event = row.get(EVENT, "").strip() or project.setup.event_names[0]
    if event not in project.setup.event_names:
        raise ApiError(f"The following values of {EVENT} are invalid: {event}")
    return event


def _instance(row: Row, *, repeats: bool) -> int:
    text = row.get(INSTANCE, "").strip()
    if not repeats:
        return 0
    if text == "new":
        return -1
    if not text:
        return 1
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**9):
        raise ApiError(f"The following values of {INSTANCE} are invalid: {text}")
    return int(text)


def _resolved(store: Store, project: Project, place: Place) -> Place:
    if place.instance >= 0:
        return place
    last = store.last_instance(project.name, place.record, place.event, place.form)
    return place._replace(instance=last + 1)


def _problems(project: Project, place: Place, row: Row) -> list[str]:
    """A line ``"RECORD","FIELD","VALUE","reason"`` for each value that can't be imported."""
    found: list[str] = []
    for name, value in row.items():
        if not value:
            continue
        field = project.column_fields.get(name)
        form = field.form if field else name.removesuffix("_complete")
        repeats = project.setup.form_repeats(place.event, form)
        if form != place.form if place.form else repeats:
            found.append(_line(place.record, name, value, _ELSEWHERE.format(INSTRUMENT)))
        elif not project.setup.has_form(place.event, form):
            found.append(_line(place.record, name, value, _NOT_IN_EVENT))
        elif value not in project.setup.codes and (reason := _reason(name, field, value)):
            found.append(_line(place.record, name, value, reason))
    return found


def _reason(name: str, field: Field | None, value: str) -> str | None:
    if field is not None:
        return validation.problem(name, field, value)
    return None if value in ("0", "1", "2") else f"The value is not a valid category for {name}"


def _line(*cells: str) -> str:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="").writerow(cells)
    return out.getvalue()


def _store(store: Store, project: Project, place: Place, row: Row, *, user: str, overwrite: bool) -> None:
    """Writes one row. A row of blanks makes neither a record nor an instance (as live servers do)."""
    values = {name: _stored(project, name, value) for name, value in row.items() if value or overwrite}
    there = store.has_record(project.name, place.record)
    if not any(row.values()) and not there:
        return
    forms = {_form(project, name) for name, value in values.items() if value}
    changed = store.put(project.name, place, values)
    if not changed:
        return
    known = store.values(project.name, [f"{form}_complete" for form in forms], [place.record]).get(place, {})
    store.put(
        project.name, place, {f"{form}_complete": "0" for form in forms if f"{form}_complete" not in known}
    )
    made = store.touch(project.name, place.record)
    instance = [f"[instance = {place.instance}]"] if place.instance > 1 else []
    details = ", ".join([*instance, *(f"{name} = '{row.get(name, '')}'" for name in changed)])
    verb, kind = ("Create", "record_add") if made else ("Update", "record_edit")
    action = f"{verb} record (API) {place.record}"
    store.write_log(project.name, user, kind, action, details=details, record=place.record)


def _stored(project: Project, name: str, value: str) -> str:
    """An unticked box is stored as nothing."""
    field = project.column_fields.get(name)
    return "" if field is not None and field.type == "checkbox" and value == "0" else value


def _form(project: Project, name: str) -> str:
    field = project.column_fields.get(name)
    return field.form if field else name.removesuffix("_complete")


def _flattened(project: Project, rows: Iterable[Row]) -> list[Row]:
    """Makes flat rows of eav ones; checkbox rows name the ticked code."""
    grouped: dict[tuple[str, ...], Row] = {}
    for row in rows:
        place = {name: row[name] for name in (EVENT, INSTRUMENT, INSTANCE, GROUP) if name in row}
        key = (row.get("record", ""), *place.values())
        head = {project.dictionary.record_id: key[0], **place}
        flat = grouped.setdefault(key, head)
        name, value = row.get("field_name", ""), row.get("value", "")
        field = project.dictionary.by_name.get(name)
        if name == project.dictionary.record_id:
            continue
        if field is not None and field.type == "checkbox":
            flat[checkbox_column(name, value)] = "1"
        else:
            flat[name] = value
    return list(grouped.values())
