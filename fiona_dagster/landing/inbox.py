"""The drop folder: what lies in it is imported, and leaves it only when it is durable elsewhere.

Order for every file: finished (settled, nobody writes to it), copied, unchanged since, filed with its journal
line flushed or kept in quarantine; only then it is removed. Killed at any moment, the file is still there and
is imported again, which counts as a repeat. Names are never logged and never become paths.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import Refusal
from fiona_dagster.errors import Busy, StorageFull
from fiona_dagster.landing.door import Landing, Visit
from fiona_dagster.landing.files import make_directory
from fiona_dagster.landing.imports import MAX_UNPACKED, UNPACKED_IN_PART, Importer
from fiona_dagster.landing.receipt import INBOX
from fiona_dagster.landing.report import ImportReport
from fiona_dagster.landing.sources import SourceChanged, SourceError, open_regular

TAKEN = ".taken"
"""Hidden folder of the inbox that files pass through on their way out; what is found in it is imported."""
UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".download", ".swp", "~")
"""Endings by which programs mark what they still write; such files wait until they are renamed."""

_EMPTY_SECONDS = 60.0
_NO_ROOM_PAUSE = 60.0
_MEDIA_INCOMPLETE = Refusal("media_incomplete", 0, "media directory lists instances that did not come")


class Stopped(Exception):
    """Somebody asked the pass to end; the file in hand stays in the inbox."""


@dataclass
class Pass:
    """What one pass found and did.

    Attributes:
        report: what became of the files that were taken.
        taken: files that left the inbox; an archive is one.
        waiting: files that are not finished yet, or wait for room.
        left_alone: hidden ones, those marked as unfinished by their name, links and special files.
        unreadable: files and folders that can't be read.
        not_removable: files that were imported and can't be removed.
        held_up: whether a file has to wait, since the disk is full or can't be written.
    """

    report: ImportReport = field(default_factory=ImportReport)
    taken: int = 0
    waiting: int = 0
    left_alone: int = 0
    unreadable: int = 0
    not_removable: int = 0
    held_up: bool = False


@dataclass
class _Known:
    """A file as it was met."""

    key: tuple[int, int, int]
    since: float
    not_before: float = 0.0
    state: str = ""


class Inbox:
    """The drop folder of one data root, emptied by one process.

    Args:
        root: the data root.
        landing: the door.
        settle_seconds: a file must not have changed for so long.
        max_unpacked: bytes that one archive may unpack to.
        stop: asked again and again; when it says True the pass ends with :class:`Stopped`.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        root: DataRoot,
        landing: Landing,
        *,
        settle_seconds: float,
        max_unpacked: int = MAX_UNPACKED,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._landing = landing
        self._settle = settle_seconds
        self._max_unpacked = max_unpacked
        self._stop = stop
        self._clock = clock
        self._known: dict[tuple[int, int], _Known] = {}
        make_directory(root.inbox)
        self._top = root.inbox.resolve()  # an operator may have put it elsewhere; nothing below is followed
        make_directory(self._top / TAKEN)

    def look(self) -> Pass:
        """One pass over the folder: takes what is finished.

        Raises:
            Stopped: see ``stop``; what was taken so far is durable.
            OSError: the folder itself can't be read.
        """
        result = Pass()
        met: dict[tuple[int, int], _Known] = {}
        with self._landing.visit(INBOX) as visit:
            for folder, folders, files, fd in _walk(self._top, result):
                for name in sorted(files):
                    self._check()
                    if is_left_alone(name):
                        result.left_alone += 1
                    elif name.upper() == "DICOMDIR" and _holds_others(Path(folder), folders, files):
                        result.waiting += 1
                    else:
                        self._look_at(name, fd, visit, result, met)
                _remove_empty(folders, fd)
        self._known = met
        return result

    def _check(self, _: ImportReport | None = None) -> None:
        if self._stop():
            raise Stopped

    def _look_at(
        self, name: str, folder: int, visit: Visit, result: Pass, met: dict[tuple[int, int], _Known]
    ) -> None:
        try:
            state = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:  # gone, or the folder may not be searched
            return
        if not stat.S_ISREG(state.st_mode):
            result.left_alone += 1
            return
        now, identity, key = self._clock(), (state.st_dev, state.st_ino), _key(state)
        known = self._known.get(identity)
        if known is None or known.key != key:
            known = _Known(key, now)
        met[identity] = known
        due = not known.state and now - known.since >= self._settle and now >= known.not_before
        if due and self._take(name, folder, known, visit, result):
            del met[identity]
            result.taken += 1
            return
        if known.state == "unreadable":
            result.unreadable += 1
        elif known.state == "not_removable":
            result.not_removable += 1
        else:
            result.waiting += 1

    def _take(self, name: str, folder: int, known: _Known, visit: Visit, result: Pass) -> bool:
        """Takes one file; whether it left the inbox."""
        try:
            fd = open_regular(name, dir_fd=folder, follow=False)
            if fd is None:  # something else took its place meanwhile
                return False
            try:
                if _key(os.fstat(fd)) != known.key or is_written(fd):
                    known.since = self._clock()
                    return False
                self._import(fd, known, visit, result)
                if self._remove(name, folder, os.fstat(fd)):
                    return True
                known.state = "not_removable"
            finally:
                os.close(fd)
        except SourceChanged:
            known.since = self._clock()
        except SourceError:
            known.state = "unreadable"
        except (StorageFull, OSError):
            known.not_before = self._clock() + _NO_ROOM_PAUSE
            result.held_up = True
        return False

    def _import(self, fd: int, known: _Known, visit: Visit, result: Pass) -> None:
        """Brings all bytes of a file to where they stay; raises if that can't be done."""
        self._landing.check_room()
        report = ImportReport()
        importer = Importer(
            *(self._landing, visit, report),
            progress=self._check,
            max_unpacked=self._max_unpacked,
            source="inbox",
        )

        def unchanged() -> bool:
            return _key(os.fstat(fd)) == known.key and not is_written(fd)

        try:
            whole = importer.take_open(fd, "", unchanged)
            importer.compare_with_media()
            if not unchanged():
                raise SourceChanged("changed while it was read")
            if not whole:
                importer.quarantine_open(fd, UNPACKED_IN_PART)
                report.quarantined += 1
            elif report.files == report.skipped == 1 and not report.sound:
                importer.quarantine_open(fd, _MEDIA_INCOMPLETE)
                report.quarantined += 1
        finally:
            result.report.add(report)

    def _remove(self, name: str, folder: int, state: os.stat_result) -> bool:
        """Takes a file out of the inbox, and only this one: not what was put in its place a moment ago."""
        mine = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        passage = os.open(self._top / TAKEN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            moved = secrets.token_hex(16)
            os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=passage)
            if _identity(moved, passage) == mine:  # else it stays there, for the next pass
                os.unlink(moved, dir_fd=passage)
        except OSError as error:
            if error.errno == errno.EXDEV and _identity(name, folder) == mine:
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder)
                    return True
            return error.errno == errno.ENOENT
        finally:
            os.close(passage)
        return True


def is_left_alone(name: str) -> bool:
    """Whether a name says that the file is hidden or still being written."""
    return name.startswith(".") or name.lower().endswith(UNFINISHED)


def is_written(fd: int) -> bool:
    """Whether anybody has the file open for writing.

    Args:
        fd: the file, opened for reading only.

    Returns:
        False also where the system can't tell: network file systems, files of other owners (fcntl(2),
        F_SETLEASE).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default; SIGIO would end the process
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def count_waiting(root: DataRoot) -> dict[str, int]:
    """What lies in the inbox at this moment: files that will be taken, and those that are left alone."""
    result = Pass()
    for _, _, files, _ in _walk(root.inbox.resolve(), result):
        alone = sum(map(is_left_alone, files))
        result.left_alone += alone
        result.waiting += len(files) - alone
    return {"waiting": result.waiting, "left_alone": result.left_alone, "unreadable": result.unreadable}


@contextmanager
def hold_inbox(root: DataRoot) -> Iterator[None]:
    """Holds the right to empty the inbox; the kernel drops it when the process dies.

    Raises:
        Busy: somebody else does it.
    """
    make_directory(root.inbox_lock.parent)
    fd = os.open(root.inbox_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{root.inbox}: a running service empties it already") from None
        yield
    finally:
        os.close(fd)


def _walk(top: Path, result: Pass) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Folders from above, as descriptors that no link can lead astray; unreadable ones are counted."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            result.unreadable += 1

    for folder, folders, files, fd in os.fwalk(top, onerror=unreadable, follow_symlinks=False):
        at_top = folder == str(top)
        folders[:] = sorted(f for f in folders if not f.startswith(".") or (at_top and f == TAKEN))
        yield folder, folders, files, fd


def _key(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _identity(name: str, folder: int) -> tuple[int, int, int, int]:
    state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _holds_others(folder: Path, folders: list[str], files: list[str]) -> bool:
    """Whether a medium is still being taken: its directory is looked at when all the rest has left."""
    if sum(not is_left_alone(name) for name in files) > 1:
        return True
    trees = (os.walk(folder / name) for name in folders if name != TAKEN)
    return any(not is_left_alone(name) for tree in trees for _, _, names in tree for name in names)


def _remove_empty(folders: list[str], parent: int) -> None:
    for name in list(folders):
        with suppress(OSError):  # it is not empty, or gone
            age = time.time() - os.stat(name, dir_fd=parent, follow_symlinks=False).st_mtime
            if name != TAKEN and age > _EMPTY_SECONDS:
                os.rmdir(name, dir_fd=parent)
                folders.remove(name)
