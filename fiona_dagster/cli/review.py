"""``fiona review``: what is still in the verified copies of a project, for the researcher to judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.cli.private_files import write_private
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from fiona_dagster.transfers.review import Remaining, Review


@click.command()
@click.argument("project")
@click.option("--study", help="Only the copy of this StudyInstanceUID (as received).")
@click.option("--values", default=5, show_default=True, type=click.IntRange(0), help="Values shown of each.")
@click.option("--full", is_flag=True, help="Show every distinct value, and all of each.")
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path), help="Write every distinct value here, uncut."
)
@click.option("--page", type=click.Path(path_type=Path), help="With --study: write its report here (HTML).")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --study: write its verified files here.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def review(
    project: str,
    *,
    study: str | None,
    values: int,
    full: bool,
    csv_file: Path | None,
    page: Path | None,
    files: Path | None,
    as_json: bool,
) -> int:
    """Lists every attribute that is left in the verified copies of PROJECT, with counts and distinct values.

    Reads copies only, never an original. What the request assigns is marked. Long values are cut in the table
    ("... (2048 characters)"), never in --json and --csv, and not with --full. What no text shows (documents,
    pixels) is looked at in the files themselves, --files. Then `fiona release` lets a copy that waits go.
    """
    from fiona_dagster.transfers import review as reviews
    from fiona_dagster.transfers.context import Gateway

    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    if (page is not None or files is not None) and study is None:
        raise UsageError("--page and --files write what is of one study: name it by --study")
    with Gateway(root) as gateway:
        found = reviews.review(gateway, project, study, _tell, every=full or csv_file is not None)
        if page is not None and study is not None:
            write_private(page, reviews.report_page(gateway, project, study))
        if files is not None and study is not None:
            reviews.copy_files(gateway, project, study, files)
    if csv_file is not None:
        write_private(csv_file, found.to_csv().encode())
    if as_json:
        click.echo(json.dumps(found.to_json(None if full else values), indent=1))
    else:
        _print(found, None if full else values)
    for missing in found.unread:
        click.echo(f"fiona: study {missing}: its copy is not there any more and was not read", err=True)
    return 1 if found.unread else 0


def _tell(done: int, total: int) -> None:
    if total > 1 and (done % 20 == 0 or done == total):
        click.echo(f"fiona: {done} of {total} studies read", err=True)


def _print(found: Review, values: int | None) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{found.project}: {found.studies} studies, {found.instances} instances"
    table = Table(title=title)
    for name in ("tag", "attribute", "VR", "elements", "distinct", "values"):
        table.add_column(name, overflow="fold")  # nothing is cut without saying so
    for row in found.rows():
        table.add_row(row.tag, row.keyword, row.vr, str(row.elements), _distinct(row), _values(row, values))
    Console().print(table)


def _distinct(row: Remaining) -> str:
    return f"more than {len(row.values)}" if row.more else str(len(row.values))


def _values(row: Remaining, most: int | None) -> str:
    """The most frequent values, cut; ``None``: all, whole."""
    from rich.markup import escape

    from fiona_dagster.transfers.review import cut

    shown = row.frequent()[:most]
    lines = [f"{escape(value if most is None else cut(value))} [dim]x{count}[/dim]" for value, count in shown]
    left = len(row.values) - len(lines)
    mark = ["[dim](assigned)[/dim]"] if row.assigned else []
    return "\n".join([*mark, *lines, *([f"[dim]and {left} more[/dim]"] if left > 0 else [])])
