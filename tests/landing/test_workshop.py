"""A file in the making, on a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import workshop
from fiona_dagster.landing.workshop import NewFile, clear_workshops, workshops


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

    monkeypatch.setattr(workshop.os, "close", fail)
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
    monkeypatch.setattr(workshop.os, "close", fail)
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

    monkeypatch.setattr(workshop.fcntl, "flock", too_late)
    assert clear_workshops(root) == 1
    assert list(workshops(root).iterdir()) == []
