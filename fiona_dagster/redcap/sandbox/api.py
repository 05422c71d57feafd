"""The API's dispatcher: one form in, one answer out. Knows no sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fiona_dagster.redcap.dictionary import COLUMNS, Dictionary
from fiona_dagster.redcap.sandbox import api_files, api_setup, formats
from fiona_dagster.redcap.sandbox.call import NO_DESIGN, NO_EXPORT, NO_IMPORT, Call
from fiona_dagster.redcap.sandbox.exports import export_records
from fiona_dagster.redcap.sandbox.formats import Answer, ApiError, ExportRow
from fiona_dagster.redcap.sandbox.imports import import_records, next_record_name
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.store import Project, Store

VERSION = "14.5.5"
"""What ``content=version`` says."""

_NO_API = "You do not have permissions to use the API"
_NO_DELETE = "You do not have Delete Record privileges"
_LOG_KINDS = {"": "", "export": "export", "manage": "manage", "record": "record_", "user": "user"}


def handle(store: Store, form: Mapping[str, str], files: Mapping[str, tuple[str, bytes]] = {}) -> Answer:
    """Answers one call.

    Args:
        store: the sandbox's memory.
        form: the call's form fields.
        files: name and bytes of the files that came with it.
    """
    params = Params(form)
    try:
        return _dispatch(store, params, files)
    except ApiError as error:
        return formats.error_answer(error, params.return_format)


def _dispatch(store: Store, params: Params, files: Mapping[str, tuple[str, bytes]]) -> Answer:
    access = store.access(params.get("token"))
    if access is None or "api" not in access.rights:
        raise ApiError(_NO_API, 403)
    handler = _HANDLERS.get(params.get("content"))
    if handler is None:
        raise ApiError('The value of the parameter "content" is not valid')
    return handler(Call(store, access, store.project(access.project), params, files))


def _record(call: Call) -> Answer:
    implied = "import" if call.params.has("data") else "export"
    action = call.params.choice("action", ("export", "import", "delete", "rename"), implied)
    return {"export": _export, "import": _import, "delete": _delete, "rename": _rename}[action](call)


def _export(call: Call) -> Answer:
    call.need("export", NO_EXPORT)
    rows, columns = export_records(call.store, call.project, call.params, call.access)
    return call.rows(rows, "records", columns)


def _report(call: Call) -> Answer:
    """Every report number stands for all records."""
    if not call.params.get("report_id").isdecimal():
        raise ApiError('The value of the parameter "report_id" is not valid')
    return _export(call)


def _import(call: Call) -> Answer:
    call.need("import", NO_IMPORT)
    fmt = call.params.return_format
    wanted = call.params.choice("returnContent", ("count", "ids", "auto_ids", "nothing"), "count")
    done = import_records(call.store, call.project, call.params, call.access)
    if done is None:
        return formats.count_answer(0, fmt)
    if wanted == "nothing":
        return Answer(200, formats.CONTENT_TYPES[fmt], b"")
    if wanted == "ids":
        return formats.ids_answer(done.records, fmt)
    if wanted == "auto_ids":
        return formats.ids_answer([f"{a},{b}" for a, b in zip(done.records, done.sent, strict=True)], fmt)
    return formats.count_answer(len(done.records), fmt)


def _delete(call: Call) -> Answer:
    call.need("delete", _NO_DELETE)
    store, project, records = call.store, call.project.name, call.params.list("records")
    form = call.params.get("instrument")
    if form and form not in call.project.dictionary.forms:
        raise ApiError(f"The following values in the parameter \"instrument\" are not valid: '{form}'")
    number = call.params.get("repeat_instance", "1")
    if not number.isdecimal():
        raise ApiError('The value of the parameter "repeat_instance" is not valid')
    event = call.params.get("event")
    if event and event not in call.project.setup.event_names:
        raise ApiError(f"The following values in the parameter \"event\" are not valid: '{event}'")
    with store.transaction():
        missing = [record for record in records if not store.has_record(project, record)]
        if missing or not records:
            raise ApiError(
                "One or more of the records provided cannot be deleted because they do not exist "
                f"in the project. The following records do not exist: {', '.join(missing)}"
            )
        for record in records:
            if form or event:
                _delete_part(store, call.project, record, event=event, form=form, instance=int(number))
            else:
                store.delete(project, record)
                if call.params.flag("delete_logging"):  # of whole records only, as on live servers
                    store.blank_log(project, record)
            details = f"{form} [instance = {number}]" if form else ""
            action = f"Delete record (API) {record}"
            store.write_log(
                project, call.access.user, "record_delete", action, details=details, record=record
            )
    return formats.count_answer(len(records), call.params.return_format, bare=True)


def _delete_part(
    store: Store, project: Project, record: str, *, event: str, form: str, instance: int
) -> None:
    """Deletes one instrument (in one event), or a whole event, of a record."""
    forms = [form] if form else list(project.dictionary.forms)
    for place in store.places(project.name, record):
        if place.event != event or (place.form and place.form not in forms):
            continue
        repeats = bool(place.form) or project.setup.event_repeats(event)
        if form and repeats and place.instance != instance:
            continue
        columns = [name for name, field in project.column_fields.items() if field.form in forms]
        store.delete_place(project.name, place, [*columns, *(f"{name}_complete" for name in forms)])


def _rename(call: Call) -> Answer:
    call.need("import", NO_IMPORT)
    old, new = call.params.get("record"), call.params.get("new_record_name")
    with call.store.transaction():
        if not call.store.has_record(call.project.name, old):
            raise ApiError(f'The record "{old}" does not exist')
        if not new or call.store.has_record(call.project.name, new):
            raise ApiError('The value of the parameter "new_record_name" is not valid')
        call.store.rename(call.project.name, old, new)
        action = f"Update record (API) {new}"
        call.store.write_log(call.project.name, call.access.user, "record_edit", action, record=new)
    return formats.count_answer(1, call.params.return_format, bare=True)


def _metadata(call: Call) -> Answer:
    if call.params.has("data"):
        return _import_metadata(call)
    fields, forms = call.params.list("fields"), call.params.list("forms")
    dictionary = call.project.dictionary
    for name, asked, known in (("fields", fields, dictionary.by_name), ("forms", forms, dictionary.forms)):
        if wrong := [value for value in asked if value not in known]:
            quoted = ", ".join(f"'{value}'" for value in wrong)
            raise ApiError(f'The following values in the parameter "{name}" are not valid: {quoted}')
    rows: list[ExportRow] = [
        dict(field.row)
        for field in dictionary.fields
        if not (fields or forms) or field.name in fields or field.form in forms
    ]
    return call.rows(rows, "records", COLUMNS)


def _import_metadata(call: Call) -> Answer:
    call.need("design", NO_DESIGN)
    rows = formats.parse_rows(call.params.get("data"), call.params.format, call.params.delimiter)
    try:
        dictionary = Dictionary.from_rows(rows or [])
    except ValueError as error:
        raise ApiError(f"The data dictionary is not valid: {error}") from None
    call.store.change_project(call.project.name, dictionary, call.project.setup)
    call.store.write_log(call.project.name, call.access.user, "manage", "Upload data dictionary (API)")
    return formats.count_answer(len(dictionary.fields), call.params.return_format, bare=True)


def _instruments(call: Call) -> Answer:
    rows: list[ExportRow] = [
        {"instrument_name": form, "instrument_label": form.replace("_", " ").capitalize()}
        for form in call.project.dictionary.forms
    ]
    return call.rows(rows, "instruments")


def _field_names(call: Call) -> Answer:
    wanted = call.params.get("field")
    rows: list[ExportRow] = []
    for form in call.project.dictionary.forms:
        for field in call.project.dictionary.on_form(form):
            if field.exported and field.type != "file":
                rows += [_names_row(field.name, code, name) for name, code in call.project.columns(field)]
        rows.append(_names_row(f"{form}_complete", "", f"{form}_complete"))
    if wanted:
        rows = [row for row in rows if row["original_field_name"] == wanted]
        if not rows:
            raise ApiError(f"The following values in the parameter \"field\" are not valid: '{wanted}'")
    return call.rows(rows, "fields")


def _names_row(original: str, code: str, exported: str) -> ExportRow:
    return {"original_field_name": original, "choice_value": code, "export_field_name": exported}


def _version(_call: Call) -> Answer:
    return formats.text_answer(VERSION)


def _next_record(call: Call) -> Answer:
    return formats.text_answer(next_record_name(call.store, call.project, call.access))


def _project(call: Call) -> Answer:
    blank = (
        "production_time purpose purpose_other project_notes custom_record_label secondary_unique_field "
        "project_irb_number project_grant_number project_pi_firstname project_pi_lastname "
        "external_modules"
    )
    off = (
        "in_production surveys_enabled scheduling_enabled record_autonumbering_enabled "
        "randomization_enabled ddp_enabled bypass_branching_erase_field_prompt"
    )
    row: ExportRow = {
        "project_id": 1 + sorted(call.store.tokens()).index(call.project.name),
        "project_title": call.project.title,
        "creation_time": call.project.created,
        "project_language": "English",
        "is_longitudinal": int(call.project.setup.longitudinal),
        "missing_data_codes": " | ".join(f"{c},{label}" for c, label in call.project.setup.missing_codes),
        "has_repeating_instruments_or_events": int(bool(call.project.setup.repeats)),
        "display_today_now_button": 1,
    }
    row |= dict.fromkeys(blank.split(), "") | dict.fromkeys(off.split(), 0)
    return formats.object_answer(row, call.params.format, "items")


def _log(call: Call) -> Answer:
    kind = call.params.get("logtype")
    record, begin, end = (call.params.get(name) for name in ("record", "beginTime", "endTime"))
    rows: list[ExportRow] = [
        {
            "timestamp": entry.timestamp[:16],
            "username": entry.username,
            "action": entry.action,
            "details": entry.details,
            "record": entry.record,
        }
        for entry in call.store.log(call.project.name)
        if entry.kind.startswith(_LOG_KINDS.get(kind, kind))
        and (not record or entry.record == record)
        and entry.timestamp >= begin
        and (not end or entry.timestamp[: len(end)] <= end)
    ]
    return call.rows(rows, "records", ("timestamp", "username", "action", "details", "record"))


_HANDLERS: dict[str, Callable[[Call], Answer]] = {
    "record": _record,
    "metadata": _metadata,
    "instrument": _instruments,
    "exportFieldNames": _field_names,
    "version": _version,
    "project": _project,
    "generateNextRecordName": _next_record,
    "log": _log,
    "report": _report,
    **api_setup.HANDLERS,
    **api_files.HANDLERS,
}
