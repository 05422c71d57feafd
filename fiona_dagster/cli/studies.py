"""``fiona studies``: every series that is known, filtered, as a table or a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.config import DataRoot, project_names
from fiona_dagster.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.option("--project", help="Only studies of this project, with participant and event.")
@click.option("--type", "types", multiple=True, help="Only series with this type; several: with all of them.")
@click.option("--modality", "modalities", multiple=True, help="Only this modality; several: any of them.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@click.option(
    "--parquet", "parquet_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a Parquet file."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def studies(
    *,
    project: str | None,
    types: tuple[str, ...],
    modalities: tuple[str, ...],
    csv_file: Path | None,
    parquet_file: Path | None,
    as_json: bool,
) -> None:
    """Lists every series that was classified, one a row; nothing identifying.

    With --project the rows have participant, event and the UID of the copy in place of the hospital's UIDs.
    A file is only readable for you and replaces an older one. In CSV, types are separated by "; ".
    """
    from fiona_dagster.ledger import Ledger
    from fiona_dagster.operations.series_table import filtered, series_table

    root = DataRoot.from_environment()
    if not root.ledger_file.is_file():
        raise ConfigurationError(
            f"{root.path} has no ledger; set FIONA_DATA to a data root that received something"
        )
    if project is not None and project not in project_names(root):
        raise UsageError(
            f"no project {project[:20]!r}; config/projects has: {', '.join(project_names(root)) or 'none'}"
        )
    with Ledger(root) as ledger:
        table = filtered(series_table(ledger, project), types=types, modalities=modalities)
    if csv_file:
        flat = table.assign(ClassifyType=table["ClassifyType"].map("; ".join))
        _write(csv_file, lambda part: flat.to_csv(part, index=False))
    if parquet_file:
        _write(parquet_file, lambda part: _parquet(table, part))
    if as_json:
        click.echo(json.dumps(table.to_dict("records"), indent=2))
    elif not (csv_file or parquet_file):
        _print(table)
    if csv_file or parquet_file:
        click.echo(f"{len(table)} series written", err=True)


def _parquet(table: pd.DataFrame, path: Path) -> None:
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: pip install 'fiona-dagster[parquet]', or take --csv"
        ) from None


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears whole, with mode 0600."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _print(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title="Series")
    for column in table.columns:
        shown.add_column(str(column), overflow="fold")
    for row in table.itertuples(index=False):
        shown.add_row(*(escape(", ".join(cell) if isinstance(cell, list) else str(cell)) for cell in row))
    Console().print(shown)
    click.echo(
        f"{len(table)} series, {int(table['NumFiles'].sum())} instances, {int(table['Bytes'].sum())} bytes"
    )
