"""A verified copy that a person has to look at: nothing of it leaves before, whoever asks."""

from __future__ import annotations

import csv
import hashlib
import json
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest

from fiona_dagster import landing
from fiona_dagster.errors import (
    Busy,
    OriginalUnavailable,
    PermanentError,
    ReleaseAwaited,
    Superseded,
    UsageError,
)
from fiona_dagster.ledger import Work
from fiona_dagster.operations.overview import overview, study_detail
from fiona_dagster.transfers import delivery, execution, export, outcome, packing, release, review
from fiona_dagster.transfers.verify import verify_package
from tests.deid import phantoms
from tests.running import fiona
from tests.site import PLANTED, PROJECT, STUDY, Site

WEAK = {"PatientName": "Hand^Long", "PatientID": "1", "SoftwareVersions": "hand protocol"}

KEEPS = {"kinds": {"encapsulated_document": "keep"}, "weak_hits": "pass", "release": "automatic"}
PAGES: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1",
    "MIMETypeOfEncapsulatedDocument": "application/pdf",
    "EncapsulatedDocument": b"%PDF-1.4\nstream " + zlib.compress(b"(Quisling) Tj") + b" endstream ",
}


def waiting(site: Site, project: dict[str, Any], attributes: dict[str, Any]) -> None:
    """A study up to its verified copy."""
    site.project(**project)
    site.arrive(1, 2, **attributes)
    site.receive()
    site.ask()
    assert len(site.poll().accepted) == 1
    with site.open() as gateway:
        execution.deidentify(gateway, site.transfer())
        execution.verify(gateway, site.transfer())


def due(site: Site) -> list[Work]:
    with site.open() as gateway:
        return gateway.ledger.work.due("transfer")


@pytest.mark.parametrize(
    ("project", "attributes", "reason"),
    [
        ({"release": "review"}, {}, "project"),
        ({"release_first_studies": 1}, {}, "first_studies"),
        ({}, WEAK, "weak_hits"),
        (KEEPS, PAGES, "unsearchable"),
    ],
)
def test_nothing_leaves_before_a_person_releases_it(
    site: Site, project: dict[str, Any], attributes: dict[str, Any], reason: str
) -> None:
    waiting(site, project, attributes)
    with site.open() as gateway:
        with pytest.raises(ReleaseAwaited, match="fiona release"):
            packing.make_package(gateway, site.transfer())
        with pytest.raises(Busy):
            delivery.deliver(gateway, site.transfer(), "archive")
        release.wait(gateway, site.transfer(), "waits")
        (refused,) = export.export(gateway, [site.transfer()], site.folder / "out", by="anna")
        assert "waits for a person" in refused.problem
    assert due(site) == []
    assert list(site.root.outbox.rglob("*.zip")) == list(site.folder.glob("out/*")) == []

    with site.open() as gateway:
        (listed,) = gateway.ledger.releases.waiting()
        assert (listed.transfer.study, list(listed.reasons)) == (STUDY, [reason])
        release.decide(gateway, STUDY, None, release=True, by="anna", reason="all values seen")

    (work,) = due(site)
    with site.open() as gateway:
        assert release.only_package(gateway, work)
        packing.make_package(gateway, site.transfer())
    assert site.transfer().state == "packaged"
    assert "released by" in str(study_detail(site.root, STUDY)["history"])


def test_an_edited_configuration_launches_what_waits_only_if_its_rules_changed(site: Site) -> None:
    waiting(site, {"release": "review"}, {})
    with site.open() as gateway:
        release.wait(gateway, site.transfer(), "waits")
        gateway.ledger.work.unblock()
        (work,) = gateway.ledger.work.due("transfer")
        assert release.still_waits(gateway, work)
        assert gateway.ledger.work.due("transfer") == []

        gateway.ledger.work.unblock()
        site.project(release="review", options=[])
        (work,) = gateway.ledger.work.due("transfer")
        assert not release.still_waits(gateway, work)


def test_weak_hits_pass_where_the_project_says_so(site: Site) -> None:
    waiting(site, {"weak_hits": "pass"}, WEAK)
    with site.open() as gateway:
        packing.make_package(gateway, site.transfer())


def test_what_is_rejected_fails_and_can_be_released_after_all(site: Site) -> None:
    waiting(site, {"release": "review"}, {})
    assert overview(site.root)["waiting_for_release"] == 1
    assert study_detail(site.root, STUDY)["transfers"][0]["release"]["reasons"] == {"project": 1}
    (listed,) = json.loads(fiona("release", "--json", data=site.root.path).stdout)["waiting"]
    assert (listed["study"], listed["project"], listed["reasons"]) == (STUDY, PROJECT, {"project": 1})
    done = fiona("release", STUDY, "--reject", "--reason", "scanner protocol", "--json", data=site.root.path)
    assert json.loads(done.stdout)["decision"] == "rejected"

    assert overview(site.root)["waiting_for_release"] == 0
    assert study_detail(site.root, STUDY)["transfers"][0]["release"]["decision"] == "rejected"
    assert site.transfer().state == "failed"
    assert site.transfer().reason == "rejected at the review: scanner protocol"
    with site.open() as gateway:
        assert [t.state for t in outcome.write_outcomes(gateway, STUDY, PROJECT)] == ["failed"]
        with pytest.raises(ReleaseAwaited, match="rejected"):
            packing.make_package(gateway, site.transfer())

    done = fiona("release", STUDY, "--reason", "asked the researcher", data=site.root.path)
    assert (done.returncode, done.stderr) == (0, "")

    with site.open() as gateway:
        packing.make_package(gateway, site.transfer())
        with pytest.raises(UsageError, match="packaged already"):
            release.decide(gateway, STUDY, PROJECT, release=False, by="anna", reason="too late")


def test_a_project_that_becomes_careful_stops_what_is_packed(site: Site) -> None:
    site.packaged()
    site.project(release="review")

    with site.open() as gateway, pytest.raises(Superseded):
        delivery.deliver(gateway, site.transfer(), "archive")


def unprocessable(folder: Path) -> Path:
    """An object that only names an address of its pixels."""
    image = phantoms.image(9, "1.2.840.10008.1.2.4.94")
    del image.PixelData
    image.PixelDataProviderURL = "https://pacs.example/jpip"
    image.SOPInstanceUID = f"{STUDY}.3.9"
    folder.mkdir()
    return phantoms.write(image, folder / "9.dcm")


@pytest.fixture
def with_a_bad_one(site: Site) -> Site:
    landing.import_paths(site.root, [unprocessable(site.folder / "bad")])
    site.receive(1, 2)
    site.ask()
    site.poll()
    return site


def test_an_instance_that_cannot_be_processed_stops_the_study_and_is_named(with_a_bad_one: Site) -> None:
    with with_a_bad_one.open() as gateway, pytest.raises(PermanentError) as raised:
        execution.deidentify(gateway, with_a_bad_one.transfer())

    assert f"1 of 3 instances can't be de-identified: {STUDY}.3.9 (" in str(raised.value)
    assert "nothing of it is sent" in str(raised.value)
    assert list(with_a_bad_one.root.projects.rglob("*.dcm")) == []


def test_but_what_the_disk_does_not_give_is_never_left_out(
    with_a_bad_one: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = with_a_bad_one
    site.project(unprocessable="leave_out")
    with site.open() as gateway:
        archived = [original.path for original in execution.sources(gateway, site.transfer())]
        away = archived[0].with_suffix(".away")
        archived[0].rename(away)
        with pytest.raises(OriginalUnavailable, match="No such file"):
            execution.deidentify(gateway, site.transfer())
        monkeypatch.setattr(execution, "check_digests", lambda *_: None)  # the mount goes after that
        with pytest.raises(OriginalUnavailable, match="No such file"):
            execution.deidentify(gateway, site.transfer())
        assert list(site.root.projects.rglob("*.dcm")) == []
        away.rename(archived[0])
        assert execution.deidentify(gateway, site.transfer()).left_out == 1


def test_or_the_transfer_goes_on_without_it_and_says_so(with_a_bad_one: Site) -> None:
    site = with_a_bad_one
    site.project(unprocessable="leave_out")

    transfer, package = site.make_package()

    path = site.root.path / package.path
    assert verify_package(path) == []
    with zipfile.ZipFile(path) as archive:
        report = json.loads(archive.read("report.json"))["deidentification"]
        pages = archive.read("report.html").decode() + archive.read("index.html").decode()
        names = archive.namelist()
    assert (report["received"], report["left_out"], len(report["files"])) == (3, 1, 2)
    assert "only referenced (JPIP)" in report["failures"][0]["reason"]
    assert "not processed: the pixel data are only referenced" in pages
    assert "left out since they can't be processed: 1" in " ".join(pages.split())
    assert sum("/" in name for name in names) == 2
    states = {i["sop_instance"]: i["state"] for i in study_detail(site.root, STUDY)["instance_states"]}
    assert states[f"{STUDY}.3.9"] == "filtered"
    (shown,) = study_detail(site.root, STUDY)["transfers"]
    assert shown["not_sent"] == {f"{STUDY}.3.9": "not_processable"}
    with site.open() as gateway:
        assert gateway.ledger.transfers.left_out(transfer) == 1
        delivery.deliver(gateway, transfer, "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        (row,) = (
            row
            for row in gateway.incoming()._client.export_records(records=[STUDY])
            if row["redcap_repeat_instrument"] == "transfers"
        )
    assert row["transfer_error_message"].startswith("delivered without 1 instances")


def test_the_review_lists_what_is_left_and_nothing_of_the_person(site: Site) -> None:
    waiting(site, {"release": "review"}, {"SliceThickness": "2.5"})
    done = fiona("review", PROJECT, "--json", "--csv", str(site.folder / "all.csv"), data=site.root.path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = {row["keyword"]: row for row in document["attributes"]}

    assert (document["studies"], document["instances"], document["unread"]) == (1, 2, [])
    assert rows["SliceThickness"]["values"] == [{"value": "2.5", "elements": 2}]
    assert rows["Rows"]["values"] == [{"value": "8", "elements": 2}]
    assert rows["InstanceNumber"]["distinct"] == 2
    assert (rows["PatientID"]["assigned"], rows["Rows"]["assigned"]) == (True, False)
    assert rows["AnatomicRegionSequence.CodeMeaning"]["values"][0]["value"] == "Head"
    table = (site.folder / "all.csv").read_text()
    assert '"(0018,0050)",SliceThickness,DS,0,2.5,2' in table.splitlines()
    page = site.folder / "report.html"
    done = fiona("review", PROJECT, "--study", STUDY, "--page", str(page), data=site.root.path)
    assert done.returncode == 0, done.stderr
    assert "Basic Application Confidentiality Profile (113100)" in page.read_text()
    for word in PLANTED:
        assert word not in done.stdout + table + page.read_text()

    with site.open() as gateway:
        release.decide(gateway, STUDY, PROJECT, release=True, by="anna", reason="fine")
        packing.make_package(gateway, site.transfer())
        execution.remove_working_copy(gateway, site.transfer())
        again = review.review(gateway, PROJECT, STUDY).to_json(5)
        verified = gateway.ledger.transfers.files_to_review(site.transfer())
        look = site.folder / "look at the package"
        assert review.copy_files(gateway, PROJECT, STUDY, look) == len(verified) > 1
    assert again["attributes"] == document["attributes"], "the package has the same"
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in look.iterdir()} == verified
    assert "SliceThickness" in fiona("review", PROJECT, data=site.root.path).stdout


def test_a_reviewer_sees_whole_values_and_all_of_them(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "knee " * 60 + "end"
    rule = {"tag": "ImageComments", "action": "keep"}
    document = {"EncapsulatedDocument": PAGES["EncapsulatedDocument"] * 100, "ImageComments": text}
    waiting(site, {**KEEPS, "release": "review", "rules": [rule]}, {**PAGES, **document})
    table, folder = site.folder / "all.csv", site.folder / "look"
    table.write_text("older")
    table.chmod(0o644)
    done = fiona("review", PROJECT, "--json", data=site.root.path)
    rows = {row["keyword"]: row for row in json.loads(done.stdout)["attributes"]}
    assert rows["ImageComments"]["values"][0]["value"] == text
    assert rows["EncapsulatedDocument"]["values"][0]["value"].startswith("(")
    assert f"({len(text)}" in fiona("review", PROJECT, data=site.root.path).stdout
    arguments = ("--full", "--csv", str(table), "--study", STUDY, "--files", str(folder))
    done = fiona("review", PROJECT, *arguments, data=site.root.path)
    assert done.returncode == 0, done.stderr
    assert "..." not in done.stdout
    lines = list(csv.reader(table.read_text().splitlines()))
    assert [line[4] for line in lines if line[1] == "ImageComments"] == [text]
    assert sorted(line[4] for line in lines if line[1] == "InstanceNumber") == ["1", "2"]
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    assert list(site.folder.glob(".all.csv*")) == []
    looked = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert [ds.EncapsulatedDocument[:5] for ds in looked] == [b"%PDF-"] * 2

    monkeypatch.setattr(review, "KEPT_VALUES", 1)
    with site.open() as gateway:
        some = review.review(gateway, PROJECT).remaining["(0020,0013)"]
        every = review.review(gateway, PROJECT, every=True).remaining["(0020,0013)"]
    assert (len(some.values), some.more, len(every.values), every.more) == (1, 1, 2, 0)


def test_where_nothing_waits_it_says_so(site: Site) -> None:
    with site.open() as gateway:
        with pytest.raises(UsageError, match="nothing to review"):
            review.review(gateway, PROJECT)
        with pytest.raises(UsageError, match="nothing of it waits"):
            release.decide(gateway, STUDY, None, release=True, by="anna", reason="x")
