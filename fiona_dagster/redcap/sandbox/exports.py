"""Record export: base rows, a row per repeating instance, flat or eav (redcap-api.md sections 3 and 6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fiona_dagster.redcap.dictionary import COMPLETE, Field
from fiona_dagster.redcap.rows import EVENT, INSTANCE, INSTRUMENT
from fiona_dagster.redcap.sandbox.formats import ApiError, ExportRow
from fiona_dagster.redcap.sandbox.logic import Logic, parse_logic
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.records import Place
from fiona_dagster.redcap.sandbox.store import Access, Project, Store

GROUP = "redcap_data_access_group"

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


def export_records(
    store: Store, project: Project, params: Params, access: Access
) -> tuple[list[ExportRow], list[str]]:
    """Rows and their column names.

    Raises:
        ApiError: a parameter names something that the project has not.
    """
    columns = _selected(project, params)
    kind = params.choice("type", ("flat", "eav"), "flat")
    labels = params.choice("rawOrLabel", ("raw", "label", "both"), "raw") == "label"
    gray = params.flag("exportBlankForGrayFormStatus")
    places = _places(store, project, params, columns, access)
    if kind == "eav":
        head = ["record", *_place_columns(project), "field_name", "value"]
        return [row for place in places for row in _eav(project, columns, *place)], head
    grouped = params.flag("exportDataAccessGroups") and bool(project.setup.dags) and not access.dag
    groups = store.members(project.name) if grouped else None
    rows = [_flat(project, columns, place, values, gray=gray, groups=groups) for place, values in places]
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
    return rows, _header(project, columns, grouped=grouped)


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
                columns += [Column(name, form, field, code) for name, code in project.columns(field)]
        columns.append(Column(f"{form}_complete", form, None))
    return columns


def _places(
    store: Store, project: Project, params: Params, columns: list[Column], access: Access
) -> list[tuple[Place, dict[str, str]]]:
    """The places to show, in order, with what is stored there."""
    names = {column.name for column in columns}
    forms = {column.form for column in columns}
    logic = parse_logic(params.get("filterLogic"), project)
    wanted = _wanted_records(store, project, params, access)
    events = _wanted_events(project, params)
    lookup = names | {f"{form}_complete" for form in forms} | (logic.names if logic else set())
    stored = store.values(project.name, sorted(lookup), wanted if params.list("records") else None)
    if project.setup.longitudinal and project.dictionary.record_id in names:
        for place in store.places(project.name):
            stored.setdefault(place, {})
    by_record: dict[str, list[Place]] = {record: [] for record in wanted}
    for place in stored:
        if place.record in by_record:
            by_record[place.record].append(place)
    shown: list[tuple[Place, dict[str, str]]] = []
    for record in sorted(by_record, key=natural):
        there = by_record[record]
        for event in events:
            places = [place for place in there if place.event == event]
            if logic and not _matches(logic, project, record, places, {p: stored[p] for p in there}):
                continue
            order = _shown(project, record, places, stored, names=names, forms=forms)
            shown += [(place, stored.get(place, {})) for place in order]
    return shown


def _shown(
    project: Project,
    record: str,
    places: list[Place],
    stored: dict[Place, dict[str, str]],
    *,
    names: set[str],
    forms: set[str],
) -> list[Place]:
    """Places of a record and event: base row or event instances first, then repeating instruments."""
    bases = sorted(place for place in places if not place.form)
    if not project.setup.longitudinal:
        bases = [Place(record)]
    asked = project.dictionary.record_id in names
    bases = [place for place in bases if asked or names & stored.get(place, {}).keys()]
    repeating = [place for place in places if place.form in forms and place.form in project.repeating]
    order = sorted(repeating, key=lambda place: (project.repeating.index(place.form), place.instance))
    return bases + order


def _matches(
    logic: Logic, project: Project, record: str, places: list[Place], stored: dict[Place, dict[str, str]]
) -> bool:
    """A record (with events: a record and event) is shown when its base row or any instance satisfies it."""
    row: dict[str, str] = {project.dictionary.record_id: record}
    for place, values in stored.items():  # other events, as [event][field]
        if not place.form and place.event:
            row |= {f"{place.event}|{name}": value for name, value in values.items()}
    for place in places:
        if not place.form:
            row |= stored[place]
    return logic.true_for(row) or any(logic.true_for({**row, **stored[place]}) for place in places)


def _wanted_events(project: Project, params: Params) -> list[str]:
    if not project.setup.longitudinal:
        return [""]
    asked = params.list("events")
    if invalid := [name for name in asked if name not in project.setup.event_names]:
        raise _not_valid("events", invalid)
    return [name for name in project.setup.event_names if not asked or name in asked]


def _wanted_records(store: Store, project: Project, params: Params, access: Access) -> list[str]:
    begin, end = params.get("dateRangeBegin"), params.get("dateRangeEnd")
    for name, value in (("dateRangeBegin", begin), ("dateRangeEnd", end)):
        if value and not _TIME.fullmatch(value):
            raise ApiError(f'The value of the parameter "{name}" is not valid')
    named = params.list("records")
    there = store.records(project.name, begin, end)
    if access.dag:
        members = store.members(project.name)
        there = [record for record in there if members.get(record) == access.dag]
    return [record for record in there if record in set(named)] if named else there


def _place_columns(project: Project) -> list[str]:
    events = [EVENT] if project.setup.longitudinal else []
    return events + ([INSTRUMENT, INSTANCE] if project.setup.repeats else [])


def _header(project: Project, columns: list[Column], *, grouped: bool) -> list[str]:
    names = [column.name for column in columns]
    at = 1 if names[:1] == [project.dictionary.record_id] else 0
    return names[:at] + _place_columns(project) + ([GROUP] if grouped else []) + names[at:]


def _flat(
    project: Project,
    columns: list[Column],
    place: Place,
    values: dict[str, str],
    *,
    gray: bool,
    groups: dict[str, str] | None,
) -> ExportRow:
    cells: ExportRow = {}
    for column in columns:
        if column.name == project.dictionary.record_id:
            cells[column.name] = place.record
        elif _applies(project, column, place):
            cells[column.name] = values.get(column.name) or column.blank(gray=gray)
        else:
            cells[column.name] = ""
    cells |= {EVENT: place.event, INSTRUMENT: place.form, INSTANCE: place.instance or ""}
    cells[GROUP] = (groups or {}).get(place.record, "")
    head = _header(project, columns, grouped=groups is not None)
    return {name: cells[name] for name in head}


def _applies(project: Project, column: Column, place: Place) -> bool:
    if place.form:
        return column.form == place.form
    setup = project.setup
    return setup.has_form(place.event, column.form) and not setup.form_repeats(place.event, column.form)


def _eav(project: Project, columns: list[Column], place: Place, values: dict[str, str]) -> list[ExportRow]:
    cells: ExportRow = {EVENT: place.event, INSTRUMENT: place.form, INSTANCE: place.instance or ""}
    head: ExportRow = {"record": place.record}
    head |= {name: cells[name] for name in _place_columns(project)}
    rows: list[ExportRow] = []
    for column in columns:
        value = values.get(column.name, "")
        if column.name == project.dictionary.record_id:
            value = "" if place.form else place.record
        if column.code:
            value = column.code if value == "1" else ""
        if value and (column.name == project.dictionary.record_id or _applies(project, column, place)):
            rows.append({**head, "field_name": column.original, "value": value})
    return rows


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key: numbers inside names by their size."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]
