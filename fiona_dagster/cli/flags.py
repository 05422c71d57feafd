"""``fiona flags``: studies that need a person before they can be assigned."""

from __future__ import annotations

import json
from typing import Any

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, UsageError


@click.group()
def flags() -> None:
    """Studies that a person has to look into: lists them, or accepts what was found."""


@flags.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(as_json: bool) -> int:
    """Lists flagged studies and what can be done. Exit code 1 if there is one."""
    from fiona_dagster.ledger import Ledger
    from fiona_dagster.transfers.intake import ACCEPTABLE, WAYS

    with Ledger(_root()) as ledger:
        ledger.receipts.read_journals()
        ledger.evidence.read_journals()
        flagged = [study for study in ledger.receipts.studies() if study.flags]
    entries: list[dict[str, Any]] = [
        {
            "study": study.study,
            "flag": flag,
            "revision": study.revision,
            "to_do": "look into it, then `fiona flags accept`" if flag in ACCEPTABLE else WAYS.get(flag, ""),
        }
        for study in flagged
        for flag in study.flags
    ]
    if as_json:
        click.echo(json.dumps({"flags": entries}, indent=2))
    else:
        _print(entries)
    return 1 if entries else 0


@flags.command()
@click.argument("study")
@click.argument("flag")
@click.option("--reason", required=True, help="Why it is right; nothing that identifies a person.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def accept(study: str, flag: str, reason: str, as_json: bool) -> None:
    """Accepts FLAG of STUDY for the instances that it has now; other instances are flagged anew.

    The study is processed again and can be assigned then. Identifiers of all its patients are searched for.
    """
    from fiona_dagster import landing
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.intake import accept_flag

    text = " ".join(reason.split())
    if not text or not text.isprintable() or len(text) > 200:
        raise UsageError("--reason must be 1 to 200 printable characters")
    with Gateway(_root()) as gateway:
        accept_flag(gateway, study, flag, by=landing.operator(), reason=text)
    if as_json:
        click.echo(json.dumps({"study": study, "flag": flag}))
    else:
        click.echo(f"{flag} of study {study} is accepted; it is processed again")


def _root() -> DataRoot:
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    return root


def _print(entries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    table = Table("StudyInstanceUID", "flag", "what to do", title=f"{len(entries)} flags")
    for entry in entries:
        table.add_row(entry["study"], entry["flag"], entry["to_do"])
    Screen().print(table)
