"""What a condition means, case by case (issue 4, section "Rules")."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.errors import ConfigurationError, PatternTooSlow
from fiona_dagster.studies import InstanceHeader, classify, parse_rules

TAGS = {
    "ImageType": (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
    "Manufacturer": (0x00080070, "LO", b"SIEMENS "),
    "SeriesDescription": (0x0008103E, "LO", b"head_QA_dMRI 12"),
    "StationName": (0x00081010, "SH", b""),
    "SliceThickness": (0x00180050, "DS", b"2.50"),
    "EchoTime": (0x00180081, "DS", b""),
    "AcquisitionMatrix": (0x00181310, "US", b"\0\0\0\1\0\1\0\0"),
    "PixelSpacing": (0x00280030, "DS", b"0.5\\0.5"),
    "Orientation": (0x00200037, "DS", b"1\\0.00001\\0\\0\\1\\0"),
    "Rows": (0x00280010, "US", b"\0\1"),
    "Text88": (0x00080050, "SH", b"88"),
}


def instance(**changed: tuple[int, str, bytes] | None) -> InstanceHeader:
    made = InstanceHeader(Path("none"))
    for element in {**TAGS, **changed}.values():
        if element is not None:
            made.elements[element[0]] = element[1:]
    return made


def judge(*entries: dict[str, Any], instances: list[InstanceHeader] | None = None, **more: Any) -> bool:
    rules = parse_rules(json.dumps([{"type": "hit", "rules": list(entries), **more}]), "rules")
    return classify(instances or [instance()], rules) == ["hit"]


ORIENTATION = ["0x0020", "0x0037"]
MISSING = ["0x0018", "0x9999"]

CASES: list[tuple[dict[str, Any], bool]] = [
    # regexp: printed value, then each element
    ({"tag": ["Manufacturer"], "value": "^SIE"}, True),
    ({"tag": ["0x08", "0x70"], "value": "^SIEMENS$"}, True),
    ({"tag": ["8", "112"], "value": "^SIEMENS$"}, True),
    ({"tag": ["Manufacturer"], "value": "sie"}, False),
    ({"tag": ["AcquisitionMatrix"], "value": "0, 256, 256, 0"}, True),
    ({"tag": ["AcquisitionMatrix"], "value": r"^\[0, 256"}, True),
    ({"tag": ["AcquisitionMatrix"], "value": "^256$"}, True),
    ({"tag": ["ImageType"], "value": r"\['ORIGINAL', 'PRIMARY'"}, True),
    ({"tag": ["ImageType"], "value": "^AXIAL$"}, True),
    ({"tag": ["PixelSpacing"], "value": r"^\[0\.5, 0\.5\]$"}, True),
    ({"tag": ["SliceThickness"], "value": "^2.50$", "operator": "regexp"}, True),
    # == and !=: numbers as numbers, texts as texts, element by element
    ({"tag": ["SliceThickness"], "operator": "==", "value": "2.5"}, True),
    ({"tag": ["SliceThickness"], "operator": "==", "value": 2.5}, True),
    ({"tag": ["SliceThickness"], "operator": "!=", "value": "2.5"}, False),
    ({"tag": ["Manufacturer"], "operator": "==", "value": "SIEMENS"}, True),
    ({"tag": ["Manufacturer"], "operator": "==", "value": "Siemens"}, False),
    ({"tag": ["Manufacturer"], "operator": "!=", "value": "GE"}, True),
    ({"tag": ["AcquisitionMatrix"], "operator": "==", "value": [0, 256, 256, 0]}, True),
    ({"tag": ["AcquisitionMatrix"], "operator": "==", "value": ["0", "256", "256", "1"]}, False),
    ({"tag": ["PixelSpacing"], "operator": "==", "value": "0.50"}, True),
    ({"tag": ["ImageType"], "operator": "==", "value": "ORIGINAL"}, False),
    # order
    ({"tag": ["SliceThickness"], "operator": "<", "value": "3"}, True),
    ({"tag": ["SliceThickness"], "operator": ">", "value": "3"}, False),
    ({"tag": ["SliceThickness"], "operator": "<=", "value": "2.5"}, True),
    ({"tag": ["SliceThickness"], "operator": ">=", "value": "2.5"}, True),
    ({"tag": ["Manufacturer"], "operator": "<", "value": "3"}, False),
    ({"tag": ["Manufacturer"], "operator": ">", "value": "3"}, False),
    ({"tag": ["PixelSpacing"], "operator": "<", "value": "1"}, True),
    # exist
    ({"tag": ["Manufacturer"], "operator": "exist"}, True),
    ({"tag": ["Manufacturer"], "operator": "exists", "value": "whatever"}, True),
    ({"tag": MISSING, "operator": "exist", "value": ""}, False),
    ({"tag": MISSING, "operator": "notexist", "value": ""}, True),
    ({"tag": ["Manufacturer"], "operator": "notexist"}, False),
    # contains: substring of a text, element of a list
    ({"tag": ["SeriesDescription"], "operator": "contains", "value": "_QA_dMRI"}, True),
    ({"tag": ["ImageType"], "operator": "contains", "value": "PRIMARY"}, True),
    ({"tag": ["ImageType"], "operator": "contains", "value": "ORIG"}, False),
    ({"tag": ["ImageType"], "operator": "contains", "value": ["AXIAL", "PRIMARY"]}, True),
    ({"tag": ["ImageType"], "operator": "contains", "value": ["AXIAL", "SECONDARY"]}, False),
    ({"tag": ["AcquisitionMatrix"], "operator": "contains", "value": "256"}, True),
    ({"tag": ["Rows"], "operator": "contains", "value": "256"}, True),
    # in
    ({"tag": ["Manufacturer"], "operator": "in", "value": ["GE", "SIEMENS"]}, True),
    ({"tag": ["Manufacturer"], "operator": "in", "value": ["GE", "PHILIPS"]}, False),
    ({"tag": ["Rows"], "operator": "in", "value": [128, 256]}, True),
    # approx
    ({"tag": ORIENTATION, "operator": "approx", "value": ["1", "0", "0", "0", "1", "0"]}, True),
    ({"tag": ORIENTATION, "operator": "approx", "value": [1, 0, 0, 0, 1, 0], "approxLevel": "1e-6"}, False),
    ({"tag": ORIENTATION, "operator": "approx", "value": [1, 0, 0, 0, 1]}, False),
    ({"tag": ["SliceThickness"], "operator": "approx", "value": "2.6", "approxLevel": "0.2"}, True),
    ({"tag": ["SliceThickness"], "operator": "approx", "value": "2.6"}, False),
    ({"tag": ["Manufacturer"], "operator": "approx", "value": "2.6"}, False),
    # index
    ({"tag": ["0x0008", "0x0008", "2"], "operator": "==", "value": "AXIAL"}, True),
    ({"tag": ["0x0008", "0x0008", "3"], "operator": "exist"}, False),
    ({"tag": ["0x0008", "0x0008", "3"], "operator": "==", "value": "AXIAL"}, False),
    ({"tag": ["0x0008", "0x0070", "0"], "operator": "==", "value": "SIEMENS"}, True),
    # values: references and literals are told apart
    ({"tag": ["PixelSpacing"], "operator": "==", "value": ["0x0028", "0x0030"]}, True),
    ({"tag": ["0x0028", "0x0030", "0"], "operator": "==", "value": ["0x0028", "0x0030", "1"]}, True),
    ({"tag": ["Manufacturer"], "operator": "==", "value": ["Manufacturer"]}, True),
    ({"tag": ["Manufacturer"], "value": ["Manufacturer"]}, True),
    ({"tag": ["Manufacturer"], "operator": "==", "value": ["StudyDescription"]}, False),
    ({"tag": ["AccessionNumber"], "operator": "==", "value": "88"}, True),
    ({"tag": ["AccessionNumber"], "value": "88"}, True),
    ({"tag": ["AccessionNumber"], "value": "880"}, False),
    ({"tag": ["PixelSpacing"], "operator": "==", "value": ["0.5", "0.5"]}, True),
    # present but empty: exists, and fails everything else
    ({"tag": ["StationName"], "operator": "exist"}, True),
    ({"tag": ["StationName"], "value": ""}, False),
    ({"tag": ["StationName"], "operator": "==", "value": ""}, False),
    ({"tag": ["StationName"], "operator": "!=", "value": "X"}, False),
    ({"tag": ["EchoTime"], "operator": "<", "value": "9"}, False),
    ({"tag": ["EchoTime"], "value": "None"}, False),
    (
        {
            "tag": [
                "EchoTime",
            ],
            "operator": "notexist",
        },
        False,
    ),
    # the series' own
    ({"tag": ["NumFiles"], "operator": "==", "value": "1"}, True),
    ({"tag": ["ClassifyType"], "operator": "exist"}, True),
    ({"tag": ["NoSuchName"], "operator": "exist"}, False),
]


def _id(case: Any) -> str:
    return json.dumps(case) if isinstance(case, dict) else str(case)


@pytest.mark.parametrize(("entry", "expected"), CASES, ids=_id)
def test_condition(entry: dict[str, Any], expected: bool) -> None:
    assert judge(entry) is expected


@pytest.mark.parametrize(("entry", "expected"), CASES, ids=_id)
def test_negate_inverts_the_verdict(entry: dict[str, Any], expected: bool) -> None:
    assert judge({**entry, "negate": "yes"}) is not expected


@pytest.mark.parametrize(
    "operator", ["regexp", "==", "!=", "<", ">", "<=", ">=", "contains", "in", "approx", "exist"]
)
def test_a_missing_tag_fails_unless_negated(operator: str) -> None:
    entry = {"tag": MISSING, "operator": operator, "value": "0"}

    assert judge(entry) is False
    assert judge({**entry, "negate": "yes"}) is True


def test_all_conditions_of_a_ruleset_must_hold() -> None:
    yes = {"tag": ["Manufacturer"], "value": "SIEMENS"}
    no = {"tag": ["Manufacturer"], "value": "GE"}

    assert judge(yes, yes)
    assert not judge(yes, no)
    assert not judge(no, yes)


def test_several_rulesets_of_a_type_are_alternatives() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "hit", "rules": [{"tag": ["Manufacturer"], "value": "GE"}]},
                {"type": "hit", "rules": [{"tag": ["Manufacturer"], "value": "SIEMENS"}]},
            ]
        ),
        "rules",
    )

    assert classify([instance()], rules) == ["hit"]


def test_any_instance_is_enough_but_series_level_needs_all() -> None:
    other = instance(Manufacturer=(0x00080070, "LO", b"GE"))
    entry = {"tag": ["Manufacturer"], "value": "SIEMENS"}

    assert judge(entry, instances=[instance(), other])
    assert not judge(entry, instances=[instance(), other], check="SeriesLevel")
    assert judge(entry, instances=[instance(), instance()], check="SeriesLevel")


def test_series_level_does_not_take_a_type_away_that_another_ruleset_gave() -> None:
    other = instance(Manufacturer=(0x00080070, "LO", b"GE"))
    rules = parse_rules(
        json.dumps(
            [
                {"type": "hit", "rules": [{"tag": ["Manufacturer"], "value": "GE"}]},
                {
                    "type": "hit",
                    "check": "SeriesLevel",
                    "rules": [{"tag": ["Manufacturer"], "value": "SIEMENS"}],
                },
            ]
        ),
        "rules",
    )

    assert classify([instance(), other], rules) == ["hit"]


def test_a_name_means_the_value_of_this_instance() -> None:
    other = instance(Manufacturer=(0x00080070, "LO", b"GE"))

    assert judge({"tag": ["Manufacturer"], "value": "GE"}, instances=[instance(), other])
    assert judge({"tag": ["Manufacturer"], "value": "SIEMENS"}, instances=[other, instance()])


REFERENCES = [
    {"type": "a", "id": "A", "rules": [{"tag": ["Manufacturer"], "value": "SIEMENS"}]},
    {
        "type": "b",
        "id": "B",
        "rules": [{"tag": ["Rows"], "operator": "==", "value": "256"}, {"tag": ["Rows"], "value": "no"}],
    },
]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"rule": "A"}], True),
        ([{"notrule": "A"}], False),
        ([{"rule": "B"}], False),
        ([{"notrule": "B"}], True),  # not "none of B's conditions": one of them holds
        ([{"rule": "A"}, {"notrule": "B"}], True),
        ([{"rule": "A", "negate": "yes"}], False),
        ([{"notrule": "A", "negate": "yes"}], True),
    ],
)
def test_references(entries: list[dict[str, str]], expected: bool) -> None:
    rules = parse_rules(json.dumps([{"type": "hit", "rules": entries}, *REFERENCES]), "rules")

    assert ("hit" in classify([instance()], rules)) is expected


def test_double_negation_through_references_is_kept() -> None:
    rules = parse_rules(
        json.dumps(
            [
                *REFERENCES,
                {"type": "n", "id": "N", "rules": [{"notrule": "A"}]},
                {"type": "hit", "rules": [{"notrule": "N"}]},
            ]
        ),
        "rules",
    )

    assert classify([instance()], rules) == ["a", "hit"]


def test_a_reference_to_an_id_that_several_have_means_any_of_them() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "hit", "rules": [{"rule": "X"}]},
                {"type": "x", "id": "X", "rules": [{"tag": ["Manufacturer"], "value": "GE"}]},
                {"type": "x", "id": "X", "rules": [{"tag": ["Manufacturer"], "value": "SIEMENS"}]},
            ]
        ),
        "rules",
    )

    assert classify([instance()], rules) == ["hit", "x"]
    assert "any of them counts" in rules.warnings[0]


def test_classify_type_is_the_final_set_wherever_the_ruleset_stands() -> None:
    planes = {"axial": b"1\\0\\0\\0\\1\\0", "coronal": b"1\\0\\0\\0\\0\\-1", "sagittal": b"0\\1\\0\\0\\0\\-1"}
    localizer = {
        "type": "localizer",
        "rules": [{"tag": ["ClassifyType"], "operator": "contains", "value": plane} for plane in planes],
    }
    rulesets = [
        {
            "type": plane,
            "rules": [{"tag": ORIENTATION, "operator": "approx", "value": value.decode().split("\\")}],
        }
        for plane, value in planes.items()
    ]
    rules = parse_rules(json.dumps([localizer, *rulesets]), "rules")
    series = [instance(Orientation=(0x00200037, "DS", value)) for value in planes.values()]

    assert classify(series, rules) == ["localizer", "axial", "coronal", "sagittal"]
    assert classify(series[:2], rules) == ["axial", "coronal"]


def test_a_type_can_rest_on_the_absence_of_another() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {
                    "type": "other",
                    "check": "SeriesLevel",
                    "rules": [{"tag": ["ClassifyType"], "value": "^(GE|SIEMENS)$", "negate": "yes"}],
                },
                {"type": "GE", "rules": [{"tag": ["Manufacturer"], "value": "^GE"}]},
            ]
        ),
        "rules",
    )

    assert classify([instance()], rules) == ["other"]
    assert classify([instance(Manufacturer=(0x00080070, "LO", b"GE"))], rules) == ["GE"]
    assert classify([instance(), instance(Manufacturer=(0x00080070, "LO", b"GE"))], rules) == ["GE"]


def test_a_value_taken_from_a_file_is_no_pattern() -> None:
    hostile = instance(Manufacturer=(0x00080070, "LO", b"(a+)+$"), StationName=(0x00081010, "SH", b"a" * 16))

    assert not judge({"tag": ["StationName"], "value": ["Manufacturer"]}, instances=[hostile])


def test_a_pattern_without_end_is_an_error_of_its_rule() -> None:
    """It fails the study that has such a value, names file, line and ruleset, and not the value."""
    hangs = {"tag": ["SeriesDescription"], "value": "(a|aa)+$"}
    value = b"a" * 60 + b"!"
    with pytest.raises(
        PatternTooSlow, match=r"rules: line 1: ruleset 1 \(type 'hit'\): the regular"
    ) as raised:
        judge(hangs, instances=[instance(SeriesDescription=(0x0008103E, "LO", value))])
    assert value.decode() not in str(raised.value)
    assert judge(hangs, instances=[instance(SeriesDescription=(0x0008103E, "LO", b"aaaa"))])


def test_a_pattern_without_end_for_a_type_is_found_when_the_file_is_read() -> None:
    document = [
        {"type": "a" * 60 + "!", "rules": [{"tag": ["Rows"], "operator": "exist"}]},
        {"type": "hit", "rules": [{"tag": ["ClassifyType"], "value": "(a|aa)+$"}]},
    ]
    with pytest.raises(ConfigurationError, match=r"ruleset 2 .*takes too long"):
        parse_rules(json.dumps(document), "rules")
