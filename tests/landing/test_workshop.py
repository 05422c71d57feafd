"""A file in the making, on a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import Landing, workshop
from fiona_dagster.landing.workshop import NewFile, Workshop, clear_workshops, workshops
from tests.landing.test_door import CALLER, archived, file_one
from tests.making import STUDY


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewFile:
    """Written, and closing it will say that there was no room."""
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    new = NewFile(tmp_path, folder, "1.part", flushed=False)
    new.write([b"bytes"])
    close, number = os.close, new.fileno()

    def fail(fd: int) -> None:
        close(fd)
        if fd == number:
            raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "close", fail)
    return new


def test_what_only_closing_says_is_said(made: NewFile) -> None:
    with pytest.raises(StorageFull):
        made.commit()
    made.discard()
    assert not made.path.exists()


def test_what_is_thrown_away_goes_whatever_closing_says(made: NewFile) -> None:
    number = made.fileno()
    made.discard()
    assert not made.path.exists()
    other = os.open(made.path.parent / "other", os.O_WRONLY | os.O_CREAT)
    assert other == number, "the number is somebody else's now"
    made.discard()
    os.fstat(other)


def test_a_failed_flush_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    new = NewFile(tmp_path, folder, "1.part", flushed=True)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "flush")

    monkeypatch.setattr(workshop, "flush_data", fail)
    monkeypatch.setattr(os, "close", fail)
    with pytest.raises(OSError, match="flush"):
        new.commit()


def test_two_processes_may_clear_up_at_once(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one was faster, with the folder open here already."""
    for name in ("1-a", "2-b"):
        (workshops(root) / name).mkdir(parents=True)
    (workshops(root) / "2-b" / "1.part").touch()
    flock = fcntl.flock

    def too_late(fd: int, how: int) -> None:
        if (workshops(root) / "1-a").exists():
            (workshops(root) / "1-a").rmdir()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", too_late)
    assert clear_workshops(root) == 1
    assert list(workshops(root).iterdir()) == []


def bytes_of(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_a_file_without_a_name_gets_its_only_one_when_it_is_complete(root: DataRoot, tmp_path: Path) -> None:
    shop = Workshop(workshops(root))
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    new = shop.new_file(nameless=True)
    new.write([b"by", b"tes"])
    new.commit()
    assert not list(shop.path.iterdir())
    assert not new.is_lost, "nobody can have removed it"
    (tmp_path / "taken").write_bytes(b"other")
    assert new.appear(folder, "taken") is False
    assert (tmp_path / "taken").read_bytes() == b"other"
    assert new.appear(folder, "free") is True
    assert (tmp_path / "free").read_bytes() == b"bytes"
    assert (tmp_path / "free").stat().st_nlink == 1
    assert (tmp_path / "free").stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(new.fileno())
    shop.close()


def test_who_needs_its_path_gets_one(root: DataRoot) -> None:
    shop = Workshop(workshops(root))
    new = shop.new_file(nameless=True)
    new.write([b"bytes"])
    new.commit()
    assert not new.path.exists()
    for _ in range(2):
        new.take_name()
        assert new.path.read_bytes() == b"bytes"
    new.discard()
    assert not list(shop.path.iterdir())
    assert new.is_lost
    shop.close()


def test_nothing_is_left_of_a_file_without_a_name(root: DataRoot) -> None:
    """Neither when it is thrown away, nor when its process dies."""
    pid = os.fork()
    if pid == 0:
        shop = Workshop(workshops(root))
        thrown_away, unfinished = (shop.new_file(nameless=True) for _ in range(2))
        for new in (thrown_away, unfinished):
            new.write([b"half"])
        thrown_away.discard()
        os._exit(0)
    os.waitpid(pid, 0)
    assert bytes_of(workshops(root)) == []


def _no_nameless(path: object, flags: int, *more: object, **keywords: object) -> int:
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    return _open(path, flags, *more, **keywords)  # type: ignore[arg-type]


def _no_link(*_paths: object, **_keywords: object) -> None:
    raise FileNotFoundError(errno.ENOENT, "no /proc here")


def _fuse(_fd: int, kind: Any) -> int:
    kind[0] = 0x65735546
    return 0


_open = os.open


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [(os, "open", _no_nameless), (os, "link", _no_link), (workshop, "_FSTATFS", _fuse)],
)
def test_where_there_is_no_such_thing_it_has_a_name_from_the_start(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, module: object, name: str, instead: object
) -> None:
    monkeypatch.setattr(module, name, instead)
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        new = visit.new_file()
        assert new.path.exists()
        new.discard()
        kinds = [file_one(landing, visit, "1.2.1", nameless=True).kind for _ in range(2)]
        assert kinds == ["stored", "repeat"]
    assert archived(root) == [f"scp_{STUDY}/CT.1.2.1"]
