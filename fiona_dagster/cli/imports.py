"""``fiona import``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from fiona_dagster.config import DataRoot, load_settings_in_force
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.landing import ImportReport, import_paths


@click.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")
def import_(paths: tuple[Path, ...], as_json: bool) -> int:
    """Import files and folders as if they had been received; every byte is kept.

    Works with or without a running receiver. Exit code 1 if anything went to quarantine.
    """
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    reserve = load_settings_in_force(root)[0].receiver.reserve_mb if root.config_file.exists() else 0
    root.make()
    report = _with_progress(root, paths, reserve)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _print(report)
    return 1 if report.quarantined or report.failed else 0


def _with_progress(root: DataRoot, paths: tuple[Path, ...], reserve_mb: int) -> ImportReport:
    if not sys.stderr.isatty():
        return import_paths(root, paths, reserve_mb=reserve_mb)
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing")

        def show(report: ImportReport) -> None:
            bar.update(task, description=f"{report.files} files, {report.quarantined} to quarantine")

        return import_paths(root, paths, reserve_mb=reserve_mb, progress=show)


def _print(report: ImportReport) -> None:
    counts = (
        f"{report.stored} stored, {report.repeats} repeats, {report.conflicts} conflicts, "
        f"{report.quarantined} to quarantine, {report.skipped} skipped, {report.failed} unreadable"
    )
    click.echo(f"{report.files} files: {counts}")
    for path, reason in report.problems:
        click.echo(f"{_one_line(path)}: {reason}", err=True)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
