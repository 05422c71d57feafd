"""The crash matrix: a second object, repeats, conflicts and refusals."""

from __future__ import annotations

import pytest

from fiona_dagster.config import DataRoot
from tests.crash.matrix import check_death_at
from tests.crash.points import MATRIX

POINTS = [
    (scenario, point)
    for scenario, points in MATRIX.items()
    for point in points
    if scenario != "the first object of a study"
]


@pytest.mark.parametrize(("scenario", "point"), POINTS, ids=str)
def test_death_at(root: DataRoot, scenario: str, point: str) -> None:
    check_death_at(root, scenario, f"{scenario}: {point}")


def test_a_point_that_is_not_reached_fails(root: DataRoot) -> None:
    with pytest.raises(pytest.fail.Exception, match="never came to the point"):
        check_death_at(root, "a refusal", "a conflict: before the conflict gets its name")
