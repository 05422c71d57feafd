"""Which condition decided, with the value found and nothing identifying."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.studies import classify, explain, parse_rules
from fiona_dagster.studies.explain import Decided
from tests.studies.test_semantics import CASES, instance

NAME = (0x00100010, "PN", b"Muster^Erika")
GE = instance(Manufacturer=(0x00080070, "LO", b"GE"))


def decided(*entries: dict[str, Any], instances: Any = None, **more: Any) -> Decided:
    rules = parse_rules(json.dumps([{"type": "hit", "rules": list(entries), **more}]), "rules")
    (found,) = explain(instances or [instance()], rules)
    return found


def test_a_type_that_was_given_shows_every_condition() -> None:
    found = decided(
        {"tag": ["Manufacturer"], "value": "^SIE"},
        {"tag": ["0x0028", "0x0010"], "operator": "==", "value": "256"},
    )

    assert (found.gave, found.instance) == (True, 1)
    assert found.conditions == (
        ("Manufacturer regexp ^SIE", "SIEMENS", True),
        ("(0028,0010) == 256", "256", True),
    )


def test_one_that_was_not_shows_where_it_failed() -> None:
    found = decided(
        {"tag": ["Rows"], "operator": "==", "value": "256"},
        {"tag": ["Manufacturer"], "value": "PHILIPS"},
        {"tag": ["Rows"], "value": "never reached"},
        instances=[instance(Rows=None), instance(), GE],
    )

    assert (found.gave, found.instance) == (False, 2)  # the one that came furthest
    assert found.conditions == (("Manufacturer regexp PHILIPS", "SIEMENS", False),)


def test_series_level_shows_the_first_instance_that_failed() -> None:
    found = decided(
        {"tag": ["Manufacturer"], "value": "SIEMENS"}, instances=[instance(), GE], check="SeriesLevel"
    )

    assert (found.gave, found.instance, found.conditions[0][1]) == (False, 2, "GE")


def test_a_reference_shows_what_failed_inside() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "hit", "rules": [{"rule": "X"}]},
                {"type": "x", "id": "X", "rules": [{"tag": ["Manufacturer"], "value": "GE"}]},
            ]
        ),
        "rules",
    )
    found = explain([instance()], rules)

    assert found[0].conditions == (("rule X", "fails at: Manufacturer regexp GE; found SIEMENS", False),)


@pytest.mark.parametrize(
    ("tag", "element", "shown"),
    [
        ("PatientName", NAME, "masked (12 characters)"),
        ("PatientID", (0x00100020, "LO", b"12345678"), "masked (8 characters)"),
        ("AccessionNumber", (0x00080050, "SH", b"A77"), "masked (3 characters)"),
        ("StudyDate", (0x00080020, "DA", b"20260101"), "masked (8 characters)"),
        ("InstitutionName", (0x00080080, "LO", b"Ward 7"), "masked (6 characters)"),
        ("StudyInstanceUID", (0x0020000D, "UI", b"1.2.3"), "masked (5 characters)"),
        ("SOPClassUID", (0x00080016, "UI", b"1.2.3"), "1.2.3"),
        ("StationName", (0x00081010, "SH", b""), "present, without a value"),
        ("StudyID", (0x00081111, "SH", b""), "missing"),
    ],
)
def test_identifying_values_are_masked(tag: str, element: tuple[int, str, bytes], shown: str) -> None:
    found = decided({"tag": [tag], "value": "no such text"}, instances=[instance(more=element)])

    assert found.conditions[0][1] == shown


@pytest.mark.parametrize(
    ("text", "shown"), [(b"knee of ERIKA 3", "masked (15 characters)"), (b"t1 tra", "t1 tra")]
)
def test_a_name_is_masked_wherever_it_stands(text: bytes, shown: str) -> None:
    series = instance(name=NAME, text=(0x0008103E, "LO", text))
    found = decided({"tag": ["SeriesDescription"], "value": "no such text"}, instances=[series])

    assert found.conditions[0][1] == shown


def test_an_identifying_value_behind_a_reference_is_masked() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "hit", "rules": [{"rule": "X"}]},
                {"type": "x", "id": "X", "rules": [{"tag": ["PatientName"], "value": "^Doe"}]},
            ]
        ),
        "rules",
    )

    assert "Muster" not in str(explain([instance(name=NAME)], rules))


@given(st.lists(st.sampled_from([entry for entry, _ in CASES]), min_size=1, max_size=4), st.booleans())
def test_explanation_and_classification_agree(entries: list[dict[str, Any]], everywhere: bool) -> None:
    more = {"check": "SeriesLevel"} if everywhere else {}
    rules = parse_rules(json.dumps([{"type": "hit", "rules": entries, **more}]), "rules")
    series = [instance(), GE, instance(Rows=None)]
    (found,) = explain(series, rules)

    assert found.gave is (classify(series, rules) == ["hit"])
    assert all(held is found.gave for _, _, held in found.conditions)
