"""Copies have their names only once they are durable, and nothing stays open or behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fiona_dagster.deid import writing
from fiona_dagster.deid.elements import FileRange
from fiona_dagster.deid.writing import Flusher, write


def name_of(descriptor: object) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:  # that of the folder which is listed
        return ""


def open_files() -> set[str]:
    return {name_of(path.name) for path in Path("/proc/self/fd").iterdir()}


def made(flusher: Flusher, folder: Path, number: int) -> Path:
    part = folder / f".{number}.tmp"
    with flusher.new(part) as descriptor:
        os.write(descriptor, b"%d" % number)
    return part


def test_every_file_is_flushed_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[str] = set()
    sync, rename = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        flushed.add(name_of(descriptor))

    def replace(self: Path, target: Path) -> Path:
        assert str(self) in flushed
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    number = writing._TOGETHER * (writing._AHEAD + 5) + 3
    with Flusher() as flusher:
        for each in range(number):
            flusher.keep(made(flusher, tmp_path, each), tmp_path / str(each))
            assert len(flusher._waiting) <= writing._AHEAD

    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        str(each): b"%d" % each for each in range(number)
    }
    assert not any(str(tmp_path) in name for name in open_files())


@pytest.mark.parametrize("number", [1, 8, 100])
def test_a_file_whose_flush_fails_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if name_of(descriptor).endswith("/.0.tmp"):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"), Flusher() as flusher:  # noqa: PT012
        for each in range(number):
            flusher.keep(made(flusher, tmp_path, each), tmp_path / str(each))

    assert not (tmp_path / "0").exists()
    assert not any(str(tmp_path) in name for name in open_files())


def test_a_failure_between_files_closes_all_and_one_within_removes_its_own(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Flusher() as flusher:  # noqa: PT012
        for each in range(20):
            flusher.keep(made(flusher, tmp_path, each), tmp_path / str(each))
        made(flusher, tmp_path, 20)
        with flusher.new(tmp_path / ".21.tmp"):
            raise KeyError

    assert not (tmp_path / ".21.tmp").exists()
    assert not (tmp_path / "20").exists()
    assert not any(str(tmp_path) in name for name in open_files())


@pytest.mark.parametrize("without", [False, True])
def test_room_is_made_and_a_file_is_as_long_as_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    """Also one whose writing ends early, and where the system has no such function."""
    if without:
        monkeypatch.setattr(writing, "_FALLOCATE", None)
    (tmp_path / "in").write_bytes(bytes(range(256)) * 1024)
    source = os.open(tmp_path / "in", os.O_RDONLY)
    target = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        size = write(target, [b"ab", FileRange(5, 200_000), b"c"], source)
        assert (tmp_path / "out").read_bytes() == b"ab" + (tmp_path / "in").read_bytes()[5:200_005] + b"c"
        assert os.fstat(target).st_size == size == 200_003
        writing._make_room(target, 500_000)
        assert os.fstat(target).st_size == size
        assert without or os.fstat(target).st_blocks * 512 >= 500_000
    finally:
        os.close(source)
        os.close(target)
