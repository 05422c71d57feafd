"""Instances of one series that can't belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.studies import PROBLEMS, series_problems
from fiona_dagster.studies.contents import collect
from tests.studies.builders import SERIES, STUDY, header

AXIAL, SAGITTAL = list("100010"), ["0", "1", "0", "0", "0", "-1"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {}, ()),
        ({}, {"PatientID": "PID-2"}, ("other_patient",)),
        ({}, {"PatientID": ""}, ()),
        ({"FrameOfReferenceUID": "1.2"}, {"FrameOfReferenceUID": "1.3"}, ("other_frame_of_reference",)),
        ({"FrameOfReferenceUID": "1.2"}, {}, ()),
        ({"Columns": 2}, {"Columns": 4}, ()),
        (
            {"Columns": 2, "ImageOrientationPatient": AXIAL},
            {"Columns": 4, "ImageOrientationPatient": AXIAL},
            ("other_matrix",),
        ),
        (
            {"Columns": 2, "ImageOrientationPatient": AXIAL},
            {"Columns": 4, "ImageOrientationPatient": SAGITTAL},
            (),
        ),
        (  # one volume, though its cosines round to different hundredths
            {"Columns": 2, "ImageOrientationPatient": ["1", "0.0049", "0", "0", "1", "0"]},
            {"Columns": 4, "ImageOrientationPatient": ["1", "0.0051", "0", "0", "1", "0"]},
            ("other_matrix",),
        ),
        (
            {"PatientName": "A", "Rows": 2, "ImageOrientationPatient": AXIAL, "FrameOfReferenceUID": "1.2"},
            {"PatientName": "B", "Rows": 4, "ImageOrientationPatient": AXIAL, "FrameOfReferenceUID": "1.3"},
            tuple(PROBLEMS),
        ),
    ],
)
def test_problems_of_a_series(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], expected: tuple[str, ...]
) -> None:
    headers = [header(tmp_path, f"{SERIES}.{n}", **values) for n, values in ((1, first), (2, second))]

    assert series_problems(collect(STUDY, headers)) == ({SERIES: expected} if expected else {})


def test_series_are_judged_apart(tmp_path: Path) -> None:
    one = header(tmp_path, SERIES + ".1", FrameOfReferenceUID="1.2")
    other = header(tmp_path, "1.2.9", FrameOfReferenceUID="1.3", SeriesInstanceUID="1.2.8")

    assert series_problems(collect(STUDY, [one, other])) == {}
