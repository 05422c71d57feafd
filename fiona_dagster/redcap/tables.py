"""The REDCap projects that say where studies go: projects table, routing rules, coupling list, auto-ID.

Fields are those of the original's dictionaries (behaviour reference 7.2 to 7.5). Reading never changes
anything; a missing-data code in a field counts as empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date

from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.rows import INSTRUMENT, Row, clean_value
from fiona_dagster.redcap.transport import Secret

PROJECT_FIELDS = (
    "project_name",
    "project_active",
    "project_patient_naming",
    "project_rec_start_date",
    "project_rec_end_date",
    "project_use_autoid",
    "project_autoid_aetitle",
)
"""What is read of *DataTransferProjects*, besides the record id; the token is asked for by itself."""
IMPORT_RULE = ("project_import_rule_1_tag", "project_import_rule_1_regexp")
"""Read too, where the table has these fields."""
ROUTING_FIELDS = (
    "routing_active",
    "routing_dest_project",
    "routing_incoming_aetitle",
    "routing_sending_aetitle",
    "routing_allowed_patientid",
    "routing_allowed_patientname",
    "routing_event_name",
)
COUPLING_FIELDS = ("cl_accessionnumber", "cl_projectname", "cl_subjectid", "cl_eventname", "cl_date")
AUTOID_FIELDS = ("autoid_project_name", "autoid_hash", "autoid_value", "autoid_method")


@dataclass(frozen=True)
class ProjectEntry:
    """A project in *DataTransferProjects*, without its token."""

    name: str
    active: bool
    pattern: str
    """``project_patient_naming``; empty: any participant id."""
    starts: date | None
    ends: date | None
    autoid_aetitle: str
    """Addressed AE title whose studies get their participant ids automatically; empty: none."""
    import_rule: tuple[str, str] | None = field(default=None, repr=False)
    """Tag and expression of the import filter; None unless both are filled in."""

    @classmethod
    def of(cls, values: Row) -> ProjectEntry:
        """An entry from its fields, as exported; a date that is none counts as missing."""
        tag, expression = (values.get(name, "").strip() for name in IMPORT_RULE)
        return cls(
            name=values.get("project_name", "").strip(),
            active=values.get("project_active") == "1",
            pattern=values.get("project_patient_naming", "").strip(),
            starts=_date(values.get("project_rec_start_date", "")),
            ends=_date(values.get("project_rec_end_date", "")),
            autoid_aetitle=(
                values.get("project_autoid_aetitle", "").strip()
                if values.get("project_use_autoid") == "1"
                else ""
            ),
            import_rule=(tag, expression) if tag and expression else None,
        )


@dataclass(frozen=True)
class RoutingRule:
    """A rule that is on and has an event and an AE title."""

    record: str
    project: str
    called_ae: str
    """Addressed AE title; it or ``calling_ae`` must match in full."""
    calling_ae: str
    patient_id: str = field(repr=False)
    """Regular expression that PatientID must match from its beginning; empty: any."""
    patient_name: str = field(repr=False)
    event: str = field(repr=False)


@dataclass(frozen=True)
class CouplingEntry:
    """An examination that somebody registered beforehand."""

    record: str
    accession_number: str = field(repr=False)
    project: str
    participant: str = field(repr=False)
    event: str = field(repr=False)
    entered: str
    """Site time, ``YYYY-MM-DD HH:MM``."""


@dataclass(frozen=True)
class AutoIdEntry:
    """A participant id that was made for a person."""

    record: str
    project: str
    hash: str = field(repr=False)
    value: str = field(repr=False)


def read_projects(client: RedcapClient) -> dict[str, Row]:
    """*DataTransferProjects* by acronym: what :meth:`ProjectEntry.of` is made of.

    The acronym is ``project_name``, or the record's name where that is empty.

    Raises:
        RedcapUnavailable, RedcapRejected: see the client.
    """
    found: dict[str, Row] = {}
    fields = (*PROJECT_FIELDS, *(name for name in IMPORT_RULE if name in client.columns))
    for record, row in _rows(client, fields):
        name = row.get("project_name", "").strip() or record
        found[name] = {**{key: row.get(key, "") for key in fields}, "project_name": name}
    return found


def project_token(client: RedcapClient, project: str) -> Secret | None:
    """The API token of a project's own REDCap project; None where there is none."""
    for record, row in _rows(client, ("project_name", "project_token")):
        if (row.get("project_name", "").strip() or record) == project and row.get(
            "project_token", ""
        ).strip():
            return Secret(row["project_token"].strip())
    return None


def read_routing(client: RedcapClient, known: Collection[str] = ()) -> list[RoutingRule]:
    """The rules that are on, by record; one without an event or AE title is off (behaviour reference 7.3).

    Args:
        client: of *Routing*.
        known: names of projects. Where a code of ``routing_dest_project`` is none of them, its label counts;
            where it is empty, the record's name.
    """
    rules = []
    for record, row in _rows(client, ROUTING_FIELDS):
        rule = RoutingRule(
            record=record,
            project=_destination(client, row.get("routing_dest_project", "").strip(), known) or record,
            called_ae=row.get("routing_incoming_aetitle", "").strip(),
            calling_ae=row.get("routing_sending_aetitle", "").strip(),
            patient_id=row.get("routing_allowed_patientid", "").strip(),
            patient_name=row.get("routing_allowed_patientname", "").strip(),
            event=row.get("routing_event_name", "").strip(),
        )
        if row.get("routing_active") == "1" and rule.event and (rule.called_ae or rule.calling_ae):
            rules.append(rule)
    return sorted(rules, key=lambda rule: rule.record)


def _destination(client: RedcapClient, code: str, known: Collection[str]) -> str:
    if not code or code in known:
        return code
    label = client.choices("routing_dest_project").get(code, "")
    return label if label in known else code


def read_coupling(client: RedcapClient) -> list[CouplingEntry]:
    """The whole coupling list, half filled in entries included."""
    return [
        CouplingEntry(
            record=record,
            accession_number=row.get("cl_accessionnumber", "").strip(),
            project=row.get("cl_projectname", "").strip(),
            participant=row.get("cl_subjectid", "").strip(),
            event=row.get("cl_eventname", "").strip(),
            entered=row.get("cl_date", "").strip()[:16],
        )
        for record, row in _rows(client, COUPLING_FIELDS)
    ]


def write_coupling(client: RedcapClient, entries: Sequence[CouplingEntry]) -> None:
    """Adds entries to the coupling list under the records that they name; repeatable.

    Raises:
        RedcapRejected: refused, or not there when read back.
    """
    record_id = client.record_id_field()
    client.import_records(
        [
            {
                record_id: entry.record,
                "cl_accessionnumber": entry.accession_number,
                "cl_projectname": entry.project,
                "cl_subjectid": entry.participant,
                "cl_eventname": entry.event,
                "cl_date": entry.entered,
            }
            for entry in entries
        ],
        overwrite=True,
    )


def read_autoid(client: RedcapClient) -> list[AutoIdEntry]:
    """All participant ids that were made."""
    return [
        AutoIdEntry(
            record=record,
            project=row.get("autoid_project_name", "").strip(),
            hash=row.get("autoid_hash", "").strip(),
            value=row.get("autoid_value", "").strip(),
        )
        for record, row in _rows(client, AUTOID_FIELDS)
    ]


def write_autoid(client: RedcapClient, entries: Sequence[AutoIdEntry]) -> None:
    """Adds participant ids under the records that they name; repeatable.

    Raises:
        RedcapRejected: refused, or not there when read back.
    """
    record_id = client.record_id_field()
    client.import_records(
        [
            {
                record_id: entry.record,
                "autoid_project_name": entry.project,
                "autoid_hash": entry.hash,
                "autoid_value": entry.value,
                "autoid_method": "1",
            }
            for entry in entries
        ],
        overwrite=True,
    )


def next_numbers(records: Iterable[str]) -> int:
    """The first running number that is free in a table whose records count from 0."""
    return max((int(name) for name in records if name.isascii() and name.isdecimal()), default=-1) + 1


def _rows(client: RedcapClient, fields: Collection[str]) -> list[tuple[str, Row]]:
    """Record name and values of every base row."""
    record_id = client.record_id_field()
    missing = client.missing_codes
    found = []
    for row in client.export_records(fields=(record_id, *fields)):
        if row.get(INSTRUMENT):
            continue
        values = {
            name: "" if value in missing else clean_value(value)
            for name, value in row.items()
            if name != record_id
        }
        found.append((row.get(record_id, ""), values))
    return found


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text.strip()[:10])
    except ValueError:
        return None
