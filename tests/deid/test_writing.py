"""Copies are under their names whole or not at all, and nothing stays open or behind."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fiona_dagster.deid import flushing, writing
from fiona_dagster.deid.elements import FileRange
from fiona_dagster.deid.flushing import flushed
from fiona_dagster.deid.writing import part_of, write
from fiona_dagster.errors import OriginalUnavailable


def name_of(descriptor: object) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:  # that of the folder which is listed
        return ""


def open_files() -> set[str]:
    return {name_of(path.name) for path in Path("/proc/self/fd").iterdir()}


def test_all_of_a_folder_is_flushed_beside_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, sync = set[str](), os.fsync
    for number in range(flushing._TOGETHER * 3 + 1):
        (tmp_path / str(number)).write_bytes(b"copy")

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        names.add(name_of(descriptor))

    monkeypatch.setattr(os, "fsync", fsync)
    with flushed(tmp_path):
        pass
    assert names == {str(tmp_path.parent), str(tmp_path), *map(str, tmp_path.iterdir())}
    assert not any(str(tmp_path) in name for name in open_files())


@pytest.mark.parametrize("bad", ["0", "20"])
def test_what_the_disk_does_not_take_ends_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    sync = os.fsync
    for number in range(21):
        (tmp_path / str(number)).write_bytes(b"copy")

    def fsync(descriptor: int) -> None:
        if name_of(descriptor).endswith(f"/{bad}"):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"), flushed(tmp_path):
        pass
    with pytest.raises(KeyError), flushed(tmp_path):
        raise KeyError
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


WHOLE = bytes(range(256)) * 10_007
SPLICE = os.splice


def refused(*_: object, **__: object) -> int:
    raise OSError(errno.EINVAL, "Invalid argument")


def into_pipe(where: dict[str, int]) -> bool:
    return "offset_src" in where


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "in").write_bytes(WHOLE)
    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def piped(monkeypatch: pytest.MonkeyPatch, fail: Callable[[int, bool], int]) -> list[int]:
    """``os.splice`` that fails: gives an error number, or 0, by the number of its call and its direction."""
    calls: list[int] = []
    monkeypatch.setattr(writing, "_on_disk", lambda _: True)  # folders of tests may be in memory

    def splice(source: int, target: int, size: int, **where: int) -> int:
        calls.append(size)
        if number := fail(len(calls), into_pipe(where)):
            raise OSError(number, os.strerror(number))
        return SPLICE(source, target, size, **where)

    monkeypatch.setattr(os, "splice", splice)
    return calls


def no_larger_pipe(*_: object) -> int:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(
    "case", ["all", "no splice", "none out of the pipe", "later none", "later none out", "no pipe", "no disk"]
)
def test_bytes_are_the_same_whatever_the_kernel_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: int, case: str, kernel: bool
) -> None:
    before = open_files()
    calls = piped(
        monkeypatch,
        lambda number, into: (
            errno.EINVAL
            if case == "no splice"
            or (case == "none out of the pipe" and not into)
            or (case == "later none" and into and number > 1)
            or (case == "later none out" and not into and number > 2)
            else 0
        ),
    )
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", refused)
    if case == "no pipe":
        monkeypatch.setattr(fcntl, "fcntl", no_larger_pipe)
    if case == "no disk":
        monkeypatch.setattr(writing, "_on_disk", lambda _: False)
    with part_of(tmp_path / "out") as part:
        size = write(part, [b"ab", FileRange(3, 2_500_001), b"c" * 300_000, FileRange(7, 11), b"d"], source)

    assert bool(calls) == (case not in ("no disk", "no pipe"))
    made = (tmp_path / "out").read_bytes()
    assert size == len(made)
    assert made == b"ab" + WHOLE[3:2_500_004] + b"c" * 300_000 + WHOLE[7:18] + b"d"
    assert not any("pipe:" in name and name not in before for name in open_files())


@pytest.mark.parametrize(
    ("number", "into", "error"),
    [(1, True, OriginalUnavailable), (3, True, OriginalUnavailable), (2, False, OSError)],
)
def test_errors_of_the_disk_end_a_copy_and_get_into_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: int,
    number: int,
    into: bool,
    error: type[Exception],
) -> None:
    """What waited in the pipe when one copy failed is not in the next."""
    before = open_files()
    with monkeypatch.context() as broken:
        piped(broken, lambda call, inside: errno.EIO if call >= number and inside == into else 0)
        with pytest.raises(error), part_of(tmp_path / "out") as part:
            write(part, [b"ab", FileRange(3, 2_500_001)], source)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not any("pipe:" in name and name not in before for name in open_files())

    with part_of(tmp_path / "out") as part:
        write(part, [b"ab", FileRange(300_000, 400_000)], source)
    assert (tmp_path / "out").read_bytes() == b"ab" + WHOLE[300_000:700_000]


def test_a_long_original_that_became_shorter(tmp_path: Path, source: int) -> None:
    with pytest.raises(OriginalUnavailable, match="shorter"), part_of(tmp_path / "out") as part:
        write(part, [FileRange(100, len(WHOLE))], source)

    assert [path.name for path in tmp_path.iterdir()] == ["in"]
