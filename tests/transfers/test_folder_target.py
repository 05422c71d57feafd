"""A folder as a target: proof, a share that is absent, full, damaged or dead, and what is never touched."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot, FolderTarget, check
from fiona_dagster.errors import (
    DeliveryRefused,
    NotVerified,
    PeerUnavailable,
    StorageFull,
    Superseded,
    UsageError,
)
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.targets import Proof, folder
from fiona_dagster.transfers.targets.checking import unusable_targets
from tests.peers_fixtures import unavailable
from tests.sending import unrecorded
from tests.site import PROJECT, Site

NAME = "DEMO_P001_baseline_1.zip"
PART = f".{NAME}.fiona-part"
CONTENT = bytes(range(256)) * 12_000  # 3 MB
TRIPLE = [NAME, f"{NAME}.md5", f"{NAME}.sha256"]


@pytest.fixture
def share(tmp_path: Path) -> Path:
    made = tmp_path / "share"
    made.mkdir()
    (made / ".fiona-target").touch()
    return made


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package.zip"
    path.write_bytes(CONTENT)
    return path


def bring(share: Path, package: Path, **more: Any) -> Proof:
    digest = more.pop("digest", hashlib.sha256(CONTENT).hexdigest())
    name = more.pop("remote_name", NAME)
    go_on: Callable[[], None] = more.pop("may_go_on", lambda: None)
    target = FolderTarget(kind="folder", directory=str(share), **more)
    return folder.deliver_folder(
        target, package, digest, remote_name=name, begin=unrecorded, name="share", may_go_on=go_on
    )


def there(share: Path) -> list[str]:
    return sorted(path.name for path in share.iterdir() if path.name != ".fiona-target")


def test_a_package_arrives_with_checksums_and_is_not_written_twice(share: Path, package: Path) -> None:
    proof = bring(share, package)
    assert (proof.kind, proof.proven) == ("folder-readback", True)
    assert proof.counts == {"files": 3, "bytes": len(CONTENT), "sent": 1, "resumed": 0}
    assert there(share) == TRIPLE
    for kind in ("md5", "sha256"):
        subprocess.run([f"{kind}sum", "--quiet", "-c", f"{NAME}.{kind}"], cwd=share, check=True)
    assert {stat.S_IMODE((share / name).stat().st_mode) for name in TRIPLE} == {0o640}
    assert "P001" not in repr(proof)
    assert "P001" not in str(proof.to_json())

    before = {path.name: path.stat() for path in share.iterdir()}
    assert bring(share, package).counts["sent"] == 0
    after = {path.name: path.stat() for path in share.iterdir()}
    assert {k: (v.st_ino, v.st_mtime_ns) for k, v in before.items()} == {
        k: (v.st_ino, v.st_mtime_ns) for k, v in after.items()
    }


@pytest.mark.parametrize("content", [b"other", CONTENT[:-1] + b"x", CONTENT + b"x", b""])
def test_other_content_is_never_overwritten(share: Path, package: Path, content: bytes) -> None:
    (share / NAME).write_bytes(content)
    with pytest.raises(DeliveryRefused, match="never overwritten") as caught:
        bring(share, package)
    assert (share / NAME).read_bytes() == content
    assert there(share) == [NAME]
    assert "P001" not in str(caught.value)


def test_a_link_or_folder_under_our_name_is_left_alone(share: Path, package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (share / NAME).symlink_to(elsewhere)
    with pytest.raises(DeliveryRefused, match="no file"):
        bring(share, package)
    (share / NAME).unlink()
    (share / PART).symlink_to(elsewhere)
    with pytest.raises(DeliveryRefused, match="ELOOP"):
        bring(share, package)
    assert not elsewhere.exists()


def test_what_is_not_mounted_is_not_filled(share: Path, package: Path, root: DataRoot) -> None:
    (share / ".fiona-target").unlink()  # the empty folder that the share is mounted on
    with pytest.raises(PeerUnavailable, match="marker"):
        bring(share, package)
    assert there(share) == []
    assert bring(share, package, marker="").counts["sent"] == 1
    with pytest.raises(PeerUnavailable, match="never made here"):
        bring(share / "none", package)
    assert not (share / "none").exists()

    root.config_file.write_text(
        f'{{"targets": {{"share": {{"kind": "folder", "directory": "{share}"}},'
        f' "inside": {{"kind": "folder", "directory": "{root.daic}"}}}}}}'
    )
    assert [problem.split("targets.")[1].split(":")[0] for problem in check(root)] == ["inside.directory"]
    assert ["marker" in problem for problem in unusable_targets(root)] == [True, True]
    (share / ".fiona-target").touch()
    assert len(unusable_targets(root)) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system."""
    for parent in (Path("/dev/shm"), Path("/var/tmp"), Path.cwd()):  # noqa: S108
        if parent.is_dir() and parent.stat().st_dev != tmp_path.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=parent) as made:
                yield Path(made)
            return
    unavailable("there is one file system only")


def test_a_share_that_goes_away_under_us_proves_nothing(
    share: Path, package: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies below it takes everything just as well."""
    mounted = tmp_path / "mounted"
    mounted.symlink_to(share)
    (elsewhere / ".fiona-target").touch()
    put_text = folder._Delivery.put_text

    def switch(to: Path) -> None:
        mounted.unlink()
        mounted.symlink_to(to)

    def gone(self: folder._Delivery, path: Path, text: bytes) -> None:
        if mounted.resolve() != elsewhere:
            (elsewhere / NAME).write_bytes((share / NAME).read_bytes())  # even if the package is there, too
            switch(elsewhere)
        put_text(self, path, text)

    with monkeypatch.context() as broken:
        broken.setattr(folder._Delivery, "put_text", gone)
        with pytest.raises(PeerUnavailable, match="became another one"):
            bring(mounted, package)
    (elsewhere / NAME).unlink()
    switch(share)
    (share / NAME).unlink()

    def away_and_back(self: folder._Delivery, part: Path, final: Path) -> None:
        (elsewhere / part.name).write_bytes(part.read_bytes())
        switch(elsewhere)
        give_name(self, part, final)
        switch(share)

    give_name = folder._Delivery._give_name
    with monkeypatch.context() as broken:
        broken.setattr(folder._Delivery, "_give_name", away_and_back)
        with pytest.raises(PeerUnavailable, match="once more"):
            bring(mounted, package)
    assert NAME not in there(share)
    assert bring(mounted, package).proven
    assert (share / NAME).read_bytes() == CONTENT


def test_what_lies_in_place_of_a_checksum_file_is_not_read_whole(share: Path, package: Path) -> None:
    os.mkfifo(share / f"{NAME}.md5")
    with (share / f"{NAME}.sha256").open("wb") as large:
        large.truncate(1 << 40)
    assert bring(share, package).counts["sent"] == 1
    assert (share / f"{NAME}.md5").is_file()
    assert (share / f"{NAME}.sha256").stat().st_size < 200


def test_what_broke_off_goes_on_once_it_was_compared(share: Path, package: Path) -> None:
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 6:  # while it reads back
            raise PeerUnavailable("the machine went down")

    with pytest.raises(PeerUnavailable):
        bring(share, package, may_go_on=stop)
    assert there(share) == [PART]
    left = (share / PART).stat().st_size
    assert left
    assert bring(share, package).counts["resumed"] == left
    assert there(share) == TRIPLE

    (share / NAME).unlink()
    (share / PART).write_bytes(CONTENT[: 1 << 20] + b"?" * (1 << 20))
    assert bring(share, package).counts["resumed"] == 1 << 20
    assert (share / NAME).read_bytes() == CONTENT


def test_a_transfer_that_does_not_count_any_more_leaves_nothing(share: Path, package: Path) -> None:
    calls = iter(range(100))

    def stop() -> None:
        if next(calls) == 6:
            raise Superseded("replaced")

    with pytest.raises(Superseded):
        bring(share, package, may_go_on=stop)
    assert there(share) == []


def test_other_bytes_than_the_ledgers_are_not_written(
    share: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotVerified):
        bring(share, package, digest="0" * 64)
    assert there(share) == []

    statvfs = os.statvfs

    def swap(path: Path) -> os.statvfs_result:
        package.write_bytes(CONTENT[:-1] + b"!")
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", swap)
    with pytest.raises(NotVerified):
        bring(share, package)
    assert there(share) == []


def test_a_share_that_lies_about_success_is_found_out(
    share: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, b"\0" * len(data), at))
    with pytest.raises(PeerUnavailable, match="differs from what was written"):
        bring(share, package)
    assert there(share) == []


def test_a_full_share(share: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full(descriptor: int, data: bytes, position: int) -> int:
        if position >= 1 << 20:
            raise OSError(errno.EDQUOT, "quota")
        return pwrite(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageFull):
        bring(share, package)
    assert there(share) == []
    monkeypatch.undo()

    real = os.statvfs(share)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:4], 1, *real[5:])))
    with pytest.raises(StorageFull, match="no room"):
        bring(share, package)
    assert there(share) == []


@pytest.mark.parametrize("call", ["open", "fsync", "pread", "link"])
def test_a_share_whose_server_is_gone_holds_nobody(
    share: Path, package: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for_ever, main = threading.Event(), threading.current_thread()
    real = getattr(os, call)

    def hang(*arguments: Any, **more: Any) -> Any:
        if threading.current_thread() is not main:
            for_ever.wait(60)
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, hang)
    with pytest.raises(PeerUnavailable, match="does not answer"):
        bring(share, package, timeout_seconds=0.3)
    for_ever.set()
    monkeypatch.undo()
    assert NAME not in there(share) or call == "link"
    assert bring(share, package).proven
    assert there(share) == TRIPLE


def test_a_share_without_links_and_permissions(
    share: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", no)
    monkeypatch.setattr(os, "fchmod", no)
    assert bring(share, package).proven
    assert there(share) == TRIPLE


def test_a_share_that_may_not_be_written_to(
    share: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(DeliveryRefused, match="EROFS"):
        bring(share, package)


@pytest.mark.parametrize("name", ["../x.zip", "a/b.zip", "", ".hidden"])
def test_unsafe_names(share: Path, package: Path, name: str) -> None:
    with pytest.raises(UsageError):
        bring(share, package, remote_name=name)


def test_a_transfer_is_delivered_to_a_folder(site: Site, share: Path) -> None:
    site.configure(targets={"share": {"kind": "folder", "directory": str(share)}})
    site.project(targets=["share"])
    transfer, package = site.packaged()
    with site.open() as gateway:
        proof, _ = delivery.deliver(gateway, transfer, "share")
    assert proof is not None
    assert proof.digests["sha256"] == package.sha256
    assert site.transfer().state == "delivered"
    (name,) = [path.name for path in share.glob("*.zip")]
    assert (share / name).read_bytes() == (site.root.daic / PROJECT / name).read_bytes()
