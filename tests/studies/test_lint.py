"""Where a rule file relies on the original's engine (behaviour reference, section 1)."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.studies import default_rules, lint, parse_rules
from fiona_dagster.studies.lint import Finding

T = ["0x0018", "0x0089"]
TWO = {
    "type": "two",
    "id": "TWO",
    "rules": [{"tag": ["Modality"], "value": "^MR$"}, {"tag": ["Modality"], "value": "M"}],
}
ONE = {"type": "one", "id": "ONE", "rules": [{"tag": ["Modality"], "value": "^MR$"}]}


def findings(*entries: dict[str, Any], others: tuple[dict[str, Any], ...] = (), **more: Any) -> list[Finding]:
    rulesets = [{"type": "hit", "rules": list(entries), **more}, *others]
    return [
        found
        for found in lint(parse_rules(json.dumps(rulesets), "rules"))
        if found.ruleset.startswith("ruleset 1 ")
    ]


@pytest.mark.parametrize(
    ("entry", "trap"),
    [
        ({"tag": T, "operator": "==", "value": "105"}, "missing tag"),
        ({"tag": ["NumSlices"], "operator": "<", "value": "105"}, "missing tag"),
        ({"tag": ["Modality"], "operator": "==", "value": "MR"}, "text equality"),
        ({"tag": ["Modality"], "operator": "!=", "value": "MR"}, "text equality"),
        ({"tag": ["SeriesDescription"], "value": "88"}, "literal read as a tag"),
        ({"tag": ["SeriesDescription"], "value": "880"}, "literal read as a tag"),
        ({"tag": ["SeriesDescription"], "value": ".*"}, "pattern that matches nothing"),
        ({"tag": T, "value": "^None$"}, "None"),
        ({"tag": ["SeriesDescription"], "value": "MR $"}, "padding"),
        ({"tag": ["SeriesDescription"], "value": ["SequenceName"]}, "pattern from a tag"),
        ({"tag": ["ProtocolName"], "value": "x"}, "keyword"),
        ({"tag": ["ImageType"], "value": "x"}, "first file's value"),
        ({"tag": ["0x0008", "0x0008"], "value": "^DERIVED$", "negate": "yes"}, "elements of a list"),
        ({"tag": ["NumFiles"], "value": "x"}, "NumFiles"),
        ({"tag": ["ClassifyType"], "operator": "contains", "value": "one", "negate": "yes"}, "ClassifyType"),
        (
            {"tag": ["0x0020", "0x0037"], "operator": "approx", "value": ["1", "0"]},
            "approx of unequal lengths",
        ),
        ({"tag": T, "operator": "approx", "value": "1", "negate": "yes"}, "negated approx"),
        ({"notrule": "TWO"}, "notrule"),
        ({"rule": "ONE", "negate": "yes"}, "negate on a reference"),
    ],
)
def test_each_trap_is_a_warning(entry: dict[str, Any], trap: str) -> None:
    found = findings(entry, others=(ONE, TWO))

    assert trap in [each.trap for each in found if each.changes]
    assert all(each.line == 1 for each in found)


@pytest.mark.parametrize(
    ("entry", "trap"),
    [
        ({"tag": T, "operator": "exist", "value": ""}, "exist"),
        ({"tag": T, "operator": "in", "value": ["1", "2"]}, "new operator"),
        ({"tag": ["NumSlices"], "value": "60"}, "CSA values"),
        ({"tag": ["0x0008", "0x0008"], "value": "^DERIVED$"}, "elements of a list"),
        ({"tag": ["0x0019", "0x109C"], "value": "muxepi"}, "private creator"),
        ({"tag": ["SoftwareVersion"], "value": "VE"}, "SoftwareVersion"),
        ({"tag": ["ClassifyType"], "operator": "contains", "value": "one"}, "ClassifyType"),
        (
            {"tag": ["0x0020", "0x0037"], "operator": "approx", "value": ["1", "0", "0", "0", "1", "0"]},
            "approx on a list",
        ),
    ],
)
def test_what_never_worked_in_the_original_is_only_noted(entry: dict[str, Any], trap: str) -> None:
    found = findings(entry, others=(ONE, TWO))

    assert [each.trap for each in found] == [trap]
    assert not found[0].changes


@pytest.mark.parametrize(
    "entries",
    [
        [{"tag": ["Modality"], "value": "^MR$"}],
        [{"tag": ["0x0008", "0x0008"], "operator": "contains", "value": "MOSAIC"}],
        [{"tag": ["0x0028", "0x0010"], "operator": "==", "value": "256"}],
        [{"tag": ["SeriesDescription"], "value": "60"}],  # (0006,0000) is in no file
        [{"notrule": "ONE"}],
        [{"rule": "TWO"}],
    ],
)
def test_what_means_the_same_is_not_mentioned(entries: list[dict[str, Any]]) -> None:
    assert findings(*entries, others=(ONE, TWO)) == []


def test_who_asks_for_the_tag_means_what_holds_here() -> None:
    found = findings({"tag": T, "operator": "exist"}, {"tag": T, "operator": "==", "value": "105"})

    assert not [each for each in found if each.changes]


def test_who_describes_a_notrule_means_what_holds_here() -> None:
    found = findings({"notrule": "TWO", "description": "as a whole"}, others=(ONE, TWO))

    assert [(each.trap, each.changes) for each in found] == [("notrule", False)]


def test_a_series_level_type_that_others_give_too_is_a_warning() -> None:
    entry = {"tag": ["Modality"], "value": "^MR$"}
    alone = findings(entry, check="SeriesLevel")
    shared = findings(entry, check="SeriesLevel", others=({"type": "hit", "rules": [entry]},))

    assert [(each.trap, each.changes) for each in alone + shared] == [
        ("SeriesLevel", False),
        ("SeriesLevel", True),
    ]


DOCUMENT = Path(__file__).parents[2] / "docs" / "researchers" / "classification.md"


def test_every_trap_is_explained_with_an_example() -> None:
    source = Path(inspect.getfile(Finding)).read_text(encoding="utf-8")
    traps = set(re.findall(r'_finding\(\s*"([^"]+)"', source))
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Differences from the original")[2]
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]

    assert len(traps) > 15
    assert traps <= {row[0] for row in rows}
    assert all(len(row) == 4 and all(row) for row in rows)  # a name, an example, what held, what holds


def test_our_own_rules_rely_on_nothing_of_the_original() -> None:
    assert [each for each in lint(default_rules()) if each.changes] == []
