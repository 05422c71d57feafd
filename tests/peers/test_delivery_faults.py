"""Deliveries to OpenSSH and Orthanc that die, meet a full disk, or are lied to: never wrong, never twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest
import requests

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.instances import Instance, StoreResult
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import ContentUnproven, PeerUnavailable, StorageFull
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.leftovers import remove_leftovers
from fiona_dagster.transfers.targets import ArrivedDamaged, Proof, dicom, pipeline, remote, upload
from fiona_dagster.transfers.targets.sftp import deliver_sftp
from tests.disks import small_disk
from tests.peers.killing import deliver_and_die
from tests.peers.test_stow_delivery import PLUGIN
from tests.peers_fixtures import Orthanc, Sshd, free_port, program, running_orthanc, running_sshd
from tests.sending import unrecorded
from tests.site import PROJECT, STUDY, Site, running_site

pytestmark = pytest.mark.peers

FULL = bool(os.environ.get("FIONA_TEST_FULL"))
TARGETS = ["archive", "pacs", *(["share", "web", "cloud"] if FULL else [])]
KILLS = None if FULL else 6
"""How many steps of a delivery are tried, evenly spread over it; None: every one."""
NAME = "P_1.zip"
CONTENT = bytes(range(256)) * 12_000


class Scene:
    """A packaged study, and two targets that can be put back to how they were."""

    def __init__(
        self, folder: Path, site: Site, sshd: Sshd, orthanc: Orthanc, bucket: Bucket | None = None
    ) -> None:
        self.site, self.sshd, self.orthanc, self.bucket = site, sshd, orthanc, bucket
        self.share = folder / "share"
        self.share.mkdir()
        self.configure()
        site.project(targets=["archive", "pacs"])
        _, self.package = site.packaged()
        self.content = (site.root.path / self.package.path).read_bytes()
        with site.open() as gateway:
            self.instances = len(gateway.ledger.transfers.verified_files(site.transfer()))
        self._start = folder / "start"
        shutil.copytree(site.root.path, self._start, symlinks=True)

    def configure(self) -> None:
        """All targets as they are."""
        described = [("archive", self.sshd.target()), ("pacs", self.orthanc.target())]
        targets: dict[str, Any] = {name: target.model_dump() for name, target in described}
        targets["share"] = {"kind": "folder", "directory": str(self.share), "marker": ""}
        targets["web"] = {"kind": "stow", "url": f"{self.orthanc.url}/dicom-web", "timeout_seconds": 10}
        if self.bucket is not None:
            targets["cloud"] = self.bucket.target()
            (self.site.root.secrets / "s3").write_text("s3cret\n")
        self.site.configure(targets=targets)

    def names_of(self, target: str) -> list[str]:
        """What lies at a target that takes packages."""
        if target == "cloud":
            assert self.bucket is not None
            return self.bucket.names()
        return sorted(path.name for path in self.folder_of(target).iterdir())

    def folder_of(self, target: str) -> Path:
        """Where packages lie at a target that has a folder of this machine."""
        return self.share if target == "share" else self.sshd.upload

    def reset(self, target: str) -> None:
        """Nothing was delivered anywhere; only this target is left to be delivered to."""
        shutil.rmtree(self.site.root.path)
        shutil.copytree(self._start, self.site.root.path, symlinks=True)
        self.site.project(targets=[target])
        for path in [*self.sshd.upload.iterdir(), *self.share.iterdir()]:
            path.unlink()
        if self.bucket is not None:
            self.bucket.empty()
        for uid in self.orthanc.sop_instance_uids():
            self.orthanc.delete(uid)

    def uploaded(self, target: str) -> tuple[int, int] | None:
        """What tells a package from the same one that was sent a second time: inode and time."""
        name = Path(self.package.path).name
        if target == "cloud":
            assert self.bucket is not None
            return self.bucket.written(name, self.content)
        path = self.folder_of(target) / name
        if not path.exists():
            return None
        assert path.read_bytes() == self.content, "half a package has its name"
        return path.stat().st_ino, path.stat().st_mtime_ns


class Bucket:
    """A server of S3 in this process, with one bucket."""

    def __init__(self, port: int) -> None:
        import boto3

        self._port = port
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="fiona",
            aws_secret_access_key="s3cret",
        )
        self._client.create_bucket(Bucket="research")

    def target(self) -> dict[str, Any]:
        """It as a target of deliveries."""
        return {
            "kind": "s3",
            "bucket": "research",
            "prefix": "study/",
            "endpoint": f"http://127.0.0.1:{self._port}",
            "path_style": True,
            "access_key_id": "fiona",
            "secret_key_file": "secrets/s3",
            "timeout_seconds": 10,
        }

    def names(self) -> list[str]:
        """Keys, without the prefix."""
        found = self._client.list_objects_v2(Bucket="research").get("Contents", ())
        return sorted(each["Key"].removeprefix("study/") for each in found)

    def empty(self) -> None:
        """Removes everything."""
        for name in self.names():
            self._client.delete_object(Bucket="research", Key=f"study/{name}")

    def written(self, name: str, content: bytes) -> tuple[int, int] | None:
        """When an object was written."""
        if name not in self.names():
            return None
        answer = self._client.get_object(Bucket="research", Key=f"study/{name}")
        assert answer["Body"].read() == content
        return int(answer["LastModified"].timestamp()), 0


@contextmanager
def running_bucket() -> Iterator[Bucket | None]:
    """A bucket where all targets are tried."""
    if not FULL:
        yield None
        return
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield Bucket(port)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, one_sshd: Sshd) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    more: dict[str, Any] = {"OverwriteInstances": True, "DicomAlwaysAllowGet": True}
    if FULL:
        more |= {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with (
        running_site(folder) as site,
        running_orthanc(folder / "orthanc", **more) as orthanc,
        running_bucket() as bucket,
    ):
        yield Scene(folder, site, one_sshd, orthanc, bucket)


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


@pytest.mark.parametrize("target", TARGETS)
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
        takes_instances = target in ("pacs", "web")
        before = None if takes_instances else scene.uploaded(target)
        if _proven(scene, target):
            if takes_instances:
                assert len(scene.orthanc.sop_instance_uids()) == scene.instances
            else:
                assert before is not None
        _in_the_end(scene, target)
        if takes_instances:
            assert len(scene.orthanc.sop_instance_uids()) == scene.instances
        else:
            assert before in (None, scene.uploaded(target)), "sent twice"
            assert len(scene.names_of(target)) == 4
    assert killed >= len(tried) - 1, "steps differ by a packet or so from run to run"


def test_what_was_found_to_be_something_else_is_vouched_for_by_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that changed on its way: neither another attempt nor a laxer setting makes a proof of it."""
    scene.reset("pacs")
    site, orthanc = scene.site, scene.orthanc

    def change_one(peer: Peer, instances: Sequence[Instance], **more: Any) -> list[StoreResult]:
        results = store_files(peer, instances, **more)
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
def small_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, "size=4m"):
        yield folder


def test_a_remote_disk_that_is_full_or_fills_up(
    one_sshd: Sshd, small_folder: Path, root: DataRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, filler = tmp_path / "package", small_folder / "filler"
    filler.write_bytes(bytes(2_000_000))
    with pytest.raises(StorageFull, match="remote disk"):
        _deliver(one_sshd, root, package, directory=str(small_folder))
    filler.unlink()

    check = remote.check_room

    def fills_up(*arguments: Any) -> None:
        check(*arguments)
        filler.write_bytes(bytes(2_000_000))

    monkeypatch.setattr(upload, "check_room", fills_up)
    with pytest.raises(StorageFull, match="remote disk"):
        _deliver(one_sshd, root, package, directory=str(small_folder))
    assert [path.name for path in small_folder.iterdir()] == ["filler"], (
        "what was sent does not fill it further"
    )

    monkeypatch.undo()
    filler.unlink()
    assert _deliver(one_sshd, root, package, directory=str(small_folder)) == "sftp-readback"
    assert (small_folder / NAME).read_bytes() == CONTENT


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
        _deliver(liar, root, tmp_path / "package", timeout_seconds=5)
    assert [path.name for path in liar.upload.iterdir()] == [NAME]
    # Its checksum files are renamed next; neither may get lost.
    with pytest.raises(PeerUnavailable, match="TimeoutError"):
        _deliver(liar, root, tmp_path / "package", timeout_seconds=5)
    (liar.folder / "lie").write_text("")
    before = (liar.upload / NAME).stat().st_ino
    assert _deliver(liar, root, tmp_path / "package") == "sftp-readback"
    assert (liar.upload / NAME).stat().st_ino == before
    assert (liar.upload / NAME).read_bytes() == CONTENT
    assert sorted(path.name for path in liar.upload.iterdir()) == [NAME, f"{NAME}.md5", f"{NAME}.sha256"]
