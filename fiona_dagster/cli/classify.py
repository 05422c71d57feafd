"""``fiona classify``: types and records of series, wherever the files lie; writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError

if TYPE_CHECKING:
    from fiona_dagster.studies import Classified, RuleSet


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--rules", "rules_file", type=click.Path(path_type=Path), help="Rule file in place of the site's."
)
@click.option("--explain", "explained", is_flag=True, help="Which condition decided, with the value found.")
@click.option(
    "--lint", "linted", is_flag=True, help="Only check the rules: where they rely on the original's engine."
)
@click.option(
    "--diff",
    "new_rules",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="NEW.json",
    help="What these rules would change for every known series.",
)
@click.option("--json", "as_json", is_flag=True, help="The series records as one JSON list.")
def classify(
    paths: tuple[Path, ...],
    *,
    rules_file: Path | None,
    explained: bool,
    linted: bool,
    new_rules: Path | None,
    as_json: bool,
) -> int:
    """Shows types and record of every series in PATHS (files or folders); writes nothing.

    Rules are those of --rules, else the site's, else FIONA's own. Exit code 1: a DICOM file or a file named
    in the call could not be classified, or nothing was. Files in folders that are no DICOM are only named.

    --explain shows in place of the record which condition decided about each type; values that may identify
    somebody are masked. --lint and --diff need no PATHS; exit code 1: --lint has warnings, or --diff found a
    study of which nothing can be said.
    """
    from fiona_dagster.cli import rules_output
    from fiona_dagster.studies import classify_paths

    if new_rules is not None:
        if paths or linted or explained or rules_file:
            raise UsageError("--diff stands alone: it takes all that is known, and the rules that it names")
        return rules_output.show_difference(new_rules, as_json=as_json)
    if linted == bool(paths) or (linted and explained):
        raise UsageError("name files or folders to classify, or give --lint alone to check the rules")
    rules = _rules(rules_file)
    if linted:
        return rules_output.show_lint(rules, as_json=as_json)
    for warning in rules.warnings:
        click.echo(f"fiona: warning: {warning}", err=True)
    result = classify_paths(paths, rules)
    if explained:
        rules_output.show_explanation(result, rules, as_json=as_json)
    elif as_json:
        click.echo(json.dumps(result.records, indent=2, sort_keys=True, default=str))
    elif result.records:
        _print_table(result)
    return _complain(result)


def _rules(path: Path | None) -> RuleSet:
    from fiona_dagster.studies import load_rules, load_rules_in_force

    if path is not None:
        return load_rules(path)
    rules, problem = load_rules_in_force(DataRoot.from_environment())
    if problem:
        click.echo(f"fiona: warning: {problem}; the last good rules are used", err=True)
    return rules


def _print_table(result: Classified) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    table = Table(title="Series and their types")
    table.add_column("Series")
    for title in ("Number", "Modality", "Instances", "Types"):
        table.add_column(title)
    for record in result.records:
        table.add_row(
            record["SeriesInstanceUID"],
            str(record.get("SeriesNumber", "")),
            str(record.get("Modality", "")),
            record["NumFiles"],
            ", ".join(record["ClassifyType"]),
        )
    Screen().print(table)


def _complain(result: Classified) -> int:
    for kind, files in (
        ("skipped", result.skipped),
        ("damaged", result.damaged),
        ("could not be classified", result.unreadable),
    ):
        for path, reason in files:
            click.echo(f"fiona: {_shown(path)}: {kind}: {reason}", err=True)
    if not result.records:
        click.echo("fiona: nothing could be classified; name DICOM files or folders that hold some", err=True)
    return 1 if result.unreadable or not result.records else 0


def _shown(path: Path) -> str:
    """A path as one line of printable text, whatever its name is."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8").translate(_CONTROL)


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
