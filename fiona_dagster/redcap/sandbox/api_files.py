"""Files in fields, the file repository, PDFs of instruments."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from fiona_dagster.redcap.dictionary import Field
from fiona_dagster.redcap.sandbox.call import NO_EXPORT, NO_IMPORT, Call, not_valid
from fiona_dagster.redcap.sandbox.formats import Answer, ApiError, ExportRow
from fiona_dagster.redcap.sandbox.records import Place

_NOTHING = Answer(200, "text/html; charset=utf-8", b"")
_PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj
trailer<</Root 1 0 R>>
%%EOF
"""


def _file(call: Call) -> Answer:
    name = call.params.get("field")
    field = call.project.dictionary.by_name.get(name)
    if field is None or field.type != "file":
        raise ApiError(f"The field '{name}' does not exist or is not a 'file' field")
    action = call.params.choice("action", ("export", "import", "delete"), "export")
    call.need("export" if action == "export" else "import", NO_EXPORT if action == "export" else NO_IMPORT)
    project, place = call.project.name, _place(call, field)
    if action == "import":
        if "file" not in call.files:
            raise ApiError("No valid file was uploaded")
        file_name, content = call.files["file"]
        with call.store.transaction():
            call.store.put_file(project, place, name, content)
            _note(call, place, {name: file_name, f"{field.form}_complete": "0"}, f"{name} = '{file_name}'")
        return _NOTHING
    stored = call.store.file(project, place, name)
    if stored is None:
        raise ApiError(
            "There is no file to download for this record"
            if action == "export"
            else "There is no file to delete for this record"
        )
    if action == "delete":
        with call.store.transaction():
            call.store.put_file(project, place, name, None)
            _note(call, place, {name: ""}, f"{name} = ''")
        return _NOTHING
    file_name = call.store.values(project, [name], [place.record])[place][name]
    return Answer(200, _file_type(file_name), stored)


def _place(call: Call, field: Field) -> Place:
    setup, event = call.project.setup, call.params.get("event")
    record, number = call.params.get("record"), call.params.get("repeat_instance", "1")
    if call.params.get("action") == "import" and not call.store.has_record(call.project.name, record):
        raise ApiError(f'The record "{record}" does not exist')
    if setup.longitudinal and event not in setup.event_names:
        raise ApiError(f"The event '{event}' does not exist")
    if not number.isdecimal() or int(number) < 1:
        raise not_valid("repeat_instance", number)
    event = event if setup.longitudinal else ""
    if setup.form_repeats(event, field.form):
        return Place(record, event, field.form, int(number))
    return Place(record, event, "", int(number) if setup.event_repeats(event) else 0)


def _note(call: Call, place: Place, values: dict[str, str], details: str) -> None:
    call.store.put(call.project.name, place, values)
    call.store.touch(call.project.name, place.record)
    call.store.write_log(
        call.project.name,
        call.access.user,
        "record_edit",
        f"Update record (API) {place.record}",
        details=details,
        record=place.record,
    )


def _file_type(name: str) -> str:
    return f'text/plain; name="{quote(name, safe=" .-_()")}"; charset=UTF-8'


def _repository(call: Call) -> Answer:
    actions = ("createFolder", "list", "export", "import", "delete")
    action = call.params.choice("action", actions, "list")
    store, project = call.store, call.project.name
    folder = int(call.params.get("folder_id")) if call.params.get("folder_id").isdecimal() else None
    entries = {number: (inside, name, content) for number, inside, name, content in store.documents(project)}
    if folder is not None and (folder not in entries or entries[folder][2] is not None):
        raise not_valid("folder_id", str(folder))
    if action == "createFolder":
        if not call.params.get("name"):
            raise not_valid("name", "")
        number = store.add_document(project, folder, call.params.get("name"), None)
        return call.rows([{"folder_id": number}], "items")
    if action == "list":
        rows: list[ExportRow] = [
            {"folder_id" if content is None else "doc_id": number, "name": name}
            for number, (inside, name, content) in entries.items()
            if inside == folder
        ]
        return call.rows(rows, "items")
    if action == "import":
        if "file" not in call.files:
            raise ApiError("No valid file was uploaded")
        store.add_document(project, folder, *call.files["file"])
        return _NOTHING
    text = call.params.get("doc_id")
    found = entries.get(int(text)) if text.isdecimal() else None
    if found is None or found[2] is None:
        raise not_valid("doc_id", text)
    if action == "delete":
        store.delete_document(project, int(text))
        return _NOTHING
    return Answer(200, _file_type(found[1]), found[2])


def _pdf(call: Call) -> Answer:
    """An empty document: what stands in it is nobody's business here."""
    form = call.params.get("instrument")
    if form and form not in call.project.dictionary.forms:
        raise not_valid("instrument", form)
    return Answer(200, 'application/pdf; name="instruments.pdf"', _PDF)


HANDLERS: dict[str, Callable[[Call], Answer]] = {"file": _file, "fileRepository": _repository, "pdf": _pdf}
