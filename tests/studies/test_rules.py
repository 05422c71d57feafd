"""Reading, checking and keeping rule files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.studies import (
    InstanceHeader,
    classify,
    default_rules,
    default_rules_text,
    load_rules,
    load_rules_in_force,
    parse_rules,
)

GOOD = '[\n {"type": "GE",\n  "rules": [{"tag": ["Manufacturer"], "value": "^GE"}]}\n]'


def types(names: str, *rest: dict[str, Any]) -> str:
    return json.dumps([{"type": name, "rules": []} for name in names] + list(rest))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "not JSON"),
        ("[\n{]", 2, "not JSON"),
        ("{}", 1, "expected a list"),
        ("[" * 100_000, 1, "nested too deep"),
        ("[\n\nNaN]", 3, "not JSON"),
        ("[\n" + "9" * 5000 + "]", 2, "too many digits"),
        ('[{"type": "x",\n"type": "y", "rules": []}]', 2, '"type" stands twice'),
        ("[\n\n1]", 3, "ruleset 1: expected an object"),
        ('[\n{"rules": []}]', 2, '"type" is missing'),
        ('[{"type": "x", "rules": []},\n{"type": 5, "rules": []}]', 2, "ruleset 2"),
        ('[\n{"type": "x"}]', 2, '"rules" is missing'),
        ('[\n{"type": "x", "rules": {}}]', 2, "(type 'x'): \"rules\""),
        ('[{"type": "x", "check": "StudyLevel", "rules": []}]', 1, '"check" can only be'),
        ('[{"type": "x", "id": 5, "rules": []}]', 1, "'id' must be text"),
        ('[{"type": "x", "rules": [\n5]}]', 2, "must be an object"),
        ('[{"type": "x", "rules": [\n{}]}]', 2, "exactly one of"),
        ('[{"type": "x", "rules": [\n\n{"rule": 5}]}]', 3, "id of a ruleset"),
        (
            '[{"type": "x", "rules": [{"tag": ["Rows"], "value": "1"},\n{"tag": ["Rows"]}]}]',
            2,
            '"value" is missing',
        ),
        ('[{"type": "x", "rules": [{"tag": "Rows", "value": "1"}]}]', 1, '"tag" must be'),
        ('[{"type": "x", "rules": [{"tag": [], "value": "1"}]}]', 1, '"tag" must be'),
        ('[{"type": "x", "rules": [{"tag": ["1", "2", "3", "4"], "value": "1"}]}]', 1, '"tag" must be'),
        ('[{"type": "x", "rules": [{"tag": ["0x1", "Rows"], "value": "1"}]}]', 1, "must be numbers"),
        ('[{"type": "x", "rules": [{"tag": ["0x1", "70000"], "value": "1"}]}]', 1, "at most 0xFFFF"),
        ('[{"type": "x", "rules": [{"tag": ["0x1", "0x2", "z"], "value": "1"}]}]', 1, "index"),
        ('[{"type": "x", "rules": [{"tag": ["Rows"], "value": "("}]}]', 1, "not a regular expression"),
        ('[{"type": "x", "rules": [{"tag": ["Rows"], "value": true}]}]', 1, "must be text, a number"),
        ('[{"type": "x", "rules": [{"tag": ["Rows"], "value": [[1]]}]}]', 1, "must be text, a number"),
        (
            '[{"type": "x", "rules": [{"tag": ["Rows"], "operator": "contain", "value": "1"}]}]',
            1,
            "'contains'",
        ),
        ('[{"type": "x", "rules": [{"tag": ["Rows"], "negate": true, "value": "1"}]}]', 1, '"negate"'),
        (
            '[{"type": "x", "rules": [{"tag": ["Rows"], "value": "1", "approxLevel": "z"}]}]',
            1,
            "approxLevel",
        ),
    ],
)
def test_a_broken_file_is_refused_with_line_and_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_rules(text, "classifyRules.json")

    assert str(caught.value).startswith(f"classifyRules.json: line {line}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entries",
    [
        [[{"rule": "B"}], [{"rule": "A"}]],
        [[{"rule": "A"}], []],
        [[{"notrule": "B"}], [{"rule": "A"}]],
    ],
)
def test_a_cycle_of_references_is_an_error(entries: list[list[dict[str, str]]]) -> None:
    text = json.dumps(
        [{"type": id_.lower(), "id": id_, "rules": found} for id_, found in zip("AB", entries, strict=True)]
    )

    with pytest.raises(
        ConfigurationError, match=r"line 1: ruleset 1 \(type 'a'\): a cycle through references"
    ):
        parse_rules(text, "rules")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"operator": "contains", "value": "b"}, {"operator": "contains", "value": "a"}),
        ({"operator": "contains", "value": "b"}, {"value": "^a$"}),
        ({"operator": "==", "value": "b"}, {"operator": "==", "value": "a"}),
        ({"operator": "contains", "value": "a"}, {"operator": "contains", "value": "c"}),
    ],
)
def test_a_cycle_through_classify_type_is_an_error(first: dict[str, str], second: dict[str, str]) -> None:
    tag = {"tag": ["ClassifyType"]}
    text = json.dumps([{"type": "a", "rules": [tag | first]}, {"type": "b", "rules": [tag | second]}])

    with pytest.raises(ConfigurationError, match=r"a cycle through \[ClassifyType\]"):
        parse_rules(text, "rules")


def test_a_dependency_through_a_reference_counts() -> None:
    text = json.dumps(
        [
            {"type": "a", "rules": [{"rule": "X"}]},
            {
                "type": "x",
                "id": "X",
                "rules": [{"tag": ["ClassifyType"], "operator": "contains", "value": "a"}],
            },
        ]
    )

    with pytest.raises(ConfigurationError, match="cycle"):
        parse_rules(text, "rules")


def test_references_may_not_go_too_deep() -> None:
    chain = [{"type": "t", "id": str(i), "rules": [{"rule": str(i + 1)}]} for i in range(60)]
    text = json.dumps([*chain, {"type": "t", "id": "60", "rules": []}])

    with pytest.raises(ConfigurationError, match="deeper than 50"):
        parse_rules(text, "rules")


def test_an_unknown_reference_makes_rulesets_inactive_with_a_warning() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "a", "id": "A", "rules": [{"notrule": "nobody"}]},
                {"type": "b", "rules": [{"notrule": "A"}]},
                {"type": "c", "rules": []},
            ]
        ),
        "rules",
    )

    assert classify([InstanceHeader(Path("x"))], rules) == ["c"]
    assert "'nobody' doesn't exist" in rules.warnings[1]
    assert "'A' is inactive itself" in rules.warnings[2]


def test_an_inactive_ruleset_is_no_alternative_either() -> None:
    """With one id twice, the one that refers to nothing must not make a reference hold."""
    entries = [
        {"type": "hit", "rules": [{"rule": "X"}]},
        {"type": "x", "id": "X", "rules": [{"tag": ["Modality"], "value": "^MR$"}]},
        {"type": "x", "id": "X", "rules": [{"notrule": "NOSUCH"}]},
    ]
    header = InstanceHeader(Path("none"))
    header.elements[0x00080060] = ("CS", b"CT")

    assert classify([header], parse_rules(json.dumps(entries), "rules")) == []


def test_a_list_whose_third_part_is_no_index_is_a_literal() -> None:
    entry = {"tag": ["ImageType"], "operator": "==", "value": ["0x0008", "0x0060", "AXIAL"]}
    rules = parse_rules(json.dumps([{"type": "hit", "rules": [entry]}]), "rules")
    header = InstanceHeader(Path("none"))
    header.elements[0x00080008] = ("CS", b"0x0008\\0x0060\\AXIAL")

    assert classify([header], rules) == ["hit"]


def test_what_looks_wrong_is_a_warning() -> None:
    rules = parse_rules(
        json.dumps(
            [
                {"type": "x", "ruls": 1, "rules": [{"tag": ["Manufakturer"], "value": "x"}]},
                {"type": "y", "rules": [{"tag": ["Rows"], "operator": "<", "value": "many"}]},
                {
                    "type": "z",
                    "rules": [{"tag": ["ClassifyType"], "operator": "contains", "value": "nobody"}],
                },
            ]
        ),
        "rules",
    )

    expected = ("unknown key 'ruls'", "nothing is called", "needs numbers", "no ruleset gives")
    for reason, warning in zip(expected, rules.warnings, strict=True):
        assert reason in warning


def test_the_original_readme_s_oblique_loads() -> None:
    text = json.dumps(
        [
            {"type": "axial", "id": "AXIAL", "rules": [{"tag": ["Rows"], "value": "1"}]},
            {"type": "oblique", "check": "SeriesLevel", "rules": [{"notrule": "AXIAL"}]},
        ]
    )

    assert parse_rules(text, "rules").warnings == ()


def test_the_digest_is_that_of_the_meaning() -> None:
    one = parse_rules(GOOD, "rules").digest
    spread = parse_rules(json.dumps(json.loads(GOOD), indent=8), "rules").digest
    described = json.loads(GOOD)
    described[0]["description"] = "something"
    other = parse_rules(GOOD.replace("^GE", "^GD"), "rules").digest

    assert one == spread == parse_rules(json.dumps(described), "rules").digest
    assert one != other
    assert len(one) == 64


def test_a_missing_file_or_bad_encoding_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_bytes(b"[\xff]")

    with pytest.raises(ConfigurationError, match="can't be read"):
        load_rules(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_rules(tmp_path / "bad.json")


def test_without_a_file_our_own_rules_count(root: DataRoot) -> None:
    rules, problem = load_rules_in_force(root)

    assert problem is None
    assert rules.digest == default_rules().digest


def test_the_last_good_file_stays_in_force(root: DataRoot) -> None:
    root.rules_file.write_text(GOOD)
    good, problem = load_rules_in_force(root)
    assert problem is None

    root.rules_file.write_text(GOOD.replace('"rules"', '"ruels"'))
    rules, problem = load_rules_in_force(root)

    assert rules.digest == good.digest
    assert problem is not None
    assert "line 2: ruleset 1 (type 'GE')" in problem

    root.rules_file.write_text("[]")
    rules, problem = load_rules_in_force(root)
    assert problem is None
    assert rules.rulesets == ()


def test_a_file_that_never_was_good_is_refused(root: DataRoot) -> None:
    root.rules_file.write_text("no rules")

    with pytest.raises(ConfigurationError, match="not JSON"):
        load_rules_in_force(root)


def test_our_own_rules_are_in_order() -> None:
    rules = parse_rules(default_rules_text(), "default")

    assert len(rules.rulesets) > 30
    assert [warning for warning in rules.warnings if "several times" not in warning] == []


# --- properties ------------------------------------------------------------------------------------

VALUES = st.sampled_from([b"", b"1", b"2", b"A", b"A\\B", b"1\\2", b"B\\C\\A"])
TAG_NUMBERS = (0x00080008, 0x00080070, 0x00181314)
INSTANCES = st.lists(
    st.dictionaries(st.sampled_from(TAG_NUMBERS), VALUES, max_size=3), min_size=1, max_size=5
)
ENTRIES = st.fixed_dictionaries(
    {
        "tag": st.sampled_from([["0x0008", "0x0008"], ["Manufacturer"], ["0x0018", "0x1314", "1"]]),
        "operator": st.sampled_from(
            ["regexp", "==", "!=", "<", ">", "<=", ">=", "contains", "in", "approx", "exist", "notexist"]
        ),
        "value": st.sampled_from(["A", "1", "", ".*"]),
    },
    optional={"negate": st.just("yes")},
)
CALLS = st.one_of(
    ENTRIES,
    st.fixed_dictionaries({"rule": st.sampled_from(["0", "1"])}),
    st.fixed_dictionaries({"notrule": st.sampled_from(["0", "1"])}),
    st.fixed_dictionaries(
        {
            "tag": st.just(["ClassifyType"]),
            "operator": st.just("contains"),
            "value": st.sampled_from(["t0", "t1", "none"]),
        },
        optional={"negate": st.just("yes")},
    ),
)


@st.composite
def rule_files(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rulesets t0 and t1 of plain conditions, then others that may refer to these."""
    plain = [{"type": f"t{i}", "id": str(i), "rules": draw(st.lists(ENTRIES, max_size=2))} for i in range(2)]
    others = [
        {"type": f"o{i}", "rules": draw(st.lists(CALLS, max_size=3))} for i in range(draw(st.integers(0, 3)))
    ]
    for ruleset in plain + others:
        if draw(st.booleans()):
            ruleset["check"] = "SeriesLevel"
    return plain + others


def _instances(found: list[dict[int, bytes]]) -> list[InstanceHeader]:
    headers = []
    for each in found:
        header = InstanceHeader(Path("x"))
        header.elements = {tag: ("LO", data) for tag, data in each.items()}
        headers.append(header)
    return headers


@given(rule_files(), INSTANCES, st.randoms(use_true_random=False))
def test_types_do_not_depend_on_the_order_of_instances(
    rulesets: list[dict[str, Any]], found: list[dict[int, bytes]], random: Any
) -> None:
    rules = parse_rules(json.dumps(rulesets), "rules")
    shuffled = list(found)
    random.shuffle(shuffled)

    assert classify(_instances(found), rules) == classify(_instances(shuffled + found), rules)


@given(rule_files(), INSTANCES, st.randoms(use_true_random=False))
def test_types_do_not_depend_on_the_order_of_rulesets(
    rulesets: list[dict[str, Any]], found: list[dict[int, bytes]], random: Any
) -> None:
    shuffled = list(rulesets)
    random.shuffle(shuffled)

    assert set(classify(_instances(found), parse_rules(json.dumps(rulesets), "rules"))) == set(
        classify(_instances(found), parse_rules(json.dumps(shuffled), "rules"))
    )


@given(ENTRIES, INSTANCES)
def test_exactly_one_of_a_condition_and_its_negation_holds(
    entry: dict[str, Any], found: list[dict[int, bytes]]
) -> None:
    entry.pop("negate", None)
    rules = parse_rules(
        json.dumps(
            [
                {"type": "yes", "id": "Y", "rules": [entry]},
                {"type": "no", "rules": [{**entry, "negate": "yes"}]},
                {"type": "notrule", "rules": [{"notrule": "Y"}]},
            ]
        ),
        "rules",
    )

    assert classify(_instances(found[:1]), rules) in (["yes"], ["no", "notrule"])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "rules", "tag", "value", "operator", "id"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_taken_or_refused(document: Any) -> None:
    message = ""
    try:
        rules = parse_rules(json.dumps(document), "rules")
    except ConfigurationError as error:
        message = str(error)

    assert "line " in message if message else len(rules.rulesets) == len(document)
