"""What ``fiona classify`` prints about rules: findings of --lint and explanations."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fiona_dagster.studies import Classified, Decided, RuleSet


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
                "conditions": [
                    {"condition": text, "found": value, "held": held} for text, value, held in each.conditions
                ],
            }
            for each in decided
        ],
    }


def _print_series(record: dict[str, object], decided: list[Decided]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    types = record["ClassifyType"]
    shown = ", ".join(map(str, types)) if isinstance(types, list) and types else "no types"
    table = Table(title=escape(f"Series {record['SeriesInstanceUID']}: {shown}"))
    for title in ("Type", "Line", "Given", "Instance", "Condition", "Found"):
        table.add_column(title, overflow="fold")
    for each in sorted(decided, key=lambda one: not one.gave):
        for number, (text, value, _) in enumerate(each.conditions or (("no conditions", "", True),)):
            first = (each.type, str(each.line), "yes" if each.gave else "no", str(each.instance))
            cells = (*(first if number == 0 else ("", "", "", "")), text, value)
            table.add_row(*map(escape, cells))
    Console().print(table)
