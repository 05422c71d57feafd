"""``fiona transfers``, and the same log as Dagster shows it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fiona_dagster.operations.transfer_log import OF_DAGSTER, OF_PROJECT, transfer_log
from fiona_dagster.transfers import delivery
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        running.project(targets=["archive", "pacs"])
        transfer, _ = running.packaged()
        with running.open() as gateway:
            for target in ("archive", "pacs"):
                delivery.deliver(gateway, transfer, target)
        return running


def test_each_delivery_is_a_row_with_its_proof(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    done = fiona("transfers", PROJECT, "--json", "--csv", str(file), data=site.root.path)
    rows = json.loads(done.stdout)
    assert [(row["Target"], row["Proof"], row["Proven"]) for row in rows] == [
        ("archive", "sftp-readback", "yes"),
        ("pacs", "dicom-find", "yes"),
    ]
    transfer = site.transfer()
    for row in rows:
        assert tuple(row) == OF_PROJECT
        assert (row["Participant"], row["Event"], row["State"]) == (PARTICIPANT, EVENT, "delivered")
        assert row["StudyInstanceUID"] == transfer.mapped_uid
    with file.open(newline="") as stream:
        assert [row["Sha256"] for row in csv.DictReader(stream)] == [row["Sha256"] for row in rows]
    assert file.stat().st_mode & 0o777 == 0o600
    for word in (*PLANTED, STUDY):
        assert word not in done.stdout + file.read_text()
    shown = fiona("transfers", PROJECT, data=site.root.path).stdout
    assert "archive: sftp-readback" in shown


def test_dagster_s_view_has_no_identity_of_the_project(site: Site) -> None:
    with site.open() as gateway:
        rows = transfer_log(gateway, PROJECT, "dagster", 1)
    assert [tuple(row) for row in rows] == [OF_DAGSTER, OF_DAGSTER]
    assert {row["StudyInstanceUID"] for row in rows} == {STUDY}
    transfer = site.transfer()
    size = fiona("transfers", PROJECT, "--json", data=site.root.path).stdout
    (exact,) = {row["Bytes"] for row in json.loads(size)}
    for word in (*PLANTED, PARTICIPANT, EVENT, transfer.mapped_uid, str(exact)):
        assert word not in str(rows)


def test_unknown_projects_are_named(site: Site) -> None:
    done = fiona("transfers", "NONE", data=site.root.path)
    assert done.returncode == 2
    assert "no project" in done.stderr
