"""A de-identifier for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import Assignment, Deidentifier, ProjectKey

Make = Callable[..., Deidentifier]


@pytest.fixture
def make() -> Make:
    """Builds de-identifiers with a fixed key."""

    def build(
        *options: str, participant: str = "SUBJ_0001", event: str = "Baseline", generation: int = 0
    ) -> Deidentifier:
        project = ProjectSettings.model_validate({"name": "DEMO", "options": options})
        key = ProjectKey("DEMO", bytes(range(32)))
        return Deidentifier(project, key, Assignment("DEMO", participant, event), generation)

    return build


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for copies."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
