"""Tables that Dagster shows of a de-identification and its verification.

Belongs here: turning counts into tables. Stays out: what is counted (``deid``). Nothing here identifies.
"""

# No `from __future__ import annotations` here: see defs/project.py.

from collections.abc import Mapping
from typing import Any

import dagster as dg

LONGEST_TABLE = 400
"""Rows; the report in the package has all."""


def kinds_table(counts: Mapping[str, int], unit: str) -> dg.TableMetadataValue:
    """Kind -> number, with a name for what is counted."""
    return _table(("kind", unit), [{"kind": kind, unit: count} for kind, count in sorted(counts.items())])


def actions_table(counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Action of PS3.15 table E.1-1a -> elements, in all instances together and at every depth."""
    from fiona_dagster.deid.report import MEANINGS

    rows = [
        {"action": action, "meaning": MEANINGS.get(action, action), "elements": count}
        for action, count in sorted(counts.items())
    ]
    return _table(("action", "meaning", "elements"), rows)


def tags_table(report: Mapping[str, Any]) -> dg.TableMetadataValue:
    """Every attribute that was acted upon, what was done, and how often; the most frequent first."""
    from fiona_dagster.deid.report import tag_rows

    rows = sorted(tag_rows(report), key=lambda row: (-int(row["elements"]), row["tag"], row["action"]))
    return _table(("tag", "keyword", "action", "meaning", "elements"), rows[:LONGEST_TABLE])


def rules_table(report: Mapping[str, Any]) -> dg.TableMetadataValue:
    """By what rules, key and software a copy was made."""
    from fiona_dagster.deid.report import rule_rows

    rows = [{"rule": name, "value": value} for name, value in rule_rows(report)]
    return _table(("rule", "value"), rows)


def log_table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """The transfer log as Dagster may show it (``operations.transfer_log``, view ``dagster``)."""
    from fiona_dagster.operations.transfer_log import columns

    return _table(columns("dagster"), rows)


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> dg.TableMetadataValue:
    schema = dg.TableSchema(
        [
            dg.TableColumn(name, "int" if rows and isinstance(rows[0][name], int) else "string")
            for name in columns
        ]
    )
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema)
