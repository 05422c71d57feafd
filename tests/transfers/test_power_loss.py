"""A working copy is flushed before it is vouched for; what a power loss took of one is made again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.errors import CopyLost, CopyUnavailable, NotVerified, TransientError
from fiona_dagster.ledger.transfers import Transfers
from fiona_dagster.transfers import delivery, execution, packing, release, restoring
from fiona_dagster.transfers.verify import verify_package
from tests.site import PROJECT, STUDY, Site
from tests.transfers.test_gate import copies


def zeros(path: Path) -> None:
    """As a file system leaves blocks that were given to a file and never written."""
    path.write_bytes(bytes(path.stat().st_size))


def zero_pixels(path: Path) -> None:
    """The header reached the disk, and nobody who reads it can see that the pixels did not."""
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00") + 12
    path.write_bytes(content[:at] + bytes(len(content) - at))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def nothing_left(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(execution, "_machine_start", lambda: "after the restart")


@pytest.fixture
def asked(site: Site) -> Site:
    site.project(targets=["pacs"])
    site.receive(1, 2)
    site.ask()
    site.poll()
    return site


def test_there_is_no_record_before_every_copy_is_on_the_disk(
    asked: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    sync, record = os.fsync, Transfers.record_verification

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    def recorded(self: Transfers, *given: Any, **named: Any) -> None:
        found = copies(asked)
        assert {folder / name for folder in {p.parent for p in found} for name in named["files"]} == set(
            found
        )
        assert {*found, found[0].parent, found[0].parent.parent} <= set(flushed)
        record(self, *given, **named)

    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Transfers, "record_verification", recorded)
        execution.verify(gateway, asked.transfer())
        assert len(gateway.ledger.transfers.verified_files(asked.transfer())) == 2


def test_what_the_disk_does_not_take_gets_no_record(asked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).endswith(".dcm"):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            execution.verify(gateway, asked.transfer())
        with pytest.raises(NotVerified, match="no passed verification"):
            gateway.ledger.transfers.verified_files(asked.transfer())


@pytest.mark.parametrize("loss", [zero_pixels, nothing_left])
def test_a_copy_that_was_not_verified_before_a_restart_is_made_again(
    asked: Site, restart: Callable[[], None], loss: Callable[[Path], None]
) -> None:
    with asked.open() as gateway:
        transfer = asked.transfer()
        execution.deidentify(gateway, transfer)
        restart()
        loss(copies(asked)[0])
        with pytest.raises(CopyLost) as lost:
            execution.verify(gateway, transfer)
        with pytest.raises(NotVerified, match="no passed verification"):
            gateway.ledger.transfers.verified_files(transfer)
        assert copies(asked) == []
        execution.failed(
            gateway, transfer, str(lost.value), permanent=not isinstance(lost.value, TransientError)
        )
        gateway.ledger.work.release(STUDY, PROJECT)  # as time does
        (work,) = gateway.ledger.work.due("transfer", 10)
        assert not release.only_package(gateway, work), "the next run begins with the de-identification"
    _, package = asked.make_package()
    assert verify_package(asked.root.path / package.path) == []


@pytest.mark.parametrize("loss", [zero_pixels, nothing_left])
def test_a_package_is_made_of_the_verified_bytes_whatever_was_lost(
    asked: Site, restart: Callable[[], None], loss: Callable[[Path], None]
) -> None:
    with asked.open() as gateway:
        execution.deidentify(gateway, asked.transfer())
        execution.verify(gateway, asked.transfer())
        restart()
        loss(copies(asked)[0])
        package = packing.make_package(gateway, asked.transfer())
    assert verify_package(asked.root.path / package.path) == []


@pytest.mark.parametrize("loss", [zeros, cut, Path.unlink])
def test_a_pacs_gets_the_verified_bytes_whatever_was_lost(
    asked: Site, restart: Callable[[], None], loss: Callable[[Path], None]
) -> None:
    asked.make_package()
    with asked.open() as gateway:
        verified = gateway.ledger.transfers.verified_files(asked.transfer())
        restart()
        loss(copies(asked)[0])
        proof, _ = delivery.deliver(gateway, asked.transfer(), "pacs")
        assert proof is not None
        assert len(asked.pacs.sop_instance_uids()) == 2
        assert gateway.ledger.transfers.verified_files(asked.transfer()) == verified


def test_a_copy_that_is_not_the_verified_one_again_is_refused(
    asked: Site, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.make_package()
    again = execution.deidentify

    def otherwise(*given: Any) -> None:
        again(*given)
        cut(copies(asked)[0])

    monkeypatch.setattr(restoring, "deidentify", otherwise)
    with asked.open() as gateway:
        restart()
        zeros(copies(asked)[0])
        with pytest.raises(NotVerified, match=f"fiona launch --study {STUDY} --project {PROJECT}"):
            delivery.deliver(gateway, asked.transfer(), "pacs")
    assert asked.pacs.sop_instance_uids() == set()


def test_what_the_disk_does_not_give_is_not_taken_for_lost(
    asked: Site, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.make_package()
    monkeypatch.delattr(restoring, "deidentify")

    def broken(*_: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(restoring, "_sha256", broken)
    with asked.open() as gateway:
        restart()
        with pytest.raises(CopyUnavailable):
            delivery.deliver(gateway, asked.transfer(), "pacs")
        assert gateway.ledger.transfers.verified_files(asked.transfer())


def test_what_lost_nothing_is_not_made_again(
    asked: Site, restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.make_package()
    monkeypatch.delattr(restoring, "deidentify")
    with asked.open() as gateway:
        restart()
        before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in copies(asked)}
        folder = restoring.whole_copy(
            gateway, asked.transfer(), gateway.ledger.transfers.verified_files(asked.transfer())
        )
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == before
