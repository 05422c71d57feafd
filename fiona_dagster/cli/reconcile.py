"""``fiona reconcile``: REDCap, ledger, disk and research PACS against each other."""

from __future__ import annotations

import json

import click

from fiona_dagster.config import DataRoot


@click.command()
@click.option("--project", help="Only this project's gaps.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def reconcile(project: str | None, *, as_json: bool) -> int:
    """Compares REDCap, ledger, disk and research PACS, and lists every gap with its reason and age.

    Changes nothing. Exit code 1 if a gap is older than `reconciliation.gap_days` or something could not be
    asked. Dagster does the same every night (asset `reconciliation`).
    """
    from fiona_dagster.operations.reconciliation import reconcile as compare
    from fiona_dagster.transfers.context import Gateway

    with Gateway(DataRoot.from_environment()) as gateway:
        found = compare(gateway)
    if project is not None:
        found.gaps = [gap for gap in found.gaps if gap.project == project]
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2))
    else:
        from rich.table import Table

        from fiona_dagster.cli.screen import Screen

        console = Screen()
        for name, gaps in found.by_project().items():
            table = Table("study", "gap", "days", "reason", title=name or "no project")
            for gap in gaps:
                days = f"{gap.age_days(found.time):.1f}"
                table.add_row(gap.study, gap.code.replace("_", " "), days, gap.reason)
            console.print(table)
        for problem in found.problems:
            console.print(problem)
        checked = ", ".join(f"{count} {name}" for name, count in found.checked.items())
        old = len(found.too_old())
        console.print(f"{len(found.gaps)} gaps, {old} too old; compared: {checked}")
    return 1 if found.too_old() or found.problems else 0
