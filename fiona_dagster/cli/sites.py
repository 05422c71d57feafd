"""``fiona sites``: ports and trees of their own, and studies that arrived at more than one of them."""

from __future__ import annotations

import json
from typing import Any

import click

from fiona_dagster.config import DataRoot, Settings, SiteSettings, load_settings_in_force
from fiona_dagster.errors import ConfigurationError, UsageError

MAIN = "main"
"""How the main site is called on the command line."""


@click.group()
def sites() -> None:
    """Projects that receive on a port of their own (SITES in config.json)."""


@sites.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> int:
    """Lists the sites, and the studies that arrived at several. Exit code 1 if one waits for a decision."""
    root = _root()
    document = _document(root)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _print(document)
    return 1 if any(entry["waits"] for entry in document["studies"]) else 0


@sites.command()
@click.argument("study")
@click.argument("site")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def choose(study: str, site: str, as_json: bool) -> None:
    """Decides that STUDY counts at SITE (a name from SITES, or main); what came elsewhere stays where it is.

    The study is processed again; from a site of SITES it can be assigned to that site's project only.
    """
    from fiona_dagster import landing
    from fiona_dagster.ledger import Ledger, utc_now

    root = _root()
    name = "" if site == MAIN else site
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        found = ledger.receipts.study(study)
        if name not in found.sites:
            there = ", ".join(each or MAIN for each in found.sites)
            raise UsageError(f"study {study} did not arrive at site {site!r} (it arrived at: {there})")
        with landing.study_lock(root, study, timeout=60.0):
            landing.append_evidence(root, landing.SiteChoice(utc_now(), study, name, landing.operator()))
            ledger.evidence.read_journals()
    if as_json:
        click.echo(json.dumps({"study": study, "site": site}))
    else:
        click.echo(f"study {study} counts at {site}; it is processed again")


def _root() -> DataRoot:
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    return root


def _document(root: DataRoot) -> dict[str, Any]:
    from fiona_dagster.ledger import Ledger

    settings = load_settings_in_force(root)[0]
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        several = [study for study in ledger.receipts.studies() if len(study.sites) > 1]
    entries: dict[str, Settings | SiteSettings] = {MAIN: settings, **settings.SITES}
    return {
        "sites": [
            {
                "site": name,
                "DICOMIP": each.DICOMIP,
                "DICOMPORT": each.DICOMPORT,
                "DICOMAETITLE": each.DICOMAETITLE,
            }
            for name, each in entries.items()
        ],
        "studies": [
            {
                "study": study.study,
                "sites": [site or MAIN for site in study.sites],
                "counts_at": study.site or MAIN,
                "waits": study.at_several_sites,
            }
            for study in several
        ],
    }


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    console = Screen()
    ports = Table("site", "address", "AE title", title="Sites")
    for entry in document["sites"]:
        ports.add_row(entry["site"], f"{entry['DICOMIP']}:{entry['DICOMPORT']}", entry["DICOMAETITLE"])
    console.print(ports)
    if document["studies"]:
        table = Table("StudyInstanceUID", "arrived at", "counts at", title="Studies at several sites")
        for entry in document["studies"]:
            counts = "waits: fiona sites choose" if entry["waits"] else entry["counts_at"]
            table.add_row(entry["study"], ", ".join(entry["sites"]), counts)
        console.print(table)
