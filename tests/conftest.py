"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot

pytest_plugins = ("tests.peers_fixtures",)

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
