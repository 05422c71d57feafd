"""``fiona adopt``, ``fiona couple`` and ``fiona resend``: many requests at once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.cli.who import who
from fiona_dagster.config import DataRoot

if TYPE_CHECKING:
    from fiona_dagster.transfers.adoption import Inventory


@click.command()
@click.option("--report", is_flag=True, help="Only say what would be adopted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def adopt(report: bool, as_json: bool) -> None:
    """Books what another system transferred, as REDCap says, as delivered by it.

    Until then a REDCap with finished transfers is only read: nothing is assigned, taken up or sent. What was
    adopted is never sent by itself; requests that the other system did not finish are taken up afterwards.
    """
    from fiona_dagster.transfers import adoption
    from fiona_dagster.transfers.context import Gateway

    with Gateway(DataRoot.from_environment()) as gateway:
        found = adoption.adopt(gateway, report=report)
    if as_json:
        click.echo(json.dumps(asdict(found)))
    else:
        _print_inventory(found, report)


def _print_inventory(found: Inventory, report: bool) -> None:
    for project in sorted({*found.finished, *found.unfinished}):
        done, waiting = found.finished.get(project, 0), found.unfinished.get(project, 0)
        click.echo(f"{project}: {done} finished by another system, {waiting} not finished")
    if report:
        click.echo("nothing was changed; `fiona adopt` books the finished ones, the others are then taken up")
    else:
        click.echo(f"{found.adopted} transfers adopted; requests are taken up from now on")


@click.command()
@click.argument("table", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def couple(context: click.Context, table: Path, as_json: bool) -> None:
    """Adds the lines of TABLE (CSV) to REDCap's coupling list; exit 1 if a line is wrong.

    Columns: AccessionNumber, Project, Participant, Event. Examinations that arrive within 14 days (as
    configured), or are held already, are then assigned by themselves. One wrong line stops all of them.
    """
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.coupling import couple as write

    with Gateway(DataRoot.from_environment()) as gateway:
        done = write(gateway, table)
    if as_json:
        click.echo(json.dumps(asdict(done)))
    elif done.problems:
        for problem in done.problems:
            click.echo(problem, err=True)
        click.echo(f"{len(done.problems)} problems; nothing was written", err=True)
    else:
        click.echo(f"{done.added} entries added to the coupling list, {done.there} stand in it already")
    context.exit(1 if done.problems else 0)


@click.command()
@click.argument("what")
@click.option("--project", default="", help="Of a study, only the transfer to this project.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def resend(what: str, project: str, dry_run: bool, as_json: bool) -> None:
    """Transfers WHAT (StudyInstanceUID, or a project for all its studies) again, as it is assigned.

    Each study is de-identified, verified, packaged and delivered anew, by the rules in force.
    """
    from fiona_dagster.operations import is_up
    from fiona_dagster.transfers import resending
    from fiona_dagster.transfers.context import Gateway

    root = DataRoot.from_environment()
    with Gateway(root) as gateway:
        chosen = resending.to_resend(gateway, what, project)
        started = chosen if dry_run else resending.resend(gateway, chosen, by=who())
    if as_json:
        rows = [{"study": transfer.study, "project": transfer.project} for transfer in started]
        click.echo(json.dumps({"transfers": rows, "started": not dry_run}))
    else:
        verb = "would be" if dry_run else "are"
        click.echo(f"{len(started)} transfers {verb} sent again")
    if not dry_run and not is_up(root):
        click.echo("fiona: `fiona up` does not run here; they start when it does", err=True)
