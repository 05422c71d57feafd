"""What ``fiona classify`` prints about rules: findings of --lint and explanations."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from fiona_dagster.studies import Classified, Decided, RuleSet
    from fiona_dagster.transfers.difference import Difference


def show_lint(rules: RuleSet, *, as_json: bool) -> int:
    """Prints every finding; gives 1 if the file relies on the original's behaviour or has warnings."""
    from fiona_dagster.studies import lint

    findings = lint(rules)
    warnings = [finding for finding in findings if finding.changes]
    if as_json:
        document = {
            "warnings": [dataclasses.asdict(finding) for finding in warnings],
            "notes": [dataclasses.asdict(finding) for finding in findings if not finding.changes],
            "file": list(rules.warnings),
            "digest": rules.digest,
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for text in rules.warnings:
            click.echo(f"warning: {text}")
        for finding in findings:
            kind = "warning" if finding.changes else "note"
            click.echo(f"{kind}: line {finding.line}: {finding.ruleset}: {finding.trap}: {finding.text}")
        total = len(warnings) + len(rules.warnings)
        notes = len(findings) - len(warnings)
        click.echo(f"{len(rules.rulesets)} rulesets, {total} warnings, {notes} notes")
    return 1 if warnings or rules.warnings else 0


def show_explanation(result: Classified, rules: RuleSet, *, as_json: bool) -> None:
    """Prints for each series which condition decided about each ruleset."""
    from fiona_dagster.studies import explain

    found = [
        (record, explain(result.instances[record["StudyInstanceUID"], record["SeriesInstanceUID"]], rules))
        for record in result.records
    ]
    if as_json:
        click.echo(json.dumps([_document(record, decided) for record, decided in found], indent=2))
        return
    for record, decided in found:
        _print_series(record, decided)


def _document(record: dict[str, object], decided: list[Decided]) -> dict[str, object]:
    return {
        "StudyInstanceUID": record["StudyInstanceUID"],
        "SeriesInstanceUID": record["SeriesInstanceUID"],
        "ClassifyType": record["ClassifyType"],
        "decided": [
            {
                "type": each.type,
                "line": each.line,
                "gave": each.gave,
                "instance": each.instance,
                "frame": each.frame,
                "conditions": [
                    {"condition": text, "found": value, "held": held} for text, value, held in each.conditions
                ],
            }
            for each in decided
        ],
    }


def _print_series(record: dict[str, object], decided: list[Decided]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    types = record["ClassifyType"]
    shown = ", ".join(map(str, types)) if isinstance(types, list) and types else "no types"
    table = Table(title=f"Series {record['SeriesInstanceUID']}: {shown}")
    for title in ("Type", "Line", "Given", "Instance", "Condition", "Found"):
        table.add_column(title)
    for each in sorted(decided, key=lambda one: not one.gave):
        for number, (text, value, _) in enumerate(each.conditions or (("no conditions", "", True),)):
            place = f"{each.instance}, frame {each.frame}" if each.frame else str(each.instance)
            first = (each.type, str(each.line), "yes" if each.gave else "no", place)
            cells = (*(first if number == 0 else ("", "", "", "")), text, value)
            table.add_row(*cells)
    Screen().print(table)


def show_difference(path: Path, *, as_json: bool) -> int:
    """Prints which series of the data root would get other types; gives 1 if a study could not be read."""
    from fiona_dagster.studies import load_rules
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.difference import difference

    rules = load_rules(path)
    root = DataRoot.from_environment()
    if not root.ledger_file.is_file():
        raise ConfigurationError(
            f"{root.path} has no ledger; set FIONA_DATA to a data root that received something"
        )
    with Gateway(root) as gateway:
        found = difference(gateway, rules)
    for warning in rules.warnings:
        click.echo(f"fiona: warning: {warning}", err=True)
    if found.read:
        click.echo(
            f"fiona: the files of {len(found.read)} studies were read: the ledger keeps not all that they "
            "look at",
            err=True,
        )
    for study in found.unreadable:
        click.echo(f"fiona: study {study}: its files are not there; nothing can be said of it", err=True)
    if as_json:
        changes = [dataclasses.asdict(change) for change in found.changes]
        document = {
            "series": found.series,
            "changes": changes,
            "read": found.read,
            "unreadable": found.unreadable,
        }
        click.echo(json.dumps({**document, "digest": rules.digest}, indent=2))
    else:
        _print_difference(found)
    return 1 if found.unreadable else 0


def _print_difference(found: Difference) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    console = Screen()
    if found.changes:
        table = Table(title="Series that would get other types")
        for title in ("Study", "Series", "Loses", "Gets"):
            table.add_column(title)
        for change in found.changes:
            lost = [type_ for type_ in change.before if type_ not in change.after]
            got = [type_ for type_ in change.after if type_ not in change.before]
            table.add_row(change.study, change.series, ", ".join(lost), ", ".join(got))
        console.print(table)
        moves: Counter[str] = Counter()
        for change in found.changes:
            moves.update(f"-{type_}" for type_ in set(change.before) - set(change.after))
            moves.update(f"+{type_}" for type_ in set(change.after) - set(change.before))
        click.echo("in all: " + ", ".join(f"{move} {count}" for move, count in sorted(moves.items())))
    click.echo(f"{len(found.changes)} of {found.series} series would get other types")
