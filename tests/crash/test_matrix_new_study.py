"""The crash matrix: the first object of a study."""

from __future__ import annotations

import pytest

from fiona_dagster.config import DataRoot
from tests.crash.matrix import check_death_at
from tests.crash.points import MATRIX

POINTS = [
    (scenario, point)
    for scenario, points in MATRIX.items()
    for point in points
    if scenario == "the first object of a study"
]


@pytest.mark.parametrize(("scenario", "point"), POINTS, ids=str)
def test_death_at(root: DataRoot, scenario: str, point: str) -> None:
    check_death_at(root, scenario, f"{scenario}: {point}")
