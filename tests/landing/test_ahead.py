"""What is promised is written ahead: it holds after a kill and after a power loss, and is settled once."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Landing, adopt_orphans, read_journals
from fiona_dagster.landing.ahead import DOUBT, HALF, LOG, Entry, _encode, read_entries
from fiona_dagster.landing.receipt import Receipt
from fiona_dagster.landing.recovery import recover
from fiona_dagster.landing.workshop import workshops
from tests.landing.test_door import CALLER, STUDY, archived, file_one, promise_one

INSTANCES = [f"1.2.{number}" for number in range(4)]


def killed(root: DataRoot, act: Callable[[Landing], None]) -> None:
    """Does something in a process that never comes to its end in order."""
    pid = os.fork()
    if pid == 0:
        try:
            act(Landing(root))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def file_four(landing: Landing) -> None:
    visit = landing.visit(CALLER)
    file_one(landing, visit, INSTANCES[0])
    for instance in INSTANCES[1:]:
        promise_one(visit, instance)


def lines(root: DataRoot) -> list[Receipt]:
    return [receipt for _, _, receipt in read_journals(root, {})]


def lose_power(root: DataRoot, *, names: bool, journal: bool) -> dict[str, bytes]:
    """Takes back what was written ahead only; what the archive held, by instance."""
    (log,) = workshops(root).glob(f"*/{LOG}")
    held = {path.name.removeprefix("CT."): path.read_bytes() for path in root.archive.glob("scp_*/*")}
    for entry, instance in zip(list(read_entries(log)), INSTANCES[1:], strict=True):
        if names:
            (root.archive / f"scp_{STUDY}" / f"CT.{instance}").rename(log.parent / entry.part)
    if journal:
        (path,) = root.arrived.glob("* scp_*")
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    return held


@pytest.mark.parametrize(("names", "journal"), [(True, True), (True, False), (False, True), (False, False)])
def test_promises_hold_after_a_power_loss(root: DataRoot, names: bool, journal: bool) -> None:
    killed(root, file_four)
    before = lines(root)
    held = lose_power(root, names=names, journal=journal)
    assert len(held) == len(before) == 4
    backup = root.path.with_name("backup")
    shutil.copytree(workshops(root), backup)
    adopt_orphans(root)
    for _ in range(2):
        assert {p.name.removeprefix("CT."): p.read_bytes() for p in root.archive.glob("scp_*/*")} == held
        assert lines(root) == before
        assert not list(workshops(root).iterdir())
        shutil.copytree(backup, workshops(root), dirs_exist_ok=True)  # cut short before the log was removed
        for part in workshops(root).glob("*/*.part"):
            part.unlink()
        recover(root)


def test_what_was_not_promised_is_removed(root: DataRoot) -> None:
    killed(root, file_four)
    (log,) = workshops(root).glob(f"*/{LOG}")
    content = bytearray(log.read_bytes())
    lose_power(root, names=True, journal=True)
    content[2 * 4096 + 40] ^= 1  # the last one's flush was cut short
    log.write_bytes(content)
    with Landing(root):
        assert archived(root)[:3] == [f"scp_{STUDY}/CT.{instance}" for instance in INSTANCES[:3]]
    assert [line.SOPInstanceUID for line in lines(root)] == INSTANCES[:3]


def test_what_was_removed_since_does_not_come_back(root: DataRoot) -> None:
    killed(root, file_four)
    shutil.rmtree(root.archive / f"scp_{STUDY}")
    for path in root.arrived.glob("* scp_*"):
        path.unlink()
    recover(root)
    assert not archived(root)
    assert not lines(root)


def test_another_object_under_its_name_stops_it(root: DataRoot, caplog: pytest.LogCaptureFixture) -> None:
    killed(root, file_four)
    lose_power(root, names=True, journal=True)
    taken = root.archive / f"scp_{STUDY}" / f"CT.{INSTANCES[2]}"
    taken.write_bytes(b"something else")
    recover(root)
    assert "can't be put in place" in caplog.text
    assert len(list(workshops(root).glob("*/*.part"))) >= 1, "nothing is thrown away"
    taken.unlink()
    recover(root)
    assert len(archived(root)) == 4
    assert sorted(line.SOPInstanceUID for line in lines(root)) == INSTANCES


def test_blocks_are_used_again_only_when_their_places_are_flushed(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        settled.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    with Landing(root) as landing, landing.visit(CALLER) as visit:
        promise_one(visit, "1.3.0")
        monkeypatch.setattr(os, "fsync", fsync)
        for number in range(1, 3 * HALF):
            promise_one(visit, f"1.3.{number}")
        (log,) = workshops(root).glob(f"*/{LOG}")
        assert settled.count(f"scp_{STUDY}") == 2, "once for each half that was full"
        assert log.stat().st_size == 2 * HALF * 4096
        found = sorted(
            int(entry.line.rpartition(b"/CT.1.3.")[2].partition(b'"')[0]) for entry in read_entries(log)
        )
        assert found == list(range(HALF, 3 * HALF)), "the first half was written over"
    assert settled.count(f"scp_{STUDY}") == 3, "and at the end of the visit"
    assert len(lines(root)) == 3 * HALF
    assert not list(workshops(root).iterdir())


def _failing(patch: pytest.MonkeyPatch, name: str, chosen: Callable[[str], bool]) -> None:
    real = getattr(os, name)

    def flush(fd: int) -> None:
        if chosen(Path(f"/proc/self/fd/{fd}").readlink().name):
            raise OSError(errno.EIO, "input/output error")
        real(fd)

    patch.setattr(os, name, flush)


def test_without_its_log_every_place_is_flushed(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        promise_one(visit, "1.2.1")
        with monkeypatch.context() as patch:
            _failing(patch, "fdatasync", lambda name: name == LOG)
            assert promise_one(visit, "1.2.2").kind == "stored"
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(
                os, name, lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name)
            )
        assert promise_one(visit, "1.2.3").kind == "stored"
        assert LOG not in flushed, "what a failed flush covered is not believed again"
        assert f"scp_{STUDY}" in flushed
        assert [name for name in flushed if " scp_" in name]
    assert len(lines(root)) == 3
    assert not list(workshops(root).iterdir())


@pytest.mark.parametrize("what", ["fsync", "fdatasync"])
def test_what_could_not_be_settled_is_done_anew(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The kernel may have dropped what the failed flush covered, and shows it as written all the same."""
    path = root.archive / f"scp_{STUDY}" / f"CT.{INSTANCES[1]}"
    with Landing(root) as landing:
        with landing.visit(CALLER) as visit, monkeypatch.context() as patch:
            promise_one(visit, INSTANCES[1])
            _failing(patch, what, lambda name: "scp_" in name)
            visit.close()
        (folder,) = workshops(root).iterdir()
        assert (folder / DOUBT).exists()
        with landing.visit(CALLER) as visit:  # reception goes on, each place flushed by itself
            assert promise_one(visit, INSTANCES[2]).kind == "stored"
    assert (folder / LOG).exists(), "it outlives its process"
    renamed: list[Path] = []
    real = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: (renamed.append(self), real(self, to))[1])
    with Landing(root):
        assert renamed == [path]
        assert path.exists()
    assert [line.SOPInstanceUID for line in lines(root)].count(INSTANCES[1]) == 2
    assert not list(workshops(root).iterdir())


def test_an_entry_that_is_too_long_is_none(root: DataRoot) -> None:
    assert len(_encode(Entry("1.part", b"x" * 4000))) == 4096
    with Landing(root) as landing:
        assert not landing.ahead.promise("1.part", b"x" * 5000)
        assert landing.ahead.promise("1.part", b"x" * 4000)


def test_a_file_that_is_no_log_has_no_entries(tmp_path: Path) -> None:
    (tmp_path / LOG).write_bytes(os.urandom(3 * 4096 + 100))
    assert list(read_entries(tmp_path / LOG)) == []
    assert list(read_entries(tmp_path / "none")) == []
