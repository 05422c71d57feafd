"""``fiona import``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from fiona_dagster.config import DataRoot, Settings, load_settings_in_force
from fiona_dagster.errors import ConfigurationError, UsageError
from fiona_dagster.landing import ImportReport, import_paths, survey

Progress = Callable[[ImportReport], None]


@click.command("import")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--inbox", is_flag=True, help="Empty the drop folder now; for when no service runs.")
@click.option("--site", default="", help="File into the tree of this entry in SITES.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")
def import_(paths: tuple[Path, ...], inbox: bool, site: str, as_json: bool) -> int:
    """Import files, folders, ZIP archives and DICOMDIR media as if they had been received.

    Every byte is kept, sources are only read. Works with or without a running receiver. Exit code 1 if
    anything went to quarantine, could not be read, or is listed in a DICOMDIR and was not there.
    """
    if bool(paths) == inbox:
        raise UsageError("give files, folders or archives to import, or --inbox alone")
    if inbox and site:
        raise UsageError("the inbox belongs to the main site; import paths to reach another one")
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    settings = load_settings_in_force(root)[0] if root.config_file.exists() else None
    if site:
        root = _of_site(root, settings or Settings(), site)
    root.make()
    if inbox:
        return _empty_inbox(root, settings or Settings(), as_json)
    report = ImportReport()
    try:
        with_progress(paths, lambda progress: _import(root, paths, settings or Settings(), progress, report))
    finally:  # also when the disk is full or somebody pressed Ctrl-C: what was done is done
        if as_json:
            click.echo(json.dumps(report.to_json(), indent=2))
        else:
            print_report(report)
    return 0 if report.sound else 1


def _of_site(root: DataRoot, settings: Settings, site: str) -> DataRoot:
    if site not in settings.SITES:
        known = ", ".join(sorted(settings.SITES)) or "none"
        raise UsageError(f"{root.config_file}: SITES has no {site!r} (there: {known})")
    return root.of_site(site)


def _empty_inbox(root: DataRoot, settings: Settings, as_json: bool) -> int:
    from fiona_dagster.operations.inbox import empty

    seconds = settings.imports.settle_seconds
    click.echo(
        f"waiting {seconds:g} s and more: a file is taken when it has not changed for so long", err=True
    )
    done = empty(root, settings)
    left = {
        "waiting": done.waiting,
        "left_alone": done.left_alone,
        "unreadable": done.unreadable,
        "not_removable": done.not_removable,
    }
    if as_json:
        click.echo(json.dumps({**done.report.to_json(), "taken": done.taken, **left}, indent=2))
    else:
        print_report(done.report)
        parts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in left.items() if count)
        if parts:
            click.echo(f"still in the inbox: {parts}")
    return 0 if done.report.sound and not (done.waiting or done.unreadable or done.not_removable) else 1


def _import(
    root: DataRoot,
    paths: tuple[Path, ...],
    settings: Settings,
    progress: Progress | None,
    report: ImportReport,
) -> None:
    import_paths(
        *(root, paths),
        progress=progress,
        reserve_mb=settings.receiver.reserve_mb if root.config_file.exists() else 0,
        max_unpacked=int(settings.imports.max_unpacked_gb * 2**30),
        report=report,
    )


def with_progress(paths: tuple[Path, ...], work: Callable[[Progress | None], None]) -> None:
    """Runs an import with a bar on stderr, if that is a terminal.

    Args:
        paths: what is imported, to know how much it is.
        work: the import; gets a function to call as it goes on.
    """
    if not sys.stderr.isatty():
        work(None)
        return
    from rich import progress as rich
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        *(SpinnerColumn(), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()),
        *(TimeRemainingColumn(), TextColumn("{task.description}")),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("counting", total=None)
        bar.update(task, total=survey(paths)[1])

        def show(report: ImportReport) -> None:
            bar.update(task, completed=report.bytes, description=_so_far(report))

        work(show)


def _so_far(report: ImportReport) -> str:
    bad = report.quarantined + report.failed
    return f"{report.files} files" + (f", {bad} to quarantine or unreadable" if bad else "")


def print_report(report: ImportReport) -> None:
    """Counts on stdout, a line for every problem on stderr."""
    counts = (
        f"{report.stored} stored, {report.repeats} repeats, {report.conflicts} conflicts, "
        f"{report.quarantined} to quarantine, {report.skipped} skipped, {report.failed} unreadable"
    )
    click.echo(f"{report.files} files: {counts}")
    if report.missing:
        click.echo(f"{report.missing} instances are listed in a DICOMDIR and were not there")
    for path, reason in report.problems:
        click.echo(f"{_one_line(path)}: {reason}", err=True)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
