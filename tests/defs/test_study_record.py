"""What ``study_record`` shows: a table of series, totals and a check; nothing identifying."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from fiona_dagster.defs import intake
from fiona_dagster.defs.steps import StepResult, _common_checks
from fiona_dagster.studies import build_series_records, parse_rules, series_problems
from fiona_dagster.studies.contents import StudyContents, collect
from tests.studies.builders import SERIES, STUDY, header

PLANTED = "Zyxomma"
RULES = parse_rules('[{"type": "all", "rules": []}]', "rules")


def contents(tmp_path: Path) -> StudyContents:
    number = "4"
    return collect(
        STUDY,
        [
            header(tmp_path, SERIES + ".1", SeriesNumber=number, FrameOfReferenceUID="1.2"),
            header(tmp_path, SERIES + ".2", SeriesNumber=number, FrameOfReferenceUID="1.3"),
            header(
                tmp_path,
                "1.2.9",
                SeriesInstanceUID="1.2.8",
                Modality=PLANTED,
                SeriesDescription=PLANTED,
                PatientName=PLANTED,
                PatientID=PLANTED,
            ),
        ],
    )


def test_the_table_has_number_types_modality_instances_and_size(tmp_path: Path) -> None:
    found = contents(tmp_path)
    records = build_series_records(found, RULES)
    sizes = intake._series_bytes(found)
    table = intake._series_table(records, sizes)

    assert [record.data for record in table.records] == [
        {"series": "4", "modality": "CT", "instances": 2, "types": "all", "bytes": sizes[SERIES]},
        {"series": "-", "modality": "-", "instances": 1, "types": "all", "bytes": sizes["1.2.8"]},
    ]
    assert sum(sizes.values()) == found.byte_count
    assert PLANTED not in json.dumps([record.data for record in table.records])


def test_the_check_names_series_and_reason(tmp_path: Path) -> None:
    found = contents(tmp_path)
    check = intake._coherence(series_problems(found), build_series_records(found, RULES))

    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["series_with_problems"].value == 1
    assert check.metadata["other_frame_of_reference"].value == 1
    assert check.metadata["series"] == dg.MetadataValue.md("- series 4: more than one FrameOfReferenceUID")
    assert PLANTED not in str(check)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_check_blocks_nothing() -> None:
    (record,) = (asset for asset in intake.intake_assets("0" * 64) if asset.key.path == ["study_record"])
    (spec,) = record.check_specs

    assert spec.name == intake.COHERENCE_CHECK
    assert not spec.blocking


def test_a_run_over_several_studies_names_those_that_failed_and_warns(tmp_path: Path) -> None:
    found = contents(tmp_path)
    records = build_series_records(found, RULES)
    results = {
        "1.2": StepResult(checks=(intake._coherence({}, records),)),
        "1.3": StepResult(checks=(intake._coherence(series_problems(found), records),)),
    }
    (check,) = _common_checks(results)

    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["failed_for"] == dg.MetadataValue.md("- 1.3")
    assert (check.metadata["studies"].value, check.metadata["series_with_problems"].value) == (2, 1)
