"""``fiona studies``."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.operations.series_table import OF_PROJECT, OF_SITE, SeriesTable, Wanted, series_table
from fiona_dagster.transfers import execution
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        running.configure(LOCALTIMEZONE="Europe/Oslo")
        running.packaged()
        return running


def rows(site: Site, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        fiona("studies", "--json", *arguments, data=site.root.path).stdout
    )
    return found


def asked(site: Site, project: str | None = None, **wanted: Any) -> SeriesTable:
    with site.open() as gateway:
        return series_table(gateway, project, Wanted(**wanted))


def test_every_series_is_a_row_and_names_nobody(site: Site) -> None:
    done = fiona("studies", "--json", data=site.root.path)
    table = fiona("studies", data=site.root.path)
    each = fiona("studies", "--series", data=site.root.path)

    (row,) = json.loads(done.stdout)
    assert tuple(row) == OF_SITE
    assert (row["StudyInstanceUID"], row["Modality"], row["State"]) == (STUDY, "CT", "held")
    assert (row["CallingAE"], row["Site"], row["Projects"], row["Flags"]) == ("IMPORT", "main", [PROJECT], [])
    assert row["NumFiles"] == 2
    assert row["Bytes"] > 1000
    assert "CT" in row["ClassifyType"]
    received = datetime.fromisoformat(row["Received"])
    assert received.utcoffset() in (timedelta(hours=1), timedelta(hours=2))
    assert abs(datetime.now(UTC) - received) < timedelta(hours=1)
    assert "1 studies, 1 series, 2 instances" in table.stdout
    assert f"{STUDY}  held\n" in table.stdout
    assert f"for {PROJECT}" in table.stdout
    assert f"    {row['SeriesInstanceUID']}\n" in each.stdout
    assert f"types: {', '.join(row['ClassifyType'])}\n" in each.stdout
    for word in (*PLANTED, PARTICIPANT):
        assert word not in done.stdout + table.stdout + each.stdout


def test_a_project_s_rows_have_the_names_of_the_copy_and_no_uid_of_the_hospital(site: Site) -> None:
    done = fiona("studies", "--project", PROJECT, "--json", data=site.root.path)

    (row,) = json.loads(done.stdout)
    assert tuple(row) == OF_PROJECT
    transfer = site.transfer()
    assert (row["Participant"], row["Event"], row["State"]) == (PARTICIPANT, EVENT, "packaged")
    assert row["StudyInstanceUID"] == transfer.mapped_uid
    with site.open() as gateway:
        package = gateway.ledger.transfers.package(transfer)
        assert package is not None
        copies = list(execution.working_copy(gateway, transfer).rglob("*.dcm"))
    assert row["HeldBack"] == 0
    assert {_series_of(path) for path in copies} == {row["SeriesInstanceUID"]}
    for word in (*PLANTED, STUDY, "Received"):
        assert word not in done.stdout


def _series_of(path: Path) -> str:
    from fiona_dagster.studies import read_instance

    return read_instance(path).series


@pytest.mark.parametrize(
    ("wanted", "count", "said"),
    [
        ({"modalities": ("MR",)}, 0, "no series has the modality 'MR' (there are: CT)"),
        ({"modalities": ("MR", "CT")}, 1, "'MR'"),
        ({"types": ("CT",)}, 1, ""),
        ({"types": ("CT", "localizer")}, 0, "no series has the type 'localizer'"),
        ({"without_types": ("CT",)}, 0, ""),
        ({"untyped": True}, 0, ""),
        ({"problems": True}, 0, ""),
        ({"states": ("held",)}, 1, ""),
        ({"states": ("flagged",)}, 0, "(there are: held)"),
        ({"sites": ("main",)}, 1, ""),
        ({"sites": ("HEART",)}, 0, "no series has the site 'HEART' (there are: main)"),
        ({"callers": ("IMPORT",)}, 1, ""),
        ({"callers": ("CT1",)}, 0, "no series has the sender 'CT1' (there are: IMPORT)"),
        ({"studies": (STUDY,)}, 1, ""),
        ({"studies": ("1.2.3",)}, 0, "no series has the study '1.2.3'"),
        ({"since": datetime.now(UTC) - timedelta(days=1)}, 1, ""),
        ({"since": datetime.now(UTC) + timedelta(days=1)}, 0, ""),
        ({"until": datetime.now(UTC) - timedelta(days=1)}, 0, ""),
        ({"until": datetime.now(UTC) + timedelta(days=1)}, 1, ""),
    ],
)
def test_filters(site: Site, wanted: dict[str, Any], count: int, said: str) -> None:
    for project in (None, PROJECT):
        if project and "states" in wanted:
            continue  # there they are those of the transfer
        found = asked(site, project, **wanted)
        assert len(found.rows) == count
        assert said in " ".join(found.unknown)
        assert bool(found.unknown) == bool(said)


def test_filters_of_a_project(site: Site) -> None:
    assert (
        len(asked(site, PROJECT, participants=(PARTICIPANT,), events=(EVENT,), states=("packaged",)).rows)
        == 1
    )
    found = asked(site, PROJECT, participants=("H999",))
    assert (len(found.rows), found.unknown) == (0, ["no series has the participant 'H999'"])


def test_days_are_those_of_the_site_and_count_whole(site: Site) -> None:
    (row,) = rows(site)
    day = row["Received"][:10]
    before = f"{datetime.fromisoformat(day) - timedelta(days=1):%Y-%m-%d}"

    assert len(rows(site, "--from", day, "--until", day, "--ae", "IMPORT", "--state", "held")) == 1
    assert rows(site, "--until", before) == []
    assert len(rows(site, "--project", PROJECT, "--from", row["Received"][:16])) == 1
    assert fiona("studies", "--from", "yesterday", data=site.root.path).returncode == 2


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
    import pandas as pd

    for name, project in (("site", ()), ("project", ("--project", PROJECT))):
        path = tmp_path / f"{name}.parquet"
        done = fiona("studies", *project, "--parquet", str(path), data=site.root.path)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        table = pd.read_parquet(path)
        assert list(table.columns) == list(OF_PROJECT if project else OF_SITE)
        assert "CT" in list(table["ClassifyType"][0])
        assert table["NumFiles"].sum() == 2
    assert str(pd.read_parquet(tmp_path / "site.parquet")["Received"].dt.tz) == "Europe/Oslo"


def test_what_makes_no_sense_is_a_usage_error(site: Site) -> None:
    done = fiona("studies", "--project", "NOPE", data=site.root.path)

    assert done.returncode == 2
    assert PROJECT in done.stderr
    assert fiona("studies", "--participant", "H001", data=site.root.path).returncode == 2
