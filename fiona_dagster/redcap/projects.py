"""A server's projects against the dictionaries that come with the gateway: set up, and compared."""

from __future__ import annotations

from collections.abc import Iterator

from fiona_dagster.errors import UsageError
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.dictionary import Dictionary, Field, ShippedProject, shipped_projects

RESEARCH = "ResearchProject"
"""Name of the dictionary that research projects are compared with."""
OPTIONAL = ("study_completeness", "transfer_withdrawn")
"""Fields that the gateway fills where a site has them."""


def template(name: str) -> ShippedProject:
    """The shipped project of that name; any other name is a research project's."""
    known = {project.name: project for project in shipped_projects()}
    return known.get(name, known[RESEARCH])


def require_empty(client: RedcapClient, name: str) -> None:
    """Refuses a project that holds records.

    Raises:
        UsageError: it does.
    """
    if client.metadata() and (rows := client.export_records(fields=[client.record_id_field()])):
        raise UsageError(
            f"REDCap project {name} holds {len(rows)} record(s) or instances; only empty projects are set up"
        )


def install(client: RedcapClient, wanted: ShippedProject) -> int:
    """Imports dictionary, events and repeats into an empty project; repeatable.

    Args:
        client: of the server's project; its user needs the right *Project Design and Setup*.
        wanted: what to import.

    Returns:
        The number of fields.

    Raises:
        UsageError: the project holds records.
        RedcapRejected: no rights, or a classic project where a longitudinal one is needed.
    """
    require_empty(client, wanted.name)
    fields = client.import_metadata(wanted.dictionary.rows())
    events: list[str] = [""]
    if wanted.events:
        client.import_structure("event", [{"event_name": name, "arm_num": "1"} for name in wanted.events])
        names = {row["event_name"]: row["unique_event_name"] for row in client.events()}
        events = [names[name] for name in wanted.events]
        pairs = [(event, form) for event in events for form in wanted.dictionary.forms]
        rows = [{"arm_num": "1", "unique_event_name": event, "form": form} for event, form in pairs]
        client.import_structure("formEventMapping", rows)
    if wanted.repeating:
        repeats = [{"event_name": event, "form_name": form} for event in events for form in wanted.repeating]
        for row in repeats:
            if not row["event_name"]:
                del row["event_name"]
        client.import_structure("repeatingFormsEvents", [{**row, "custom_form_label": ""} for row in repeats])
    return fields


def lacking(client: RedcapClient, wanted: ShippedProject) -> list[str]:
    """What a server's project lacks, a sentence each; empty when the gateway can work with it.

    More fields than we know, and plain instruments where ours repeat, are no fault.
    """
    there = Dictionary.from_rows(client.metadata())
    found = [problem for field in wanted.dictionary.fields for problem in _of_field(field, there)]
    if there.record_id != wanted.dictionary.record_id and wanted.name != RESEARCH:
        found.insert(0, f"the record id field is {there.record_id}, not {wanted.dictionary.record_id}")
    if wanted.events and not client.longitudinal:
        found.append("the project is not longitudinal: turn that on in Project Setup")
    elif wanted.events and not any(row.get("form") == "imaging" for row in client.form_events()):
        found.append("the instrument imaging stands in no event: designate it for those with images")
    return found


def _of_field(wanted: Field, there: Dictionary) -> Iterator[str]:
    field = there.by_name.get(wanted.name)
    if field is None:
        if (
            wanted.name not in OPTIONAL
            and wanted.type != "descriptive"
            and not wanted.name.startswith("demo_")
        ):
            yield f"field {wanted.name} (instrument {wanted.form}) is missing"
        return
    if wanted.type == "checkbox" and field.type != "checkbox":
        yield f"field {wanted.name} is {field.type}, not a checkbox"
    elif field.importable != wanted.importable:
        yield f"field {wanted.name} is {field.type}, not {wanted.type}"
    if wanted.choices and field.choices and wanted.name != "routing_dest_project":
        codes = {code for code, _ in field.choices}
        for code, label in wanted.choices:
            if code not in codes:
                yield f"field {wanted.name} lacks the choice {code} ({label})"
    if field.validation and field.validation.split("_")[0] != wanted.validation.split("_")[0]:
        yield f"field {wanted.name} has the validation {field.validation}, not {wanted.validation or 'none'}"
