"""A small page to look at and edit the sandbox's records, on loopback and without login.

It writes through the API, so that validation and log are the same. Everything shown is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from urllib.parse import quote, unquote

from fiona_dagster.redcap.dictionary import Field
from fiona_dagster.redcap.rows import EVENT, INSTANCE, INSTRUMENT
from fiona_dagster.redcap.sandbox.api import handle
from fiona_dagster.redcap.sandbox.formats import Answer
from fiona_dagster.redcap.sandbox.store import Project, Store

ROOT = "/"
_MOST = 500
"""Records in a list."""
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>REDCap sandbox</title><style>
body{font:15px sans-serif;max-width:60em;margin:2em auto}table{border-collapse:collapse}
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}input,textarea,select{width:22em}
.problem{color:#a00;white-space:pre-wrap}small{color:#555}</style></head><body>
"""


def show(store: Store, path: str) -> Answer:
    """The page at a path: projects, the records of one, or a record.

    Args:
        store: the sandbox's memory.
        path: as it was asked for, still quoted.
    """
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    if not parts:
        return _answer("<h1>REDCap sandbox</h1><ul>" + "".join(map(_link, store.tokens())) + "</ul>")
    if parts[0] not in store.tokens() or len(parts) > 2:
        return _answer("<h1>Not here</h1>", 404)
    project = store.project(parts[0])
    if len(parts) == 1:
        return _records(store, project)
    return _record(store, project, parts[1])


def save(store: Store, path: str, form: Mapping[str, str]) -> Answer:
    """Writes one row of a record as the form says, and shows the record.

    Args:
        store: the sandbox's memory.
        path: of the record, or of a project to make one (its name is the field ``record``).
        form: the form's fields.
    """
    parts = [unquote(part) for part in path.strip("/").split("/") if part]
    if not parts or parts[0] not in store.tokens() or len(parts) > 2:
        return _answer("<h1>Not here</h1>", 404)
    project = store.project(parts[0])
    record = parts[1] if len(parts) == 2 else form.get("record", "").strip()
    fields = project.column_fields
    row = {project.dictionary.record_id: record}
    row |= {name: form[name] for name in (EVENT, INSTRUMENT, INSTANCE) if form.get(name)}
    for name in form:
        if name.startswith("field:") and name[6:] in fields:
            row[name[6:]] = form[name]
    for name in form.get("boxes", "").split():
        row[name] = "1" if f"field:{name}" in form else "0"
    if len(row) == 1:  # a record needs a value to exist
        row[f"{project.dictionary.fields[0].form}_complete"] = "0"
    call = {
        "token": store.tokens()[project.name],
        "content": "record",
        "action": "import",
        "format": "json",
        "overwriteBehavior": "overwrite",
        "data": json.dumps([row]),
    }
    answer = handle(store, call)
    problem = "" if answer.status == 200 else str(json.loads(answer.body)["error"])
    if not record:
        return _records(store, project, problem or "give the record a name")
    return _record(store, project, record, problem)


def _answer(body: str, status: int = 200) -> Answer:
    headers = (
        ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
        ("X-Frame-Options", "DENY"),
    )
    page = f"{_HEAD}{body}</body></html>\n".encode("utf-8", "replace")
    return Answer(status, "text/html; charset=utf-8", page, headers)


def _link(name: str, *parents: str) -> str:
    address = "/".join(quote(part, safe="") for part in (*parents, name))
    return f'<li><a href="/{escape(address)}">{escape(name)}</a></li>'


def _problem(text: str) -> str:
    return f'<p class="problem">{escape(text)}</p>' if text else ""


def _records(store: Store, project: Project, problem: str = "") -> Answer:
    names = store.records(project.name)
    links = "".join(_link(name, project.name) for name in names[:_MOST])
    more = f"<p>and {len(names) - _MOST} more</p>" if len(names) > _MOST else ""
    return _answer(
        f'<p><a href="/">projects</a></p><h1>{escape(project.name)}</h1>{_problem(problem)}'
        f"<ul>{links}</ul>{more}"
        '<form method="post"><input name="record" placeholder="new record"> <button>Make</button></form>'
    )


def _record(store: Store, project: Project, record: str, problem: str = "") -> Answer:
    call = {
        "token": store.tokens()[project.name],
        "content": "record",
        "format": "json",
        "records[0]": record,
    }
    rows = json.loads(handle(store, call).body)
    rows = rows if isinstance(rows, list) and store.has_record(project.name, record) else []
    forms = "".join(_row_form(project, row) for row in rows)
    for event in project.setup.event_names or ("",):
        if project.setup.longitudinal and not any(row[EVENT] == event for row in rows):
            forms += _row_form(project, {EVENT: event})
        for form in project.repeating:
            if project.setup.form_repeats(event, form):
                numbers = [
                    int(row[INSTANCE])
                    for row in rows
                    if (row.get(EVENT, ""), row[INSTRUMENT]) == (event, form)
                ]
                forms += _row_form(
                    project, {EVENT: event, INSTRUMENT: form, INSTANCE: max(numbers, default=0) + 1}, new=True
                )
    name = escape(quote(project.name))
    back = f'<p><a href="/">projects</a> / <a href="/{name}">{name}</a></p>'
    return _answer(f"{back}<h1>{escape(record)}</h1>{_problem(problem)}{forms}")


def _row_form(project: Project, row: Mapping[str, object], *, new: bool = False) -> str:
    event, form = str(row.get(EVENT, "")), str(row.get(INSTRUMENT, ""))
    setup = project.setup
    boxes: list[str] = []
    lines: list[str] = []
    for field in project.dictionary.fields[1:]:
        here = field.form == form if form else not setup.form_repeats(event, field.form)
        if not (here and setup.has_form(event, field.form)):
            continue
        if field.type == "checkbox":
            boxes += [name for name, _ in project.columns(field)]
        lines.append(_line(project, field, row))
    title = " ".join(filter(None, [event, form, str(row.get(INSTANCE, "") or ""), "(new)" if new else ""]))
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(str(row.get(name) or ""))}">'
        for name in (EVENT, INSTRUMENT, INSTANCE)
    )
    hidden += f'<input type="hidden" name="boxes" value="{escape(" ".join(boxes))}">'
    return (
        f'<h2>{escape(title or "record")}</h2><form method="post">{hidden}'
        f"<table>{''.join(lines)}</table><button>Save</button></form>"
    )


def _line(project: Project, field: Field, row: Mapping[str, object]) -> str:
    label = f"{escape(field.row['field_label'])}<br><small>{escape(field.name)}</small>"
    name, value = escape(f"field:{field.name}"), str(row.get(field.name) or "")
    if field.type == "descriptive":
        return f'<tr><td colspan="2">{label}</td></tr>'
    if field.type == "checkbox":
        labels = dict(field.choices)
        cell = "".join(
            f'<label><input type="checkbox" style="width:auto" name="{escape(f"field:{column}")}" value="1"'
            f"{' checked' if row.get(column) == '1' else ''}> {escape(labels.get(code, code))}</label><br>"
            for column, code in project.columns(field)
        )
    elif not field.importable:
        cell = escape(value)
    elif field.choices:
        options = "".join(
            f'<option value="{escape(code)}"{" selected" if code == value else ""}>{escape(text)}</option>'
            for code, text in (("", ""), *field.choices)
        )
        cell = f'<select name="{name}">{options}</select>'
    elif field.type == "notes":
        cell = f'<textarea name="{name}">\n{escape(value)}</textarea>'
    else:
        cell = f'<input name="{name}" value="{escape(value)}">'
    return f"<tr><th>{label}</th><td>{cell}</td></tr>"
