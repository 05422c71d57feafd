"""Files that appear complete or not at all, and stay after a power loss."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fiona_dagster.errors import StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})
_NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_MAX_VECTORS = 512


@contextmanager
def room_errors(where: Path) -> Iterator[None]:
    """Turns "no space", "quota", "read-only" and the like into :class:`StorageFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(
                f"{where}: can't be written ({error.strerror}); make room and send again"
            ) from None
        raise


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Makes a directory and its parents with mode 0700 and flushes every new entry."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_directory(folder.parent)


def _renameat2(source: Path, target: Path) -> int:
    function = getattr(_LIBC, "renameat2", None)
    if function is None:
        return errno.ENOSYS
    result = function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    return ctypes.get_errno() if result else 0


_LIBC = ctypes.CDLL(None, use_errno=True)


def rename_new(source: Path, target: Path) -> bool:
    """Renames without ever replacing.

    Args:
        source: an existing file.
        target: its new name on the same file system.

    Returns:
        False if ``target`` exists already; ``source`` is then still there.

    Raises:
        OSError: any other failure.
    """
    code = _renameat2(source, target)
    if code in _NOT_SUPPORTED:
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        source.unlink()
        return True
    if code == errno.EEXIST:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(target))
    return True


class NewFile:
    """A file in the making: hidden and unfinished until somebody renames it.

    Attributes:
        path: where it is now.
        size: bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        """The descriptor, for copies inside the kernel; who uses it adds to ``size``."""
        return self._fd

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Appends all parts.

        Raises:
            StorageFull: no room.
        """
        with room_errors(self.path):
            for at in range(0, len(parts), _MAX_VECTORS):
                self._write(list(parts[at : at + _MAX_VECTORS]))

    def _write(self, parts: list[bytes | memoryview]) -> None:
        wanted = sum(len(part) for part in parts)
        self.size += wanted
        written = os.writev(self._fd, parts)
        while written < wanted:  # a short write: signals, or the last block of a full disk
            rest = b"".join(parts)[written:]
            parts, wanted = [rest], len(rest)
            written = os.writev(self._fd, parts)

    def commit(self) -> None:
        """Flushes the bytes to the disk and closes; the name may change afterwards.

        Raises:
            StorageFull: no room (some file systems only say so now).
        """
        with room_errors(self.path):
            try:
                os.fsync(self._fd)
            finally:
                self._close()

    def discard(self) -> None:
        """Closes and removes the file if it is still under its first name."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Workshop:
    """A hidden folder of this process below the archive, where files are made.

    The process holds a flock on its folder for as long as it lives, so that another one can tell a
    dead folder from a living one (:func:`clear_workshops`).

    Args:
        parent: folder of all workshops, on the file system of the archive.
    """

    def __init__(self, parent: Path) -> None:
        self._numbers = itertools.count(1)
        make_directory(parent)
        while True:
            self.path = parent / f"{os.getpid()}-{secrets.token_hex(4)}"
            self.path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # cleared between its making and its lock: once more
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                if self.path.is_dir():
                    return
                os.close(self._fd)

    def new_file(self) -> NewFile:
        """A new empty file.

        Raises:
            StorageFull: no room, no inodes or no descriptors.
        """
        with room_errors(self.path):
            return NewFile(self.path / f"{next(self._numbers)}.part")

    def close(self) -> None:
        """Removes the folder with everything unfinished in it."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def clear_workshops(parent: Path) -> int:
    """Removes the workshops of processes that are gone.

    Returns:
        Number of unfinished files that were removed.
    """
    removed = 0
    for folder in list(parent.iterdir()) if parent.is_dir() else []:
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                removed += len(list(folder.iterdir()))
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(fd)
    return removed


def dead_workshops(parent: Path) -> list[Path]:
    """The workshops of processes that are gone; see :func:`clear_workshops`."""
    dead = []
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        with suppress(FileNotFoundError, NotADirectoryError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                dead.append(folder)
            except BlockingIOError:
                continue
            finally:
                os.close(fd)
    return dead


def check_room(path: Path, reserve: int) -> None:
    """Makes sure that the reserve is still free.

    Args:
        path: any place on the file system.
        reserve: bytes that must stay free for others.

    Raises:
        StorageFull: less is free, or there are no inodes left.
    """
    state = os.statvfs(path)
    free = state.f_bavail * state.f_frsize
    if free < reserve or (state.f_files and not state.f_favail):
        raise StorageFull(
            f"{path}: {free // 2**20} MiB free, below receiver.reserve_mb ({reserve // 2**20}); make room"
        )
