"""`fiona demo --exit`: three studies are proven delivered, and no planted value shows anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fiona_dagster.demo.phantoms import make_studies
from fiona_dagster.demo.script import SEED
from fiona_dagster.transfers.verify import verify_package

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(800)]


def test_the_demo_delivers_and_names_nobody(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = subprocess.run(
        [sys.executable, "-m", "fiona_dagster.cli", "demo", "--exit", "--data", str(data)],
        env={**os.environ, "FIONA_DATA": str(tmp_path / "other")},
        capture_output=True,
        timeout=780,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output.decode()
    packages = sorted((data / "DAIC").rglob("*.zip"))
    assert len(packages) == 3
    text = output.decode()
    assert "Screenshots: " in text, text
    assert "held back (secondary_capture)" in " ".join(text.split()), text
    assert all(verify_package(path) == [] for path in packages)
    assert not (data / "dagster" / "fiona-up.json").exists(), "everything was stopped"

    planted = [text for study in make_studies(tmp_path / "again", seed=SEED) for text in study.planted]
    assert len(planted) > 20
    watched = [
        path for name in ("dagster", "logs", "DAIC") for path in (data / name).rglob("*") if path.is_file()
    ]
    assert any(path.suffix == ".db" for path in watched)
    leaks = [
        (text, str(path.relative_to(data)))
        for path in watched
        for content in [path.read_bytes()]
        for text in planted
        if text.encode() in content or text in path.name
    ]
    assert leaks == []
    assert [text for text in planted if text.encode() in output] == []
    kept = [path for path in (data / "site" / "archive").rglob("*") if path.is_file()]
    assert any(text.encode() in kept[0].read_bytes() for text in planted), "the search finds what is there"
