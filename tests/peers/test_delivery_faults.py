"""Deliveries to OpenSSH and Orthanc that die, meet a full disk, or are lied to: never wrong, never twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import paramiko
import pytest
import requests

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.instances import Instance, StoreResult
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import ContentUnproven, PeerUnavailable, StorageFull
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.leftovers import remove_leftovers
from fiona_dagster.transfers.targets import ArrivedDamaged, Proof, dicom, pipeline, upload
from fiona_dagster.transfers.targets.sftp import deliver_sftp
from tests.peers.killing import deliver_and_die
from tests.peers_fixtures import Orthanc, Sshd, program, running_orthanc, running_sshd
from tests.sending import unrecorded
from tests.site import PROJECT, STUDY, Site, running_site

pytestmark = pytest.mark.peers

KILLS = None if os.environ.get("FIONA_TEST_FULL") else 6
"""How many steps of a delivery are tried, evenly spread over it; None: every one."""
NAME = "P_1.zip"
CONTENT = bytes(range(256)) * 12_000


class Scene:
    """A packaged study, and two targets that can be put back to how they were."""

    def __init__(self, folder: Path, site: Site, sshd: Sshd, orthanc: Orthanc) -> None:
        self.site, self.sshd, self.orthanc = site, sshd, orthanc
        self.configure()
        site.project(targets=["archive", "pacs"])
        _, self.package = site.packaged()
        self.content = (site.root.path / self.package.path).read_bytes()
        with site.open() as gateway:
            self.instances = len(gateway.ledger.transfers.verified_files(site.transfer()))
        self._start = folder / "start"
        shutil.copytree(site.root.path, self._start, symlinks=True)

    def configure(self) -> None:
        """Both targets as they are."""
        targets = {"archive": self.sshd.target().model_dump(), "pacs": self.orthanc.target().model_dump()}
        self.site.configure(targets=targets)

    def reset(self, target: str) -> None:
        """Nothing was delivered anywhere; only this target is left to be delivered to."""
        shutil.rmtree(self.site.root.path)
        shutil.copytree(self._start, self.site.root.path, symlinks=True)
        self.site.project(targets=[target])
        for path in self.sshd.upload.iterdir():
            path.unlink()
        for uid in self.orthanc.sop_instance_uids():
            self.orthanc.delete(uid)

    def uploaded(self) -> tuple[int, int] | None:
        """Inode and time of the package at the SFTP server: a second upload shows."""
        path = self.sshd.upload / Path(self.package.path).name
        if not path.exists():
            return None
        assert path.read_bytes() == self.content, "half a package has its name"
        return path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, one_sshd: Sshd) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    more = {"OverwriteInstances": True, "DicomAlwaysAllowGet": True}
    with running_site(folder) as site, running_orthanc(folder / "orthanc", **more) as orthanc:
        yield Scene(folder, site, one_sshd, orthanc)


def _proven(scene: Scene, target: str) -> bool:
    with scene.site.open() as gateway:
        return target in gateway.ledger.transfers.deliveries(scene.site.transfer())


def _in_the_end(scene: Scene, target: str) -> None:
    """What the sensor, the next run and maintenance do; everything is as if nothing had happened."""
    site = scene.site
    with site.open() as gateway:
        delivery.settle(gateway)
        delivery.deliver(gateway, site.transfer(), target)
        assert delivery.deliver(gateway, site.transfer(), target)[0] is None
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["status"]
        there = gateway.ledger.transfers.package(site.transfer())
        remove_leftovers(gateway)
    assert there is not None
    assert (site.root.path / there.path).read_bytes() == scene.content
    assert site.transfer().state == "delivered"
    assert len(list((site.root.daic / PROJECT).iterdir())) == 5
    assert [path for path in site.root.outbox.rglob("*") if path.is_file()] == []
    assert list((site.root.projects / PROJECT).iterdir()) == []


@pytest.mark.parametrize("target", ["archive", "pacs"])
def test_a_kill_at_any_step_is_made_good(scene: Scene, target: str) -> None:
    """Temporary upload, proof, rename, checksum files, ledger, move to DAIC."""
    scene.reset(target)
    total = deliver_and_die(scene.site.root, STUDY, PROJECT, target, 0)
    assert total is not None
    _in_the_end(scene, target)
    tried = range(1, total + 1) if KILLS is None else {round(total * n / KILLS) for n in range(1, KILLS + 1)}
    killed = 0
    for step in sorted(tried):
        scene.reset(target)
        killed += deliver_and_die(scene.site.root, STUDY, PROJECT, target, step) is None
        before = scene.uploaded()
        if _proven(scene, target):
            if target == "archive":
                assert before is not None
            else:
                assert len(scene.orthanc.sop_instance_uids()) == scene.instances
        _in_the_end(scene, target)
        if target == "archive":
            assert before in (None, scene.uploaded()), "sent twice"
            assert len(list(scene.sshd.upload.iterdir())) == 4
        else:
            assert len(scene.orthanc.sop_instance_uids()) == scene.instances
    assert killed >= len(tried) - 1, "steps differ by a packet or so from run to run"


def test_what_was_found_to_be_something_else_is_vouched_for_by_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that changed on its way: neither another attempt nor a laxer setting makes a proof of it."""
    scene.reset("pacs")
    site, orthanc = scene.site, scene.orthanc
    store = dicom.store_files

    def change_one(peer: Peer, instances: Sequence[Instance], **more: Any) -> list[StoreResult]:
        results = store(peer, instances, **more)
        content = bytearray(instances[0].path.read_bytes())
        content[-1] ^= 1
        assert requests.post(f"{orthanc.url}/instances", data=bytes(content), timeout=120).ok
        return results

    def delivered(**more: Any) -> Proof | None:
        target = orthanc.target(**more).model_dump()
        site.configure(targets={"archive": scene.sshd.target().model_dump(), "pacs": target})
        with site.open() as gateway:
            return delivery.deliver(gateway, site.transfer(), "pacs")[0]

    with monkeypatch.context() as changing:
        changing.setattr(dicom, "store_files", change_one)
        with pytest.raises(ContentUnproven, match="1 of"):
            delivered(compare="all")
    with pytest.raises(ContentUnproven, match="1 of"):
        delivered(compare="none")
    proof = delivered(compare="all")  # it was sent again, and the PACS takes what comes last
    assert proof is not None
    assert proof.kind == "dicom-compare"
    assert site.transfer().state == "delivered"
    scene.configure()


# -- one package and an SFTP server that is not what it should be --------------------------------------


def _deliver(sshd: Sshd, root: DataRoot, package: Path, **target: object) -> str:
    package.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return deliver_sftp(
        sshd.target(**target), root, package, digest, remote_name=NAME, begin=unrecorded, name="archive"
    ).kind


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "fiona-test", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_remote_disk_that_is_full_or_fills_up(
    one_sshd: Sshd, small_disk: Path, root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, filler = tmp_path / "package", small_disk / "filler"
    filler.write_bytes(bytes(2_000_000))
    with pytest.raises(StorageFull, match="remote disk"):
        _deliver(one_sshd, root, package, directory=str(small_disk))
    filler.unlink()

    check = upload.check_room

    def fills_up(*arguments: object) -> None:
        check(*arguments)  # type: ignore[arg-type]
        filler.write_bytes(bytes(2_000_000))

    monkeypatch.setattr(upload, "check_room", fills_up)
    with pytest.raises(StorageFull, match="remote disk"):
        _deliver(one_sshd, root, package, directory=str(small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["filler"], (
        "what was sent does not fill it further"
    )

    monkeypatch.undo()
    filler.unlink()
    assert _deliver(one_sshd, root, package, directory=str(small_disk)) == "sftp-readback"
    assert (small_disk / NAME).read_bytes() == CONTENT


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """OpenSSH with an SFTP subsystem that lies as the file ``lie`` in its folder says."""
    server = program("/usr/lib/openssh/sftp-server", "openssh-sftp-server")
    folder = tmp_path_factory.mktemp("liar") / "sshd"
    script = Path(__file__).with_name("lying_sftp.py")
    command = f"{sys.executable} -S {script} {server} {folder / 'lie'}"
    with running_sshd(folder, f"Subsystem sftp {command}") as running:
        yield running


def test_a_server_that_gives_less_than_it_is_asked_for(
    liar: Sshd, root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small parts are put together; a file that ends before its size is not the package."""
    sizes: list[int] = []
    ask = pipeline.Pipeline.ask

    def note(self: pipeline.Pipeline, kind: int, *arguments: Any) -> int:
        if kind == paramiko.sftp.CMD_READ:
            sizes.append(arguments[-1])
        return ask(self, kind, *arguments)

    monkeypatch.setattr(pipeline.Pipeline, "ask", note)
    for path in liar.upload.iterdir():
        path.unlink()
    (liar.folder / "lie").write_text("gives less")
    assert _deliver(liar, root, tmp_path / "package") == "sftp-readback"
    assert (liar.upload / NAME).read_bytes() == CONTENT
    assert max(sizes[:2]) > 50_000
    assert 40_000 < statistics.median(sizes) <= 50_000, "what it gives is asked for from then on"
    for path in liar.upload.iterdir():
        path.unlink()
    (liar.folder / "lie").write_text("gives no end")
    with pytest.raises(ArrivedDamaged):
        _deliver(liar, root, tmp_path / "package")
    assert list(liar.upload.iterdir()) == []


@pytest.mark.parametrize("lie", ["keeps the end", "keeps the end and tells its size", "alters a byte"])
def test_a_server_that_lies_about_success_proves_nothing(
    liar: Sshd, root: DataRoot, tmp_path: Path, lie: str
) -> None:
    for path in liar.upload.iterdir():
        path.unlink()
    for proofs in (["readback"], ["digest"]):
        (liar.folder / "lie").write_text(lie)
        with pytest.raises(ArrivedDamaged):
            _deliver(liar, root, tmp_path / "package", proofs=proofs)
        assert list(liar.upload.iterdir()) == []
    (liar.folder / "lie").write_text("")
    assert _deliver(liar, root, tmp_path / "package") == "sftp-readback"
    assert (liar.upload / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("lie", ["cuts what it closed", "cuts what it named"])
def test_a_server_that_loses_the_end_later_on_proves_nothing(
    liar: Sshd, root: DataRoot, tmp_path: Path, lie: str
) -> None:
    for path in liar.upload.iterdir():
        path.unlink()
    (liar.folder / "lie").write_text(lie)
    with pytest.raises(ArrivedDamaged):
        _deliver(liar, root, tmp_path / "package")
    assert list(liar.upload.iterdir()) == []
    (liar.folder / "lie").write_text("")
    assert _deliver(liar, root, tmp_path / "package") == "sftp-readback"
    assert (liar.upload / NAME).read_bytes() == CONTENT


def test_a_renaming_without_an_answer_may_have_happened(liar: Sshd, root: DataRoot, tmp_path: Path) -> None:
    """Nothing is undone on a guess, and nothing is sent again once it is known."""
    for path in liar.upload.iterdir():
        path.unlink()
    (liar.folder / "lie").write_text("renames and falls silent")
    with pytest.raises(PeerUnavailable, match="may have its name by now"):
        _deliver(liar, root, tmp_path / "package", timeout_seconds=1)
    assert [path.name for path in liar.upload.iterdir()] == [NAME]
    # Its checksum files are renamed next; neither may get lost.
    with pytest.raises(PeerUnavailable, match="TimeoutError"):
        _deliver(liar, root, tmp_path / "package", timeout_seconds=1)
    (liar.folder / "lie").write_text("")
    before = (liar.upload / NAME).stat().st_ino
    assert _deliver(liar, root, tmp_path / "package") == "sftp-readback"
    assert (liar.upload / NAME).stat().st_ino == before
    assert (liar.upload / NAME).read_bytes() == CONTENT
    assert sorted(path.name for path in liar.upload.iterdir()) == [NAME, f"{NAME}.md5", f"{NAME}.sha256"]
