"""Group commit: one flush serves many, a failed one fails exactly those whom it covered."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import Caller, Landing, read_journals
from fiona_dagster.landing.flush import GroupFlush
from tests.landing.test_door import CALLER, file_one
from tests.making import STUDY


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 170
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Disk:
    """A flush that waits until it is let go, one after the other."""

    def __init__(self) -> None:
        self.begun = 0
        self.failures: dict[int, OSError] = {}
        self._gates = [threading.Event() for _ in range(10)]

    def __call__(self, fd: int) -> None:
        number = self.begun
        self.begun += 1
        assert self._gates[number].wait(170)
        if number in self.failures:
            raise self.failures[number]

    def let_go(self, number: int) -> None:
        self._gates[number].set()


class Waiters:
    """Threads that wait for one group."""

    def __init__(self, group: GroupFlush) -> None:
        self.ended: dict[str, str] = {}
        self._group = group
        self._threads: list[threading.Thread] = []

    def add(self, *names: str) -> None:
        for name in names:
            thread = threading.Thread(target=self._wait, args=(name,))
            thread.start()
            self._threads.append(thread)

    def _wait(self, name: str) -> None:
        try:
            self._group(3)
        except OSError as error:
            self.ended[name] = errno.errorcode[error.errno or 0]
        else:
            self.ended[name] = "flushed"

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def test_one_flush_serves_all_who_came_while_another_was_running() -> None:
    disk = Disk()
    waiters = Waiters(GroupFlush(disk))
    waiters.add("first")
    wait_until(lambda: disk.begun == 1)
    waiters.add("a", "b", "c", "d")
    time.sleep(0.1)
    assert disk.begun == 1
    assert not waiters.ended, "nobody is told before a flush that began after its write has ended"
    disk.let_go(0)
    wait_until(lambda: disk.begun == 2)
    assert waiters.ended == {"first": "flushed"}, "the first flush began before the others had written"
    disk.let_go(1)
    waiters.join()
    assert set(waiters.ended.values()) == {"flushed"}
    assert disk.begun == 2


def test_a_failed_flush_fails_exactly_those_whom_it_covered() -> None:
    disk = Disk()
    disk.failures[1] = OSError(errno.EIO, "input/output error")
    waiters = Waiters(GroupFlush(disk))
    waiters.add("first")
    wait_until(lambda: disk.begun == 1)
    waiters.add("a", "b")
    time.sleep(0.1)
    disk.let_go(0)
    wait_until(lambda: disk.begun == 2)
    waiters.add("late")
    time.sleep(0.1)
    disk.let_go(1)
    disk.let_go(2)
    waiters.join()
    assert waiters.ended == {"first": "flushed", "a": "EIO", "b": "EIO", "late": "flushed"}


def _failing(monkeypatch: pytest.MonkeyPatch, name: str, chosen: Callable[[Path], bool]) -> None:
    real = getattr(os, name)

    def flush(fd: int) -> None:
        if chosen(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.EIO, "input/output error")
        real(fd)

    monkeypatch.setattr(os, name, flush)


def test_an_entry_whose_flush_failed_is_not_vouched_for_by_a_later_one(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel may have dropped the pages; the next one then succeeds for nothing."""
    path = root.archive / f"scp_{STUDY}" / "CT.1.2.1"
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        with monkeypatch.context() as patch:
            _failing(patch, "fsync", lambda target: target.name == f"scp_{STUDY}")
            with pytest.raises(OSError, match="input/output"):
                file_one(landing, visit, "1.2.1")
        first = path.stat().st_ino
        with Landing(root) as other, other.visit(Caller("OTHER", "FIONA", "local")) as visit_of_another:
            file_one(other, visit_of_another, "1.2.1")  # another process: it learns of the doubt
        second = path.stat().st_ino
        assert second != first, "a new file with a new entry has taken its place"
        assert file_one(landing, visit, "1.2.1").kind == "repeat"
        assert path.stat().st_ino == second
    assert len(list(path.parent.iterdir())) == 1


def test_bytes_whose_flush_failed_are_thrown_away(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        with monkeypatch.context() as patch:
            _failing(patch, "fdatasync", lambda target: target.suffix == ".part")
            new = landing.new_file()
            new.write([b"bytes"])
            with pytest.raises(OSError, match="input/output"):
                new.commit()
            new.discard()
        assert not list(landing.root.archive.rglob("*.part"))
        assert file_one(landing, visit, "1.2.1").kind == "stored"


def test_a_line_whose_flush_failed_is_written_again(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        with monkeypatch.context() as patch:
            _failing(patch, "fdatasync", lambda target: "scp_" in target.name and target.suffix != ".part")
            with pytest.raises(OSError, match="input/output"):
                file_one(landing, visit, "1.2.1")
        assert file_one(landing, visit, "1.2.1").kind == "stored"
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "stored"]


def test_rename_keeps_the_order_without_flushes(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flush(fd: int) -> None:
        raise AssertionError("durability rename flushes nothing")

    with Landing(root, durability="rename") as landing:
        monkeypatch.setattr(os, "fsync", no_flush)
        monkeypatch.setattr(os, "fdatasync", no_flush)
        with landing.visit(CALLER) as visit:
            assert file_one(landing, visit, "1.2.1").kind == "stored"
            assert file_one(landing, visit, "1.2.1").kind == "repeat"
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "repeat"]


def test_a_repeat_at_full_flushes_what_came_at_rename(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Landing(root, durability="rename") as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
    flushed: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        assert file_one(landing, visit, "1.2.1").kind == "repeat"
    assert flushed.index("CT.1.2.1") < flushed.index(f"scp_{STUDY}", flushed.index("CT.1.2.1"))


def test_associations_in_parallel_share_flushes(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight associations file into one study while the disk is slow: far fewer flushes than objects."""
    slow = threading.Lock()
    counts = {"directory": 0, "journal": 0}
    real = {"fsync": os.fsync, "fdatasync": os.fdatasync}

    def flush(name: str, kind: str) -> Callable[[int], None]:
        def call(fd: int) -> None:
            target = Path(f"/proc/self/fd/{fd}").readlink().name
            if kind == "directory" or (kind == "journal" and not target.endswith(".part")):
                counts[kind] += 1
                with slow:
                    time.sleep(0.05)
            real[name](fd)

        return call

    with Landing(root) as landing, landing.visit(CALLER) as first:
        file_one(landing, first, "1.2.0")
        monkeypatch.setattr(os, "fsync", flush("fsync", "directory"))
        monkeypatch.setattr(os, "fdatasync", flush("fdatasync", "journal"))
        start = threading.Barrier(8)
        receipts: list[str] = []

        def send(number: int) -> None:
            with landing.visit(CALLER) as visit:
                visit._journal(STUDY)
                start.wait(170)
                receipts.append(file_one(landing, visit, f"1.2.{number + 1}").kind)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert receipts == ["stored"] * 8
    assert counts["directory"] < 8 + 8
    assert counts["journal"] < 8


def test_an_error_that_is_no_full_disk_stays_what_it_is(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Landing(root) as landing, landing.visit(CALLER) as visit, monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
        with pytest.raises(StorageFull):
            file_one(landing, visit, "1.2.1")


def _of(fd: int) -> str:
    return Path(f"/proc/self/fd/{fd}").readlink().name


def test_line_and_name_are_flushed_at_the_same_time(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the two flushes waits here for the other to begin; both begin after the line was written."""
    both = threading.Barrier(2)
    real = {"fsync": os.fsync, "fdatasync": os.fdatasync}
    lines: list[int] = []

    def flush(name: str, chosen: Callable[[str], bool]) -> Callable[[int], None]:
        def call(fd: int) -> None:
            if chosen(_of(fd)):
                (journal,) = root.arrived.iterdir()
                lines.append(journal.read_bytes().count(b"\n"))
                both.wait(170)
            real[name](fd)

        return call

    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", flush("fsync", lambda name: name == f"scp_{STUDY}"))
            patch.setattr(os, "fdatasync", flush("fdatasync", lambda name: name.endswith(f" scp_{STUDY}")))
            assert file_one(landing, visit, "1.2.2").kind == "stored"
    assert lines == [2, 2]


@pytest.mark.parametrize("failing", ["fsync", "fdatasync"])
def test_success_waits_for_the_later_of_the_two(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The one that ends last fails: nothing is told, and the next flush is not taken for this one."""
    real = {"fsync": os.fsync, "fdatasync": os.fdatasync}
    done = threading.Event()

    def flush(name: str) -> Callable[[int], None]:
        def call(fd: int) -> None:
            if not _of(fd).endswith(f"scp_{STUDY}"):
                real[name](fd)
            elif name == failing:
                assert done.wait(170)
                time.sleep(0.05)
                raise OSError(errno.EIO, "input/output error")
            else:
                real[name](fd)
                done.set()

        return call

    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, flush(name))
            with pytest.raises(OSError, match="input/output"):
                file_one(landing, visit, "1.2.2")
        assert [file_one(landing, visit, "1.2.2").kind for _ in range(2)] == ["stored", "repeat"]


def test_the_thread_beside_goes_with_its_visit(root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def flushers() -> int:
        return sum(thread.name == "flush" for thread in threading.enumerate())

    before = flushers()
    with Landing(root) as landing:
        with landing.visit(CALLER) as visit:
            assert flushers() == before
            file_one(landing, visit, "1.2.1")
            assert flushers() == before + 1
        assert flushers() == before
        with monkeypatch.context() as patch, landing.visit(CALLER) as visit:
            patch.setattr(threading.Thread, "start", _no_thread)
            assert file_one(landing, visit, "1.2.2").kind == "stored"
            patch.undo()
            _failing(patch, "fsync", lambda target: target.name == f"scp_{STUDY}")
            with pytest.raises(OSError, match="input/output"):
                file_one(landing, visit, "1.2.3")


def _no_thread(_thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
