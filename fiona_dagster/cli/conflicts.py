"""``fiona conflicts``: same SOP Instance UID, other data set; a person decides."""

from __future__ import annotations

import json
from typing import Any

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, UsageError
from fiona_dagster.landing import OpenConflict


@click.group()
def conflicts() -> None:
    """Lists, accepts or rejects data sets that came under a known SOP Instance UID."""


def _root() -> DataRoot:
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root here; run `fiona init` or set FIONA_DATA")
    return root


@conflicts.command("list")
@click.argument("study", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(study: str | None, *, as_json: bool) -> None:
    """Everything that waits for a decision, of STUDY or of all."""
    from fiona_dagster.operations.conflicts import list_conflicts

    found = list_conflicts(_root(), study)
    if as_json:
        click.echo(json.dumps({"conflicts": found}, indent=2))
        return
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    table = Table("id", "study", "received", "from", "bytes", "archived bytes", "differs", title="Conflicts")
    for entry in found:
        table.add_row(
            entry["id"],
            entry["study"],
            entry["time"],
            f"{entry['calling_ae']} {entry['caller_ip']}",
            str(entry["size"]),
            str(entry["archived_size"]),
            entry["differs"],
        )
    Screen().print(table)


def _decide(ids: tuple[str, ...], study: str | None, decision: Any, reason: str, *, as_json: bool) -> None:
    from fiona_dagster.operations.conflicts import decide_conflicts

    root = _root()
    if bool(ids) == bool(study):
        raise UsageError(
            "name ids as `fiona conflicts list` shows them, or give --study for all of one study"
        )
    done: list[OpenConflict] = decide_conflicts(root, ids, study, decision, reason=reason)
    if as_json:
        click.echo(
            json.dumps(
                {"decision": decision, "conflicts": [{"id": each.id, "study": each.study} for each in done]},
                indent=2,
            )
        )
    else:
        click.echo(f"{len(done)} {decision}; the studies are processed again, their flag goes then")


@conflicts.command("accept")
@click.argument("ids", nargs=-1)
@click.option("--study", help="All conflicts of this study (StudyInstanceUID).")
@click.option("--reason", default="", help="Why; kept beside the files. Nothing identifying.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def accept(ids: tuple[str, ...], *, study: str | None, reason: str, as_json: bool) -> None:
    """The later data set becomes the instance; the old bytes are kept as superseded.

    The study gets a new revision; if it was transferred, it is transferred again with the same identities.
    """
    _decide(ids, study, "accepted", reason, as_json=as_json)


@conflicts.command("reject")
@click.argument("ids", nargs=-1)
@click.option("--study", help="All conflicts of this study (StudyInstanceUID).")
@click.option("--reason", default="", help="Why; kept beside the files. Nothing identifying.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def reject(ids: tuple[str, ...], *, study: str | None, reason: str, as_json: bool) -> None:
    """The first data set stays the instance; the later one is kept in site/conflicts/rejected/."""
    _decide(ids, study, "rejected", reason, as_json=as_json)
