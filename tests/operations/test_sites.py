"""Studies of SITES: a tree of their own, one ledger, one project; at two sites they wait for a person."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import RequestRefused
from fiona_dagster.landing import import_paths
from fiona_dagster.ledger import Ledger, Request
from fiona_dagster.operations.accounting import account_for
from fiona_dagster.transfers import intake
from fiona_dagster.transfers.completion import find_complete_studies
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import sources
from fiona_dagster.transfers.requests import check_assignment
from tests.accounting import assert_all_accounted
from tests.making import STUDY, write_object
from tests.running import fiona


@pytest.fixture
def sites(root: DataRoot) -> DataRoot:
    """A root with two sites and three projects."""
    settings = {
        "receiver": {"quiet_seconds": 1},
        "SITES": {"HEART": {"DICOMPORT": 11113}, "BRAIN": {"DICOMPORT": 11114}},
        "targets": {
            "pacs": {"kind": "dicom", "host": "127.0.0.1", "called_ae_title": "PACS"},
        },
    }
    root.config_file.write_text(json.dumps(settings))
    for name in ("HEART", "BRAIN", "OTHER"):
        (root.project_files / f"{name}.json").write_text(json.dumps({"name": name, "targets": ["pacs"]}))
    return root


def arrive(root: DataRoot, site: str, folder: Path, *instances: str) -> None:
    folder.mkdir(exist_ok=True)
    tree = root.of_site(site)
    tree.make()
    import_paths(tree, [write_object(folder, instance) for instance in instances])


def processed(gateway: Gateway) -> intake.Processed:
    find_complete_studies(gateway, datetime.now(UTC) + timedelta(seconds=60))
    return intake.process(gateway, STUDY)


def test_a_study_of_a_site_lies_in_its_tree_and_goes_to_its_project_only(
    sites: DataRoot, tmp_path: Path
) -> None:
    arrive(sites, "HEART", tmp_path / "in", "1.2.3.1", "1.2.3.2")
    with Gateway(sites) as gateway:
        done = processed(gateway)
        study = done.study

        assert (study.site, study.sites, study.instances) == ("HEART", ("HEART",), 2)
        assert done.flags == ()
        paths = [row["path"] for row in gateway.ledger.receipts.instances(STUDY)]
        assert all(path.startswith("sites/HEART/site/archive/scp_") for path in paths)
        assert all((sites.path / path).is_file() for path in paths)
        check_assignment(gateway, study, "HEART", "P1", "baseline")
        with pytest.raises(RequestRefused, match="project HEART only"):
            check_assignment(gateway, study, "OTHER", "P1", "baseline")
    assert_all_accounted(sites)


def test_a_study_of_the_main_site_may_go_anywhere(sites: DataRoot, tmp_path: Path) -> None:
    arrive(sites, "", tmp_path / "in", "1.2.3.1")
    with Gateway(sites) as gateway:
        study = processed(gateway).study

        for project in ("HEART", "OTHER"):
            check_assignment(gateway, study, project, "P1", "baseline")


def test_a_study_at_two_sites_waits_until_a_person_chooses(sites: DataRoot, tmp_path: Path) -> None:
    arrive(sites, "HEART", tmp_path / "in", "1.2.3.1")
    with Gateway(sites) as gateway:
        assert processed(gateway).study.revision == 1
        arrive(sites, "BRAIN", tmp_path / "in", "1.2.3.1", "1.2.3.2")
        done = processed(gateway)

        assert done.study.revision == 2
        assert done.flags == (intake.SEVERAL_SITES,)
        assert (done.study.site, done.study.sites) == ("HEART", ("BRAIN", "HEART"))
        assert done.contents.instance_count == 1

        listed = fiona("sites", "list", "--json", data=sites.path)
        assert listed.returncode == 1
        assert json.loads(listed.stdout)["studies"][0]["waits"] is True
        assert fiona("sites", "choose", STUDY, "main", data=sites.path).returncode == 2
        chosen = fiona("sites", "choose", STUDY, "BRAIN", "--json", data=sites.path)
        assert json.loads(chosen.stdout) == {"study": STUDY, "site": "BRAIN"}
        done = processed(gateway)

        assert done.study.revision == 3
        assert done.flags == ()
        assert (done.study.site, done.contents.instance_count) == ("BRAIN", 2)
        check_assignment(gateway, done.study, "BRAIN", "P1", "baseline")
        with pytest.raises(RequestRefused, match="project BRAIN only"):
            check_assignment(gateway, done.study, "HEART", "P1", "baseline")
        asked = gateway.ledger.transfers.accept(
            Request(STUDY, "HEART", 1, "2026-11-25 10:00", "P1", "baseline"), done.study.revision
        )  # as one that was taken up before the person decided
        with pytest.raises(RequestRefused, match="project BRAIN only"):
            sources(gateway, asked)
    assert_all_accounted(sites)

    for path in sites.ledger_file.parent.glob("ledger.sqlite*"):
        path.unlink()
    shutil.rmtree(sites.site / ".ledger")
    with Ledger(sites) as anew:  # journals alone tell the same, whatever is read first
        anew.evidence.read_journals()
        anew.receipts.read_journals()
        found = anew.receipts.study(STUDY)
        assert (found.site, found.sites, found.site_chosen) == ("BRAIN", ("BRAIN", "HEART"), True)


def test_a_lost_file_of_a_site_is_found(sites: DataRoot, tmp_path: Path) -> None:
    arrive(sites, "HEART", tmp_path / "in", "1.2.3.1", "1.2.3.2")
    with Gateway(sites) as gateway:
        processed(gateway)
    heart = sites.of_site("HEART")
    next(heart.archive.glob("scp_*/CT.1.2.3.1")).unlink()
    (heart.archive / f"scp_{STUDY}" / "CT.1.2.3.9").write_bytes(b"x")

    found = {(finding.code, finding.path.rpartition("/")[2]) for finding in account_for(sites).unaccounted}
    assert ("lost_file", "CT.1.2.3.1") in found
    pending = {finding.code for finding in account_for(sites).pending}
    assert "no_journal_line" in pending


def test_import_needs_a_site_that_is_there(sites: DataRoot, tmp_path: Path) -> None:
    path = write_object(tmp_path, "1.2.3.1")

    refused = fiona("import", str(path), "--site", "NOSUCH", data=sites.path)
    assert refused.returncode == 2
    assert "HEART" in refused.stderr
    assert fiona("import", str(path), "--site", "HEART", data=sites.path).returncode == 0
    assert list(sites.of_site("HEART").archive.glob("scp_*/CT.1.2.3.1"))
