"""What processes tell each other about a study's names, also when the disk takes none or half of it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import Caller, Landing, read_journals
from tests.landing.test_door import CALLER, archived, file_one
from tests.making import MR, STUDY, data_set, part10

OTHER = Caller("OTHER", "FIONA", "10.0.0.2")


def names_file(root: DataRoot) -> Path:
    (path,) = root.locks.glob("*.names")
    return path


def mr(instance: str) -> bytes:
    return part10(data_set(instance, modality="MR", sop_class=MR), instance)


def _folder_flush_fails(patch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name == f"scp_{STUDY}":
            raise OSError(errno.EIO, "input/output error")
        real(fd)

    patch.setattr(os, "fsync", fsync)


def _names_take(patch: pytest.MonkeyPatch, taken: Callable[[bytes], int]) -> None:
    """Of each line only so many bytes find room in the file of names."""
    real = os.write

    def write(fd: int, line: bytes) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix != ".names" or taken(line) == len(line):
            return real(fd, line)
        if not taken(line):
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(fd, line[: taken(line)])

    patch.setattr(os, "write", write)


def test_a_doubt_that_could_not_be_written_down_is_remembered(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root.archive / f"scp_{STUDY}" / "CT.1.2.1"
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.0")
        with monkeypatch.context() as patch:
            _folder_flush_fails(patch)
            _names_take(patch, lambda line: 0)
            with pytest.raises(StorageFull):
                file_one(landing, visit, "1.2.1")
        first = path.stat().st_ino
        assert file_one(landing, visit, "1.2.1").kind == "stored"
        assert path.stat().st_ino != first, "a new file with a new entry has taken its place"
        assert file_one(landing, visit, "1.2.1").kind == "repeat"


def test_a_prefix_that_only_the_folder_tells_of_is_announced(root: DataRoot) -> None:
    """A folder that was put back from a backup: who listed it before knows less than who lists it now."""
    with Landing(root) as one, one.visit(CALLER) as a:
        file_one(one, a, "1.2.1")
        (root.archive / f"scp_{STUDY}" / "MR.1.2.9").write_bytes(mr("1.2.9"))
        with Landing(root) as two, two.visit(OTHER) as b:
            assert file_one(two, b, "1.2.2", mr("1.2.2"), modality="MR", sop_class=MR).kind == "stored"
        assert file_one(one, a, "1.2.2").kind == "conflict"
    assert archived(root) == [f"scp_{STUDY}/{name}" for name in ("CT.1.2.1", "MR.1.2.2", "MR.1.2.9")]


def test_a_line_that_was_cut_is_not_glued_to_the_next_nor_taken_for_a_shorter_name(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Landing(root) as one, Landing(root) as two, one.visit(CALLER) as a, two.visit(OTHER) as b:
        file_one(one, a, "1.2.1")
        file_one(two, b, "1.2.1")
        with monkeypatch.context() as patch:
            _names_take(patch, lambda line: len(line) if line.startswith(b"CT") else len("US.1.2.3"))
            with pytest.raises(StorageFull):
                file_one(one, a, "1.2.34", modality="US")
            assert "US" not in str(archived(root)), "no file has a prefix that nobody was told of"
        assert file_one(one, a, "1.2.4", mr("1.2.4"), modality="MR", sop_class=MR).kind == "stored"
        assert file_one(two, b, "1.2.4").kind == "conflict"
        assert file_one(one, a, "1.2.34", modality="US").kind == "stored"
        assert file_one(two, b, "1.2.34").kind == "repeat"
    assert names_file(root).read_text() == "CT.1.2.1\nUS.1.2.3?\nMR.1.2.4\nUS.1.2.34\n"


def test_a_doubt_ends_with_the_file_that_it_was_about(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power loss takes the entry whose flush failed; the object that comes again is a first one, once."""
    with Landing(root) as landing, landing.visit(CALLER) as visit, monkeypatch.context() as patch:
        _folder_flush_fails(patch)
        with pytest.raises(OSError, match="input/output"):
            file_one(landing, visit, "1.2.1")
    (root.archive / f"scp_{STUDY}" / "CT.1.2.1").unlink()
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        assert [file_one(landing, visit, "1.2.1").kind for _ in range(3)] == ["stored", "repeat", "repeat"]
    assert [r.kind for _, _, r in read_journals(root, {})] == ["stored", "stored", "repeat", "repeat"]


@pytest.mark.parametrize("nameless", [False, True])
def test_a_doubt_stays_while_the_file_is_there(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    """The attempt to file it anew under its prefix does not end it; only another file in its place does."""
    path = root.archive / f"scp_{STUDY}" / "CT.1.2.1"
    with Landing(root) as landing, landing.visit(CALLER) as visit, monkeypatch.context() as patch:
        _folder_flush_fails(patch)
        with pytest.raises(OSError, match="input/output"):
            file_one(landing, visit, "1.2.1", nameless=nameless)
    first = path.stat().st_ino
    other = part10(data_set("1.2.1", pixels=b"ab"), "1.2.1")
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        assert file_one(landing, visit, "1.2.1", other, nameless=nameless).kind == "conflict"
        assert path.stat().st_ino == first
        assert file_one(landing, visit, "1.2.1", nameless=nameless).kind == "stored"
        assert path.stat().st_ino != first


def test_who_took_a_place_has_a_flush_to_come_whatever_another_has_flushed(root: DataRoot) -> None:
    """The first flush ends after the file was replaced: the new entry's own flush may still fail."""
    name = "CT.1.2.1"
    with Landing(root) as landing:
        names = landing.names.of(STUDY)
        new, again = landing.new_file(), landing.new_file()
        assert names.place(new.appear, name) is None

        def replace() -> None:
            with names:
                assert names.is_unflushed("1.2.1")
                names.replace(again.folder_fd, again.name, name)

        other = threading.Thread(target=replace)
        other.start()
        other.join()
        names.flush(name)
        assert names.is_unflushed("1.2.1"), "the other's is still to come"


def test_a_second_prefix_is_seen_by_who_shares_the_lock(root: DataRoot) -> None:
    """Two threads of one process and another process: all file under CT; then one of them announces MR."""
    with Landing(root) as one, Landing(root) as two, one.visit(CALLER) as a, two.visit(OTHER) as b:
        for instance in ("1.2.1", "1.2.2"):
            assert file_one(one, a, instance).kind == "stored"
            assert file_one(two, b, instance).kind == "repeat"
        names = one.names.of(STUDY)
        assert names._only == "CT"
        assert file_one(two, b, "1.2.3", mr("1.2.3"), modality="MR", sop_class=MR).kind == "stored"
        kinds: list[str] = []

        def file_both() -> None:
            with one.visit(OTHER) as visit:
                kinds.append(file_one(one, visit, "1.2.3").kind)
                kinds.append(file_one(one, visit, "1.2.3", mr("1.2.3"), modality="MR", sop_class=MR).kind)

        thread = threading.Thread(target=file_both)
        thread.start()
        thread.join()
        assert kinds == ["conflict", "repeat"]
        assert file_one(one, a, "1.2.3").kind == "repeat"  # of what was kept aside


def test_the_lock_is_not_shared_with_who_must_be_alone(root: DataRoot) -> None:
    """Threads of one process exclude each other by it, too: nobody places a file while another looks."""
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        names = landing.names.of(STUDY)
        new, placed = landing.new_file(), threading.Event()

        def place() -> None:
            names.place(new.appear, "CT.1.2.2")
            placed.set()

        with names:
            thread = threading.Thread(target=place)
            thread.start()
            assert not placed.wait(0.3)
            assert not (names.folder / "CT.1.2.2").exists()
        thread.join()
        assert placed.is_set()
        assert (names.folder / "CT.1.2.2").exists()


def test_a_thread_gives_back_its_descriptors(root: DataRoot) -> None:
    with Landing(root) as landing:
        names = landing.names.of(STUDY)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            thread = threading.Thread(target=names.__enter__().__exit__, args=(None, None, None))
            thread.start()
            thread.join()
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_of_names_that_was_removed_is_made_anew(root: DataRoot) -> None:
    """Nobody locks what others can't see: the study is opened once more, with all that its folder holds."""
    with Landing(root) as landing, landing.visit(CALLER) as visit:
        file_one(landing, visit, "1.2.1")
        names_file(root).unlink()
        kinds: list[str] = []

        def file_two() -> None:
            with landing.visit(OTHER) as own:
                kinds.append(file_one(landing, own, "1.2.1").kind)
                kinds.append(file_one(landing, own, "1.2.2", nameless=True).kind)

        thread = threading.Thread(target=file_two)
        thread.start()
        thread.join()
        assert kinds == ["repeat", "stored"]
        assert file_one(landing, visit, "1.2.2").kind == "repeat"
    assert names_file(root).read_text() == "CT.1.2.1\n"
