"""``fiona studies``."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        running.packaged()
        return running


def test_every_series_is_a_row_and_names_nobody(site: Site) -> None:
    done = fiona("studies", "--json", data=site.root.path)
    table = fiona("studies", data=site.root.path)

    (row,) = json.loads(done.stdout)
    assert (row["StudyInstanceUID"], row["Modality"], row["State"]) == (STUDY, "CT", "held")
    assert row["NumFiles"] > 0
    assert row["Bytes"] > 1000
    assert "CT" in row["ClassifyType"]
    assert "1 series" in table.stdout
    for word in (*PLANTED, PARTICIPANT):
        assert word not in done.stdout + table.stdout


def test_a_project_s_rows_have_pseudonyms_and_no_uid_of_the_hospital(site: Site) -> None:
    done = fiona("studies", "--project", PROJECT, "--json", data=site.root.path)

    (row,) = json.loads(done.stdout)
    assert (row["Participant"], row["Event"], row["Series"]) == (PARTICIPANT, EVENT, 1)
    assert row["StudyInstanceUID"] == site.transfer().mapped_uid
    for word in (*PLANTED, STUDY):
        assert word not in done.stdout


def test_filters(site: Site) -> None:
    def count(*arguments: str) -> int:
        return len(json.loads(fiona("studies", "--json", *arguments, data=site.root.path).stdout))

    assert count("--modality", "MR") == 0
    assert count("--modality", "MR", "--modality", "CT") == 1
    assert count("--type", "CT") == 1
    assert count("--type", "CT", "--type", "localizer") == 0


def test_csv(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "series.csv"
    path.write_text("old")
    done = fiona("studies", "--project", PROJECT, "--csv", str(path), data=site.root.path)

    assert (done.returncode, done.stdout) == (0, "")
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["Participant"] == PARTICIPANT
    assert "CT" in row["ClassifyType"].split("; ")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["series.csv"]


def test_parquet(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    done = fiona("studies", "--parquet", str(path), data=site.root.path)

    if importlib.util.find_spec("pyarrow") is None:
        assert done.returncode == 2
        assert "pip install 'fiona-dagster[parquet]'" in done.stderr
        assert list(tmp_path.iterdir()) == []
        return
    import pandas as pd

    assert list(pd.read_parquet(path)["StudyInstanceUID"]) == [STUDY]


def test_an_unknown_project_is_a_usage_error(site: Site) -> None:
    done = fiona("studies", "--project", "NOPE", data=site.root.path)

    assert done.returncode == 2
    assert PROJECT in done.stderr
