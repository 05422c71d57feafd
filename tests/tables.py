"""Fills the REDCap tables that assign studies, as people do in the browser."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import requests as http

from fiona_dagster.redcap import shipped_projects
from fiona_dagster.redcap.sandbox import Sandbox
from tests.site import PROJECT, Site

TABLES = ("AutoID", "CouplingList", "DataTransferProjects", "Routing")


def use_tables(site: Site, *names: str, **sections: Any) -> None:
    """Configures the tokens of these tables (default: all)."""
    wanted = names or TABLES
    for name in wanted:
        (site.root.secrets / f"redcap-{name}").write_text(site.redcap.tokens[name])
    redcap = {
        "url": site.redcap.url,
        "token_file": "secrets/redcap-token",
        "calls_per_minute": 6000,
        "timeout_seconds": 10,
        "tokens": {name: {"file": f"secrets/redcap-{name}"} for name in wanted},
        **sections.pop("redcap", {}),
    }
    site.configure(redcap=redcap, **sections)


def write(sandbox: Sandbox, project: str, *rows: dict[str, str], overwrite: bool = False) -> None:
    """Imports rows as a person with a spreadsheet would."""
    form = {
        "token": sandbox.tokens[project],
        "content": "record",
        "format": "json",
        "type": "flat",
        "overwriteBehavior": "overwrite" if overwrite else "normal",
        "data": json.dumps(rows),
    }
    answer = http.post(sandbox.url, data=form, timeout=120)
    assert answer.status_code == 200, answer.text


def read(sandbox: Sandbox, project: str) -> list[dict[str, str]]:
    """All rows of a project."""
    form = {"token": sandbox.tokens[project], "content": "record", "format": "json", "type": "flat"}
    answer = http.post(sandbox.url, data=form, timeout=120)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, str]] = answer.json()
    return found


def couple(
    site: Site,
    record: int,
    accession: str,
    *,
    project: str = PROJECT,
    participant: str = "H001",
    event: str = "Baseline",
    date: str,
) -> None:
    """Adds an entry to the coupling list."""
    write(
        site.redcap,
        "CouplingList",
        {
            "record_id": str(record),
            "cl_accessionnumber": accession,
            "cl_projectname": project,
            "cl_subjectid": participant,
            "cl_eventname": event,
            "cl_date": date,
        },
    )


def rule(site: Site, project: str = PROJECT, **fields: str) -> None:
    """Adds a routing rule that is on."""
    row = {"record_id": project, "routing_active": "1", **fields}
    write(site.redcap, "Routing", {"routing_event_name": "Baseline", **row})


def own_redcap(site: Site, project: str = PROJECT, **changes: Any) -> None:
    """Gives a project a REDCap project of its own, and its token to the table of projects."""
    known = {each.name: each for each in shipped_projects()}
    token = site.redcap.add_project(dataclasses.replace(known["ResearchProject"], name=project, **changes))
    enter_project(site, project, project_token=token)


def enter_project(site: Site, project: str = PROJECT, **fields: str) -> None:
    """Adds a project to the table of projects, or changes it."""
    row = {"record_id": project, "project_name": project, "project_active": "1", **fields}
    write(site.redcap, "DataTransferProjects", row)
