"""The demo's studies: recognisable by type, valid, deterministic, and full of planted names."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from fiona_dagster.demo.phantoms import DemoStudy, make_studies
from fiona_dagster.demo.pictures import Plane, chest, head
from tests.peers_fixtures import program


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[DemoStudy]:
    return make_studies(tmp_path_factory.mktemp("phantoms"), seed=7)


def test_three_studies_of_several_series_within_bounds(studies: list[DemoStudy]) -> None:
    assert [study.kind for study in studies] == ["mr", "ct", "us"]
    files = [path for study in studies for path in study.files]
    assert len(files) < 150
    assert sum(path.stat().st_size for path in files) < 40_000_000
    for study in studies:
        assert len(study.series) >= 3
        assert sum(study.series.values()) == len(study.files)
        uids = {(dcmread(p, stop_before_pixels=True).SOPInstanceUID) for p in study.files}
        assert len(uids) == len(study.files)
        assert {dcmread(p, stop_before_pixels=True).StudyInstanceUID for p in study.files} == {
            study.StudyInstanceUID
        }


def test_same_seed_same_bytes(studies: list[DemoStudy], tmp_path: Path) -> None:
    again = make_studies(tmp_path, seed=7)
    for first, second in zip(studies, again, strict=True):
        assert [hashlib.sha256(p.read_bytes()).digest() for p in first.files] == [
            hashlib.sha256(p.read_bytes()).digest() for p in second.files
        ]


def test_another_seed_gives_other_uids(studies: list[DemoStudy], tmp_path: Path) -> None:
    other = make_studies(tmp_path, seed=8)
    assert not {s.StudyInstanceUID for s in studies} & {s.StudyInstanceUID for s in other}


def test_every_planted_value_stands_in_every_file(studies: list[DemoStudy]) -> None:
    for study in studies:
        assert len(study.planted) > 20
        for path in study.files:
            data = path.read_bytes()
            missing = [value for value in study.planted if value.encode("latin-1") not in data]
            assert missing == []


def test_planted_values_are_not_in_what_is_shown(studies: list[DemoStudy]) -> None:
    for study in studies:
        shown = f"{study!r} {study.title} {sorted(study.series)}"
        assert [value for value in study.planted if value in shown] == []


def test_planted_values_of_the_studies_differ(studies: list[DemoStudy]) -> None:
    values = [value for study in studies for value in study.planted]
    assert len(values) == len(set(values))


@pytest.mark.peers
def test_dciodvfy_finds_no_errors(studies: list[DemoStudy]) -> None:
    check = program("dciodvfy", "dicom3tools")
    for study in studies:
        series: dict[str, Path] = {str(path.name)[:2]: path for path in study.files}
        for path in series.values():
            done = subprocess.run([check, str(path)], capture_output=True, text=True, check=False)
            assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


@pytest.mark.peers
def test_dcmtk_reads_them(studies: list[DemoStudy], dcmtk: Callable[[str], str]) -> None:
    for study in studies:
        done = subprocess.run(
            [dcmtk("dcmftest"), *map(str, study.files)], capture_output=True, text=True, check=False
        )
        assert done.stdout.count("yes: ") == len(study.files)


def test_a_head_is_a_head(studies: list[DemoStudy]) -> None:
    rng = np.random.default_rng(1)
    t1 = head(Plane("axial", 20, 256, 256, 0.9), "T1", rng).astype(float)
    flair = head(Plane("axial", 20, 256, 256, 0.9), "FLAIR", rng).astype(float)
    white, ventricle, air = (128, 90), (105, 117), (5, 5)

    assert t1[white] > 3 * t1[ventricle]
    assert flair[white] > 3 * flair[ventricle]
    assert t1[air] < 60


def test_a_chest_is_a_chest() -> None:
    image = chest(Plane("axial", 0, 512, 512, 0.76), np.random.default_rng(1), noise=0)
    lung, spine, outside = image[256, 256 - 85], image[256 + 100, 256], image[5, 5]

    assert lung < -700
    assert spine > 100
    assert outside == pytest.approx(-1000, abs=1)
