"""Record export: base rows, a row per repeating instance, flat or eav (redcap-api.md sections 3 and 6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fiona_dagster.redcap.dictionary import COMPLETE, Field
from fiona_dagster.redcap.rows import INSTANCE, INSTRUMENT
from fiona_dagster.redcap.sandbox.formats import ApiError, ExportRow
from fiona_dagster.redcap.sandbox.logic import Logic, parse_logic
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.store import Place, Project, Store

_TIME = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?")


@dataclass(frozen=True)
class Column:
    """One column of a flat export; ``field`` is None for ``FORM_complete``."""

    name: str
    form: str
    field: Field | None
    code: str = ""

    @property
    def original(self) -> str:
        """Name as eav rows use it."""
        return self.field.name if self.field else self.name

    def blank(self, *, gray: bool) -> str:
        """What an instance shows where nothing is stored."""
        if self.field is None:
            return "" if gray else "0"
        return "0" if self.field.type == "checkbox" else ""

    def label(self, value: str) -> str:
        """The value as ``rawOrLabel=label`` shows it."""
        if self.field is None:
            return dict(COMPLETE).get(value, value)
        if self.field.type == "checkbox":
            return {"1": "Checked", "0": "Unchecked"}.get(value, value)
        return dict(self.field.choices).get(value, value)


def export_records(store: Store, project: Project, params: Params) -> tuple[list[ExportRow], list[str]]:
    """Rows and their column names.

    Raises:
        ApiError: a parameter names something that the project has not.
    """
    columns = _selected(project, params)
    kind = params.choice("type", ("flat", "eav"), "flat")
    labels = params.choice("rawOrLabel", ("raw", "label", "both"), "raw") == "label"
    gray = params.flag("exportBlankForGrayFormStatus")
    places = _places(store, project, params, columns)
    if kind == "eav":
        head = ["record", *([INSTRUMENT, INSTANCE] if project.repeating else []), "field_name", "value"]
        return [row for place in places for row in _eav(project, columns, *place)], head
    rows = [_flat(project, columns, place, values, gray=gray) for place, values in places]
    if labels:
        rows = [
            row
            | {
                column.name: column.label(str(row[column.name]))
                for column in columns
                if row[column.name] != ""
            }
            for row in rows
        ]
    return rows, _header(project, columns)


def _selected(project: Project, params: Params) -> list[Column]:
    fields, forms = params.list("fields"), params.list("forms")
    every = _all_columns(project)
    known = {*project.dictionary.by_name, *(column.original for column in every)}
    if invalid := [name for name in fields if name not in known]:
        raise _not_valid("fields", invalid)
    if invalid := [name for name in forms if name not in project.dictionary.forms]:
        raise _not_valid("forms", invalid)
    if not fields and not forms:
        return every
    return [column for column in every if column.original in fields or column.form in forms]


def _not_valid(parameter: str, names: Iterable[str]) -> ApiError:
    quoted = ", ".join(f"'{name}'" for name in names)
    return ApiError(f'The following values in the parameter "{parameter}" are not valid: {quoted}')


def _all_columns(project: Project) -> list[Column]:
    columns: list[Column] = []
    for form in project.dictionary.forms:
        for field in project.dictionary.on_form(form):
            if field.exported:
                columns += [Column(name, form, field, code) for name, code in field.columns]
        columns.append(Column(f"{form}_complete", form, None))
    return columns


def _places(
    store: Store, project: Project, params: Params, columns: list[Column]
) -> list[tuple[Place, dict[str, str]]]:
    """The places to show, in order, with what is stored there."""
    names = {column.name for column in columns}
    forms = {column.form for column in columns}
    logic = parse_logic(params.get("filterLogic"), project)
    wanted = _wanted_records(store, project, params)
    lookup = names | {f"{form}_complete" for form in forms} | (logic.names if logic else set())
    named = params.list("records")
    stored = store.values(project.name, sorted(lookup), wanted if named else None)
    by_record: dict[str, list[Place]] = {record: [] for record in wanted}
    for place in stored:
        if place[0] in by_record and place[1]:
            by_record[place[0]].append(place)
    shown: list[tuple[Place, dict[str, str]]] = []
    for record in sorted(by_record, key=natural):
        base = (record, "", 0)
        if logic and not _matches(logic, project, [base, *by_record[record]], stored):
            continue
        if project.dictionary.record_id in names or names & stored.get(base, {}).keys():
            shown.append((base, stored.get(base, {})))
        order = sorted(by_record[record], key=lambda place: (project.repeating.index(place[1]), place[2]))
        shown += [(place, stored[place]) for place in order if place[1] in forms]
    return shown


def _matches(
    logic: Logic, project: Project, places: list[Place], stored: dict[Place, dict[str, str]]
) -> bool:
    """A record is shown when its base row or any instance, seen with the base row, satisfies the logic."""
    base = {project.dictionary.record_id: places[0][0], **stored.get(places[0], {})}
    return any(logic.true_for({**base, **stored.get(place, {})}) for place in places)


def _wanted_records(store: Store, project: Project, params: Params) -> list[str]:
    begin, end = params.get("dateRangeBegin"), params.get("dateRangeEnd")
    for name, value in (("dateRangeBegin", begin), ("dateRangeEnd", end)):
        if value and not _TIME.fullmatch(value):
            raise ApiError(f'The value of the parameter "{name}" is not valid')
    named = params.list("records")
    there = store.records(project.name, begin, end)
    return [record for record in there if record in set(named)] if named else there


def _header(project: Project, columns: list[Column]) -> list[str]:
    names = [column.name for column in columns]
    at = 1 if names[:1] == [project.dictionary.record_id] else 0
    return names[:at] + ([INSTRUMENT, INSTANCE] if project.repeating else []) + names[at:]


def _flat(
    project: Project, columns: list[Column], place: Place, values: dict[str, str], *, gray: bool
) -> ExportRow:
    record, form, instance = place
    cells: ExportRow = {}
    for column in columns:
        if column.name == project.dictionary.record_id:
            cells[column.name] = record
        elif _applies(project, column, form):
            cells[column.name] = values.get(column.name) or column.blank(gray=gray)
        else:
            cells[column.name] = ""
    cells |= {INSTRUMENT: form, INSTANCE: instance or ""}
    return {name: cells[name] for name in _header(project, columns)}


def _applies(project: Project, column: Column, form: str) -> bool:
    return column.form == form if form else column.form not in project.repeating


def _eav(project: Project, columns: list[Column], place: Place, values: dict[str, str]) -> list[ExportRow]:
    record, form, instance = place
    head: ExportRow = {"record": record}
    if project.repeating:
        head |= {INSTRUMENT: form, INSTANCE: instance or ""}
    rows: list[ExportRow] = []
    for column in columns:
        value = values.get(column.name, "")
        if column.name == project.dictionary.record_id:
            value = "" if form else record
        if column.code:
            value = column.code if value == "1" else ""
        if value and (column.name == project.dictionary.record_id or _applies(project, column, form)):
            rows.append({**head, "field_name": column.original, "value": value})
    return rows


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: numbers inside names by their size."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]
