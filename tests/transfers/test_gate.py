"""The gate: no byte leaves that was not verified, whoever changed it and when."""

from __future__ import annotations

import errno
import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pydicom
import pytest

from fiona_dagster.deid import deidentify, writing
from fiona_dagster.errors import (
    Busy,
    CopyUnavailable,
    FionaError,
    NotVerified,
    PermanentError,
    RequestRefused,
    TransientError,
)
from fiona_dagster.transfers import delivery, execution, packing
from fiona_dagster.transfers.verify import verify_package
from tests.site import PLANTED, PROJECT, STUDY, Site


@pytest.fixture
def asked(site: Site) -> Site:
    site.receive(1, 2)
    site.ask()
    site.poll()
    return site


def flip(path: Path, where: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


def copies(site: Site) -> list[Path]:
    return sorted((site.root.projects / PROJECT).glob("transfer-*/*.dcm")) or sorted(
        path for path in (site.root.projects / PROJECT).glob("transfer-*/*") if path.is_file()
    )


def verified(site: Site) -> None:
    with site.open() as gateway:
        execution.deidentify(gateway, site.transfer())
        execution.verify(gateway, site.transfer())


def test_nobody_asked(site: Site) -> None:
    site.receive(1)
    with site.open() as gateway, pytest.raises(RequestRefused, match="no transfer of study"):
        execution.transfer_of(gateway, STUDY, PROJECT)


def test_without_verification_there_is_no_package(asked: Site) -> None:
    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        with pytest.raises(NotVerified):
            packing.make_package(gateway, asked.transfer())
        with pytest.raises(Busy, match="not made yet"):
            delivery.deliver(gateway, asked.transfer(), "archive")
    assert list(asked.root.outbox.rglob("*.zip")) == []


def test_a_full_disk_is_not_left_full_of_half_a_copy(asked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = writing.write, []

    def full(target: int, *args: Any) -> int:
        written.append(target)
        if len(written) > 1:
            os.write(target, b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(target, *args)

    monkeypatch.setattr(deidentify, "write", full)
    with asked.open() as gateway, pytest.raises(OSError, match="No space left"):
        execution.deidentify(gateway, asked.transfer())

    assert len(written) == 2
    assert [path for path in asked.root.projects.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    verified(asked)
    assert len(copies(asked)) == 2


def test_the_working_copy_holds_nothing_of_the_person(asked: Site) -> None:
    verified(asked)
    found = copies(asked)

    assert len(found) == 2
    content = b"".join(path.read_bytes() for path in found)
    assert not [word for word in PLANTED if word.encode() in content]
    assert {str(pydicom.dcmread(path).PatientID) for path in found} == {"H001"}


def test_a_changed_byte_in_the_working_copy_makes_no_package(asked: Site) -> None:
    verified(asked)
    flip(copies(asked)[0])

    with asked.open() as gateway, pytest.raises(NotVerified):
        packing.make_package(gateway, asked.transfer())
    assert list(asked.root.outbox.rglob("*.zip")) == []
    assert asked.transfer().state == "accepted"


def test_a_missing_file_makes_no_verification(asked: Site) -> None:
    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        copies(asked)[0].unlink()
        with pytest.raises(NotVerified, match="partial is failure"):
            execution.verify(gateway, asked.transfer())
        with pytest.raises(NotVerified):
            packing.make_package(gateway, asked.transfer())


def test_an_original_among_the_copies_is_found(asked: Site) -> None:
    """Whatever put it there: the search reads what would leave, not what should have been written."""
    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        original = next((asked.root.archive / f"scp_{STUDY}").iterdir())
        shutil.copy(original, copies(asked)[0])
        with pytest.raises(FionaError) as raised:
            execution.verify(gateway, asked.transfer())
        assert not [word for word in PLANTED if word in str(raised.value)]
        with pytest.raises(NotVerified):
            packing.make_package(gateway, asked.transfer())
    assert list(asked.root.outbox.rglob("*.zip")) == []


def test_a_changed_byte_in_the_package_is_never_sent(site: Site) -> None:
    _, package = site.packaged()
    flip(site.root.path / package.path, 4000)

    with site.open() as gateway, pytest.raises(NotVerified):
        delivery.deliver(gateway, site.transfer(), "archive")
    assert [path for path in site.sftp["archive"].files.iterdir() if path.suffix == ".zip"] == []
    with site.open() as gateway:
        assert gateway.ledger.transfers.deliveries(site.transfer()) == {}


def test_a_changed_byte_in_the_working_copy_never_reaches_the_pacs(site: Site) -> None:
    site.project(targets=["pacs"])
    site.packaged()
    flip(copies(site)[1])

    with site.open() as gateway, pytest.raises(NotVerified):
        delivery.deliver(gateway, site.transfer(), "pacs")
    assert len(site.pacs.sop_instance_uids()) <= 1, "what was read before the changed file may have gone"
    assert site.transfer().state == "packaged"


def test_what_is_not_as_it_was_verified_goes_to_nobody_until_it_is_verified_anew(site: Site) -> None:
    site.project(targets=["pacs", "archive"])
    site.packaged()
    flip(copies(site)[1])

    with site.open() as gateway:
        with pytest.raises(NotVerified, match="differs"):
            delivery.deliver(gateway, site.transfer(), "pacs")
        with pytest.raises(NotVerified, match=f"no passed verification.*transfer_{PROJECT}"):
            delivery.deliver(gateway, site.transfer(), "archive")
        with pytest.raises(NotVerified):
            packing.make_package(gateway, site.transfer())
        assert gateway.ledger.transfers.undelivered() == []
        assert "withdrawn" in str([what for _, what in gateway.ledger.store.history(STUDY)])
    assert [path for path in site.sftp["archive"].files.iterdir() if path.suffix == ".zip"] == []

    verified(site)
    with site.open() as gateway:
        packing.make_package(gateway, site.transfer())
        for target in ("pacs", "archive"):
            proof, _ = delivery.deliver(gateway, site.transfer(), target)
            assert proof is not None
    assert site.transfer().state == "delivered"


@pytest.mark.parametrize(("target", "number"), [("pacs", errno.EIO), ("archive", errno.EMFILE)])
def test_what_the_disk_does_not_give_is_no_changed_copy(
    site: Site, monkeypatch: pytest.MonkeyPatch, target: str, number: int
) -> None:
    """A mount that is gone for a moment is no reason to give the transfer up."""
    site.project(targets=[target])
    _, package = site.packaged()
    held = {*copies(site), site.root.path / package.path}
    opened = io.open

    def fail(path: Any, *rest: Any, **more: Any) -> Any:
        if path in held:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *rest, **more)

    with site.open() as gateway:
        monkeypatch.setattr(io, "open", fail)
        with pytest.raises(CopyUnavailable) as caught:
            delivery.deliver(gateway, site.transfer(), target)
        monkeypatch.setattr(io, "open", opened)
        assert isinstance(caught.value, TransientError)
        assert str(site.root.path) not in str(caught.value)
        assert not gateway.ledger.circuits.of(target).failures
        proof, _ = delivery.deliver(gateway, site.transfer(), target)
        assert proof is not None


def test_images_that_came_meanwhile_are_waited_for(asked: Site) -> None:
    asked.arrive(3)
    with asked.open() as gateway:
        gateway.ledger.receipts.read_journals()
        with pytest.raises(Busy, match="new images"):
            execution.deidentify(gateway, asked.transfer())


def test_kinds_that_may_show_identity_are_held_back_until_the_project_allows_them(site: Site) -> None:
    site.arrive(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    site.receive(2)
    site.ask()
    site.poll()
    with site.open() as gateway:
        copy = execution.deidentify(gateway, site.transfer())
    assert (copy.instances, copy.held) == (1, {"secondary_capture": 1})

    site.project(allow_kinds=["secondary_capture"])
    with site.open() as gateway:
        assert execution.deidentify(gateway, site.transfer()).instances == 2


def test_a_study_of_which_all_is_held_back_fails_and_names_the_kinds(site: Site) -> None:
    site.arrive(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    site.receive()
    site.ask()
    site.poll()
    with site.open() as gateway, pytest.raises(PermanentError, match="secondary_capture"):
        execution.deidentify(gateway, site.transfer())
    assert copies(site) == []


def test_the_package_is_whole_and_says_nothing_of_the_person(site: Site) -> None:
    _, package = site.packaged()
    path = site.root.path / package.path

    assert verify_package(path) == []
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        names = " ".join(archive.namelist())
    assert not [word for word in PLANTED if word.encode() in content or word in names]
