"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from fiona_dagster.config import DataRoot

pytest_plugins = ("tests.peers_fixtures",)

# No time limit for an example: a busy machine is no failure. `make test-full` tries many more of them.
settings.register_profile("fiona", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("full", settings.get_profile("fiona"), max_examples=2000)
settings.load_profile("full" if os.environ.get("FIONA_TEST_FULL") else "fiona")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared DICOM files and tables; skips where it is absent."""
    folder = Path(os.environ.get("FIONA_SHARED") or CHECKOUT.parent / "shared").absolute()
    if not (folder / "data" / "visible").is_dir():
        pytest.skip(f"no shared files in {folder}; set FIONA_SHARED")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> DataRoot:
    """An empty data root."""
    data = DataRoot(tmp_path / "data")
    data.make()
    return data


LANES = {
    "test_whole_way": "one service",
    "test_sites": "one service",
    "test_evidence": "one service",
}
"""Files with a whole service: those of a lane run one after the other, since too many starve each other."""

LONG = ("end_to_end", "test_supervisor", "crash", "peers", "operations", "cli", "transfers", "defs")


class LaneScheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """A file's tests stay together in one worker, and so do those of a lane."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return LANES.get(Path(file).stem, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LaneScheduling:
    return LaneScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files go first, so that no worker is left alone with them at the end."""

    def rank(item: pytest.Item) -> int:
        place = (*item.path.parts, item.path.stem)
        return next((number for number, name in enumerate(LONG) if name in place), len(LONG))

    items.sort(key=rank)
