"""The part of an erasure that REDCap has: who else asked for the studies, and what goes there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from fiona_dagster.errors import RedcapRejected, UnknownStudy
from fiona_dagster.ledger.link import Link, settled_requests
from fiona_dagster.redcap.research import IMAGING, UID
from fiona_dagster.redcap.rows import EVENT, INSTANCE, INSTRUMENT
from fiona_dagster.transfers.context import Gateway


def asked_for_by_others(gateway: Gateway, link: Link) -> set[str]:
    """Studies that somebody else asked for in REDCap, whether or not that was seen here yet.

    A request counts as soon as anything of it is filled in: somebody is at it.
    """
    settled = settled_requests(gateway.root, link.whole)
    needed = set()
    for study in link.whole:
        with contextlib.suppress(UnknownStudy):  # never registered: nobody could ask
            for request in gateway.incoming().requests_of(study):
                whose = (request.project, request.participant)
                key = (study, request.instance, request.requested_date, *whose)
                own = whose == (link.project, link.participant)
                if not own and not request.withdrawn and key not in settled:
                    needed.add(study)
    return needed


def erase_in_redcap(gateway: Gateway, link: Link, problems: list[str]) -> None:
    """Records of the studies, requests for the participant, and what automatic assignment knew."""
    client = gateway.incoming().client
    there = {row.get("study_instance_uid", "") for row in _export(client, [*link.whole, *link.shared])}
    if whole := [study for study in link.whole if study in there]:
        client.delete_records(whole, delete_logging=True)
    for study in link.shared:
        for request in gateway.incoming().requests_of(study) if study in there else []:
            if (request.project, request.participant) == (link.project, link.participant):
                gateway.incoming().delete_request(study, request.instance)
    _look_into_log(gateway, link, problems)
    for table, project_field, field_ in (
        ("AutoID", "autoid_project_name", "autoid_value"),
        ("CouplingList", "cl_projectname", "cl_subjectid"),
    ):
        rows = gateway.table(table)  # type: ignore[arg-type]
        if rows is None:
            problems.append(f"no token of REDCap's {table} is configured: look there by hand")
            continue
        record_id = rows.record_id_field()
        names = {
            row[record_id]
            for row in rows.export_records(fields=[record_id, project_field, field_])
            if (row.get(project_field), row.get(field_)) == (link.project, link.participant)
        }
        if names:
            rows.delete_records(sorted(names), delete_logging=True)
    _in_research_project(gateway, link, problems)


def _look_into_log(gateway: Gateway, link: Link, problems: list[str]) -> None:
    """REDCap may keep in its log what stood in a record; it takes that out for whole records, if at all."""
    client = gateway.incoming().client
    told = 0
    try:
        for study in (*link.whole, *link.shared):
            details = [line.get("details", "") for line in client.log(record=study)]
            if study in link.whole:
                told += any("=" in text for text in details)
            else:
                told += _name(details, (link.participant, *link.mapped))
    except RedcapRejected:
        problems.append(_UNREAD.format("Incoming"))
    if told:
        problems.append(_TOLD.format("Incoming", f"{told} records"))


def _name(details: Iterable[str], values: Iterable[str]) -> bool:
    """Whether one of the values stands in lines of a log."""
    wanted = [f"'{value}'" for value in values]
    return any(value in text for text in details for value in wanted)


_UNREAD = "the token of {0} may not read REDCap's log: whether that still tells of it can't be said"
_TOLD = (
    "REDCap's log of {0} still tells what stood in {1}: nothing can take it out over the API, ask REDCap's "
    "administrator to have it deleted"
)


def _export(client: Any, studies: Iterable[str]) -> list[dict[str, str]]:
    names = list(studies)
    rows: list[dict[str, str]] = client.export_records(records=names, fields=["study_instance_uid"])
    return rows if names else []


def _in_research_project(gateway: Gateway, link: Link, problems: list[str]) -> None:
    """The entries that we made of delivered copies; what else the project knows is its own."""
    research = gateway.research(link.project) if gateway.has_project(link.project) else None
    if research is None:
        problems.append(f"no token of project {link.project}'s own REDCap is configured: look there by hand")
        return
    client = research.client
    record_id = client.record_id_field()
    rows = client.export_records(records=[link.participant], fields=[record_id, UID])
    for row in rows:
        if row.get(UID) in link.mapped:
            number = row.get(INSTANCE, "")
            client.delete_records(
                [link.participant],
                instrument=row.get(INSTRUMENT) or IMAGING,
                instance=int(number) if number.isdigit() else None,
                event=row.get(EVENT, ""),
                delete_logging=True,
            )
    try:  # of a part of a record the log is never taken out
        if _name((line.get("details", "") for line in client.log(record=link.participant)), link.mapped):
            problems.append(_TOLD.format(f"project {link.project}", "its entries of delivered copies"))
    except RedcapRejected:
        problems.append(_UNREAD.format(f"project {link.project}"))
