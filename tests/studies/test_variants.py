"""The headers that the ledger keeps: enough to judge by, compact, and nothing that identifies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.studies import (
    InstanceHeader,
    classify,
    cover_of,
    default_rules,
    headers_of,
    is_covered,
    parse_rules,
    variants_of,
)
from tests.studies.test_semantics import CASES, instance


def rules(*entries: dict[str, Any]) -> Any:
    return parse_rules(json.dumps([{"type": "hit", "rules": list(entries)}]), "rules")


def test_equal_headers_are_kept_once() -> None:
    series = [
        instance(number=(0x00200013, "IS", str(number).encode()), place=(0x00201041, "DS", b"%d" % number))
        for number in range(300)
    ]
    packed = variants_of(series, cover_of(default_rules()))

    assert packed is not None
    assert len(headers_of(packed)) == 1
    assert len(packed) < 600


@given(st.lists(st.sampled_from([entry for entry, _ in CASES]), min_size=1, max_size=4), st.booleans())
def test_what_is_kept_is_judged_as_the_files_are(entries: list[dict[str, Any]], everywhere: bool) -> None:
    more = {"check": "SeriesLevel"} if everywhere else {}
    asked = parse_rules(json.dumps([{"type": "hit", "rules": entries, **more}]), "rules")
    cover = cover_of(asked)
    series = [instance(), instance(Manufacturer=(0x00080070, "LO", b"GE")), instance(Rows=None)]
    packed = variants_of(series, cover)
    assert packed is not None

    if is_covered(asked, cover):
        found = classify(headers_of(packed), asked, {"NumFiles": "3"})
        assert found == classify(series, asked, {"NumFiles": "3"})


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ("PatientName", False),
        ("PatientID", False),
        ("AccessionNumber", False),
        ("StudyDate", False),
        ("StudyDescription", False),
        ("SeriesInstanceUID", False),
        ("SeriesDescription", True),
        ("ProtocolName", True),
        ("ConvolutionKernel", True),
    ],
)
def test_nothing_identifying_is_kept_whatever_rules_look_at(tag: str, kept: bool) -> None:
    asked = rules({"tag": [tag], "value": "x"})

    assert is_covered(asked, cover_of(asked)) is kept
    assert is_covered(asked, cover_of(default_rules())) is kept


def test_identifying_values_do_not_get_in() -> None:
    named = instance(name=(0x00100010, "PN", b"Muster^Erika"))
    packed = variants_of([named], cover_of(rules({"tag": ["PatientName"], "value": "x"})))

    assert packed is not None
    assert "Muster" not in str([header.elements for header in headers_of(packed)])


def test_too_many_different_headers_are_not_kept() -> None:
    series = [instance(SliceThickness=(0x00180050, "DS", b"%d" % number)) for number in range(257)]

    assert variants_of(series, cover_of(default_rules())) is None


def test_values_of_siemens_own_headers_and_character_sets_survive() -> None:
    header = InstanceHeader(Path("none"), big=True)
    header.elements = {
        0x00080005: ("CS", b"ISO_IR 100"),
        0x0008103E: ("LO", "Sch\xe4del".encode("latin-1")),
        0x00280010: ("US", b"\1\0"),
        0x00180050: ("UN", b"2.5"),
    }
    header.say({"NumSlices": "60"})
    packed = variants_of([header], cover_of(default_rules()))
    assert packed is not None
    (again,) = headers_of(packed)

    assert (again.value(0x0008103E), again.value(0x00280010)) == ("Sch\xe4del", 256)
    assert again.value(0x00180050) == header.value(0x00180050)
    assert again.vendor["NumSlices"] == "60"
