"""What a workstation made of delivered copies comes back, joins their project, and is verified."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from fiona_dagster import landing
from fiona_dagster.deid import ProjectKey
from fiona_dagster.deid.identities import Identities
from fiona_dagster.errors import RequestRefused, ResidualIdentifier
from fiona_dagster.ledger import Transfer
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.transfers import (
    assignment,
    completion,
    delivery,
    execution,
    intake,
    packing,
    requests,
    withdrawals,
)
from tests.accounting import assert_all_accounted
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site, landing_tree

FOREIGN = "1.9.8.7.6"


def delivered(site: Site) -> tuple[Transfer, list[Path]]:
    """The study is delivered to the research PACS; its files there."""
    site.project(targets=["archive", "pacs"])
    transfer, _ = site.packaged()
    with site.open() as gateway:
        for target in ("archive", "pacs"):
            delivery.deliver(gateway, transfer, target)
    return transfer, sorted(site.pacs.folder.glob(f"{transfer.mapped_uid}/*.dcm"))


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path, force=True)


def made_of(source: Path, **values: Any) -> pydicom.FileDataset:
    """A derived image: a new series and instance, made today, that names what it was made of."""
    image = pydicom.dcmread(source, force=True)
    image.RelatedFrameOfReferenceUID = image.SOPInstanceUID  # any UID element that the profile replaces
    image.SeriesInstanceUID = f"{FOREIGN}.1"
    image.SOPInstanceUID = f"{FOREIGN}.1.1"
    image.SeriesDescription = "segmentation"
    image.SeriesDate = "20261120"
    image.ImageType = ["DERIVED", "PRIMARY"]
    for keyword, value in values.items():
        setattr(image, keyword, value)
    return image


def come_back(site: Site, *images: pydicom.FileDataset) -> str:
    """They arrive, the study is complete and registered; its UID."""
    folder = site.folder / "back"
    folder.mkdir()
    for number, image in enumerate(images):
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    assert landing.import_paths(site.root, [folder]).quarantined == 0
    with site.open() as gateway:
        (study,) = completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))
        done = intake.register(gateway, study)
        landing_tree(gateway, done)
        gateway.ledger.work.done(f"process:{study}", done.study.revision)
    return study


def made(site: Site, study: str) -> tuple[Transfer, list[Dataset]]:
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, study, PROJECT)
        execution.deidentify(gateway, transfer)
        execution.verify(gateway, transfer)
        packing.make_package(gateway, transfer)
        transfer = execution.transfer_of(gateway, study, PROJECT)
        folder = execution.working_copy(gateway, transfer)
        return transfer, [read(path) for path in sorted(folder.glob("*.dcm"))]


def test_it_joins_the_project_and_keeps_what_is_mapped(site: Site) -> None:
    original, copies = delivered(site)
    before = read(copies[0])
    image = made_of(copies[0], ContentDate=str(before.StudyDate))
    study = come_back(site, image, pydicom.dcmread(copies[1], force=True))  # a copy came along with it
    assert study == original.mapped_uid
    with site.open() as gateway:
        assert assignment.assign_held(gateway).asked == 1
    (accepted,) = site.poll().accepted
    assert (accepted.project, accepted.participant, accepted.event) == (PROJECT, PARTICIPANT, EVENT)

    transfer, files = made(site, study)
    (copy,) = files  # what was delivered already is not sent again
    key = ProjectKey.load(site.root, PROJECT)
    assert key is not None
    identities = Identities(key.secret, PARTICIPANT)
    assert copy.StudyInstanceUID == before.StudyInstanceUID == transfer.mapped_uid
    assert copy.RelatedFrameOfReferenceUID == before.SOPInstanceUID
    assert copy.FrameOfReferenceUID == before.FrameOfReferenceUID
    assert copy.AccessionNumber == before.AccessionNumber
    assert copy.StudyDate == copy.ContentDate == before.StudyDate
    assert copy.SeriesDate == identities.shifted("DA", "20261120")  # made today, on the participant's clock
    assert copy.SeriesInstanceUID == identities.uid(f"{FOREIGN}.1")
    assert copy.SOPInstanceUID == identities.uid(f"{FOREIGN}.1.1")
    assert (copy.PatientID, copy.ImageType[0]) == (PARTICIPANT, "DERIVED")

    with site.open() as gateway:
        for target in ("archive", "pacs"):
            proof, _ = delivery.deliver(gateway, transfer, target)
            assert proof is not None
    packages = sorted(path.name for path in site.sftp["archive"].files.glob("*.zip"))
    assert [("_derived_" in name) for name in packages] == [True, False]  # beside the package of the copies
    assert copy.SOPInstanceUID in site.pacs.sop_instance_uids()
    assert_all_accounted(site.root)
    with site.open() as gateway:
        assert gateway.ledger.derived.of(study) is not None
    assert rebuild(site.root).problems == []
    with site.open() as gateway:
        found = gateway.ledger.derived.of(study)
        assert found is not None
        assert (found.original, found.transfer) == (STUDY, original.id)


def test_it_is_verified_like_everything_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workstation wrote a name into it: the rules remove it; a rule that failed to would be found."""
    _, copies = delivered(site)
    study = come_back(
        site, made_of(copies[0], OperatorsName="Nightingale^Florence", ImageComments="Nightingale")
    )
    with site.open() as gateway:
        assignment.assign_held(gateway)
    site.poll()
    _, (copy,) = made(site, study)
    assert "Nightingale" not in str(copy)
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, study, PROJECT)
        execution.deidentify(gateway, transfer)
        (path,) = execution.working_copy(gateway, transfer).glob("*.dcm")
        leak = pydicom.dcmread(path)
        leak.ImageComments = "seen by Nightingale"
        leak.save_as(path)
        with pytest.raises(ResidualIdentifier):
            execution.verify(gateway, transfer)


def test_who_the_original_is_of_is_searched_in_what_was_made_of_its_copies(site: Site) -> None:
    """Somebody who knew the person wrote into it what the copies don't say: it goes, and is searched for."""
    _, copies = delivered(site)
    instance = f"{STUDY}.3.1"
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator = "T-1", "99X"
    region.CodeMeaning = f"knee of WENDELIN QUISLING, {instance}"
    image = made_of(
        copies[0],
        PositionReferenceIndicator="Q u i s l i n g, born 4 Jul 1953",
        AnatomicRegionSequence=[region],
    )
    image.RescaleType = "zx-83015577"
    later = made_of(copies[0], SOPInstanceUID=f"{FOREIGN}.1.2", PositionReferenceIndicator="knee")
    study = come_back(site, image, later)
    with site.open() as gateway:
        assignment.assign_held(gateway)
    site.poll()
    _, files = made(site, study)
    key = ProjectKey.load(site.root, PROJECT)
    assert key is not None
    first, second = sorted(files, key=lambda copy: len(copy.PositionReferenceIndicator), reverse=True)
    assert second.PositionReferenceIndicator == "knee"
    meaning = first.AnatomicRegionSequence[0].CodeMeaning
    assert meaning.startswith("knee of")
    assert Identities(key.secret, PARTICIPANT).uid(instance) in meaning
    shown = str(first).lower()
    for planted in ("quisling", "q u i s", "wendelin", "83015577", "jul 1953", instance):
        assert planted not in shown

    leaks = {
        "PositionReferenceIndicator": "seen by mr quisling",
        "RescaleType": "ACC 4455667",
        "ImageType": ["DERIVED", "PRIMARY", instance],
    }
    for keyword, value in leaks.items():  # what a rule that failed would leave
        with site.open() as gateway:
            transfer = execution.transfer_of(gateway, study, PROJECT)
            execution.deidentify(gateway, transfer)
            path = min(execution.working_copy(gateway, transfer).glob("*.dcm"))
            leak = pydicom.dcmread(path)
            setattr(leak, keyword, value)
            leak.save_as(path)
            with pytest.raises(ResidualIdentifier):
                execution.verify(gateway, transfer)


def test_without_the_originals_it_waits_for_a_person(site: Site) -> None:
    original, copies = delivered(site)
    study = come_back(site, made_of(copies[0]))
    with site.open() as gateway:
        lost = gateway.root.path / gateway.ledger.receipts.instances(original.study)[1]["path"]
    kept = lost.rename(site.folder / "elsewhere")
    with site.open() as gateway:
        looked = assignment.assign_held(gateway)
        assert (looked.asked, looked.waiting) == (0, 1)
        with pytest.raises(RequestRefused, match="originals are not here"):
            requests.assign(gateway, study, PROJECT, PARTICIPANT, EVENT)
    kept.rename(lost)
    with site.open() as gateway:
        requests.assign(gateway, study, PROJECT, PARTICIPANT, EVENT)
    site.poll()
    lost.rename(site.folder / "elsewhere")
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, study, PROJECT)
        with pytest.raises(RequestRefused, match="originals are not here"):
            execution.deidentify(gateway, transfer)


def test_it_keeps_the_identities_of_the_original_gateway(site: Site) -> None:
    """A project in compatibility mode: UIDs of that form, dates moved by its constant."""
    compatible: dict[str, Any] = {"compatibility": {"date_increment": 42}, "targets": ["archive", "pacs"]}
    site.project(**compatible)
    transfer, _ = site.packaged()
    with site.open() as gateway:
        for target in ("archive", "pacs"):
            delivery.deliver(gateway, transfer, target)
    copies = sorted(site.pacs.folder.glob(f"{transfer.mapped_uid}/*.dcm"))
    before = read(copies[0])
    study = come_back(site, made_of(copies[0], SeriesDate="20261120"), pydicom.dcmread(copies[1], force=True))
    with site.open() as gateway:
        assert assignment.assign_held(gateway).asked == 1
    site.poll()
    _, (copy,) = made(site, study)
    assert copy.StudyInstanceUID == before.StudyInstanceUID == transfer.mapped_uid
    assert (copy.StudyDate, copy.AccessionNumber) == (before.StudyDate, before.AccessionNumber)
    assert copy.RelatedFrameOfReferenceUID == before.SOPInstanceUID
    assert copy.SeriesDate == "20270101"  # 42 days later
    assert copy.SOPInstanceUID.startswith("1.3.6.1.4.1.45037.")


def test_it_goes_nowhere_else(site: Site) -> None:
    _, copies = delivered(site)
    site.project("LUNG")
    study = come_back(site, made_of(copies[0]))
    with site.open() as gateway:
        for project, participant, event in (
            ("LUNG", PARTICIPANT, EVENT),
            (PROJECT, "H002", EVENT),
            (PROJECT, PARTICIPANT, "Year 1"),
        ):
            with pytest.raises(RequestRefused, match="came back"):
                requests.assign(gateway, study, project, participant, event)


def test_of_a_withdrawn_request_it_waits_for_a_person(site: Site) -> None:
    original, copies = delivered(site)
    with site.open() as gateway:
        withdrawals.withdraw(gateway, original.study, PROJECT, by="somebody")
    study = come_back(site, made_of(copies[0]))
    with site.open() as gateway:
        looked = assignment.assign_held(gateway)
        assert (looked.asked, looked.waiting) == (0, 1)
        with pytest.raises(RequestRefused, match="withdrawn or corrected"):
            requests.assign(gateway, study, PROJECT, PARTICIPANT, EVENT)


def test_nothing_but_copies_is_nothing_new(site: Site) -> None:
    _, copies = delivered(site)
    study = come_back(site, *(pydicom.dcmread(path, force=True) for path in copies))
    with site.open() as gateway:
        assignment.assign_held(gateway)
    site.poll()
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, study, PROJECT)
        with pytest.raises(RequestRefused, match="nothing came back but copies"):
            execution.deidentify(gateway, transfer)
