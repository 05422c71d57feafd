"""``fiona status``: where everything stands, from the ledger, needing no running service."""

from __future__ import annotations

import json
from typing import Any

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError


@click.command()
@click.argument("study", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def status(study: str | None, as_json: bool) -> None:
    """Shows all studies, or everything about STUDY (StudyInstanceUID)."""
    from fiona_dagster.operations.overview import overview, study_detail

    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root here; run `fiona init` or set FIONA_DATA")
    document = study_detail(root, study) if study else overview(root)
    if not study:
        document["dagster"] = _dagster_counts(root)
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    elif study:
        _print_study(document)
    else:
        _print_overview(document)


def _dagster_counts(root: DataRoot) -> dict[str, int]:
    """Runs by status; a Dagster that never ran counts as empty."""
    if not (root.dagster_home / "dagster.yaml").is_file() or not (root.dagster_home / "history").is_dir():
        return {}
    from fiona_dagster.defs.counts import run_counts

    return run_counts(root)


def _print_overview(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(document['studies'])} studies")
    for column in ("StudyInstanceUID", "state", "instances", "flags", "transfers"):
        table.add_column(column, overflow="fold")
    for entry in document["studies"]:
        transfers = ", ".join(f"{t['project']}: {t['state']}" for t in entry["transfers"])
        table.add_row(
            entry["study"], entry["state"], str(entry["instances"]), ", ".join(entry["flags"]), transfers
        )
    console = Console()
    console.print(table)
    off = [name for name, on in sorted(document["switches"].items()) if not on]
    if off:
        held = sum(work["held"] for work in document["work"])
        waiting = f"; {held} deliveries are held" if "sending" in off else ""
        console.print(f"switched off in config/enabled: {', '.join(off)}{waiting}", markup=False)
    for work in document["work"]:
        if work["error"]:
            console.print(f"{work['key']}: attempt {work['attempt']}: {work['error']}", markup=False)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(document["dagster"].items())) or "none"
    console.print(f"Dagster runs: {counts}", markup=False)


def _print_study(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{document['study']}: {document['state']}, {document['instances']} instances, "
        f"revision {document['revision']}, flags: {', '.join(document['flags']) or 'none'}",
        markup=False,
    )
    judged = document["completion"]
    if judged:
        expected = "unknown" if judged["expected"] is None else judged["expected"]
        console.print(
            f"completeness: {judged['outcome']}, {judged['received']} received, {expected} expected, "
            f"{judged['missing']} missing",
            markup=False,
        )
        for reason in judged["reasons"]:
            console.print(f"  {reason}", markup=False)
    if document["committed"]:
        console.print(f"{document['committed']} instances are committed to their sender", markup=False)
    series = Table("series", "modality", "instances", "types", title="Series")
    for number, entry in enumerate(document["series"], 1):
        series.add_row(
            str(number), entry["Modality"], str(entry["NumFiles"]), ", ".join(entry["ClassifyType"])
        )
    console.print(series)
    for transfer in document["transfers"]:
        console.print(f"{transfer['project']}: {transfer['state']} {transfer['reason']}", markup=False)
        package = transfer["package"]
        if package:
            console.print(f"  {package['path']}  sha256 {package['sha256']}", markup=False)
        for delivery in transfer["deliveries"]:
            console.print(
                f"  {delivery['target']}: {delivery['proof'].get('kind')} {delivery['time']}", markup=False
            )
    for work in document["work"]:
        held = "held, " if work["held"] else ""
        console.print(f"to do: {work['key']} ({held}attempt {work['attempt']}) {work['error']}", markup=False)
    for time, what in document["history"]:
        console.print(f"{time}  {what}", markup=False)
