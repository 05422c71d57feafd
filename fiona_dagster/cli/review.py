"""``fiona review``: what is still in the verified copies of a project, for the researcher to judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from fiona_dagster.transfers.review import Remaining, Review


@click.command()
@click.argument("project")
@click.option("--study", help="Only the copy of this StudyInstanceUID (as received).")
@click.option("--values", default=5, show_default=True, type=click.IntRange(0), help="Values shown of each.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path), help="Write every distinct value here.")
@click.option("--page", type=click.Path(path_type=Path), help="With --study: write its report here (HTML).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def review(
    project: str, *, study: str | None, values: int, csv_file: Path | None, page: Path | None, as_json: bool
) -> int:
    """Lists every attribute that is left in the verified copies of PROJECT, with counts and distinct values.

    Reads copies only, never an original. What the request assigns is marked. Then `fiona release` lets a copy
    that waits go.
    """
    from fiona_dagster.transfers import review as reviews
    from fiona_dagster.transfers.context import Gateway

    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    if page is not None and study is None:
        raise UsageError("--page writes the report of one study: name it by --study")
    with Gateway(root) as gateway:
        found = reviews.review(gateway, project, study, _tell)
        if page is not None and study is not None:
            _write(page, reviews.report_page(gateway, project, study))
    if csv_file is not None:
        _write(csv_file, found.to_csv().encode())
    if as_json:
        click.echo(json.dumps(found.to_json(values), indent=1))
    else:
        _print(found, values)
    for missing in found.unread:
        click.echo(f"fiona: study {missing}: its copy is not there any more and was not read", err=True)
    return 1 if found.unread else 0


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from None


def _tell(done: int, total: int) -> None:
    if total > 1 and (done % 20 == 0 or done == total):
        click.echo(f"fiona: {done} of {total} studies read", err=True)


def _print(found: Review, values: int) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{found.project}: {found.studies} studies, {found.instances} instances"
    table = Table("tag", "attribute", "VR", "elements", "distinct", "values", title=title)
    for row in found.rows():
        table.add_row(row.tag, row.keyword, row.vr, str(row.elements), _distinct(row), _values(row, values))
    Console().print(table)


def _distinct(row: Remaining) -> str:
    return f"more than {len(row.values)}" if row.more else str(len(row.values))


def _values(row: Remaining, most: int) -> str:
    from rich.markup import escape

    lines = [f"{escape(value)} [dim]x{count}[/dim]" for value, count in row.frequent()[:most]]
    left = len(row.values) - len(lines)
    mark = ["[dim](assigned)[/dim]"] if row.assigned else []
    return "\n".join([*mark, *lines, *([f"[dim]and {left} more[/dim]"] if left > 0 else [])])
