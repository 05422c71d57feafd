"""``fiona transfers``: the transfer log of a project."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import click

from fiona_dagster.cli.private_files import write_private
from fiona_dagster.cli.studies import cell
from fiona_dagster.config import DataRoot, project_names
from fiona_dagster.errors import ConfigurationError, UsageError


@click.command()
@click.argument("project")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def transfers(*, project: str, csv_file: Path | None, as_json: bool) -> None:
    """The transfer log of PROJECT: each request, how it ended, and what each target proved; newest first.

    One row for each transfer and target, with participant, event and the UID of the copy, and without the
    hospital's UIDs. A CSV file is only readable for you and replaces an older one.
    """
    from fiona_dagster.operations.transfer_log import columns, transfer_log
    from fiona_dagster.transfers.context import Gateway

    root = DataRoot.from_environment()
    if not root.ledger_file.is_file():
        raise ConfigurationError(f"{root.path} has no ledger; set FIONA_DATA to a data root that works")
    if project not in project_names(root):
        known = ", ".join(project_names(root)) or "none"
        raise UsageError(f"no project {project[:20]!r}; config/projects has: {known}")
    with Gateway(root) as gateway:
        rows = transfer_log(gateway, project, "project")
    if csv_file:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns("project"), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
        write_private(csv_file, text.getvalue().encode())
        click.echo(f"{len(rows)} rows written", err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not csv_file:
        for row in rows:
            proof = f"{row['Target']}: {row['Proof']} {row['Delivered']}" if row["Target"] else row["Reason"]
            click.echo("  ".join(str(row[name]) for name in ("Participant", "Event", "State", "Changed")))
            click.echo(f"    {proof}" if proof else "    nothing delivered yet")
