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
from fiona_dagster.landing.flush import flush_data

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})
_NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
HERE = -100
"""In place of an open folder: names are paths (``AT_FDCWD``)."""
_RENAME_NOREPLACE = 1
_MAX_VECTORS = 512
_WRITE_BACK_EVERY = 4 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2


@contextmanager
def room_errors(where: Path) -> Iterator[None]:
    """Turns "no space", "quota", "read-only" and the like into :class:`StorageFull`."""
    try:
        yield
    except OSError as error:
        raise as_room_error(error, where) from None


def as_room_error(error: OSError, where: Path) -> OSError | StorageFull:
    """The error itself, or :class:`StorageFull` if it is one of those."""
    if error.errno in _NO_ROOM:
        return StorageFull(f"{where}: can't be written ({error.strerror}); make room and send again")
    return error


def sync_directory(path: Path) -> None:
    """Flushes the entries of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, *, flushed: bool = True) -> None:
    """Makes a directory and its parents with mode 0700 and flushes every new entry if asked to."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        if flushed:
            sync_directory(folder.parent)


_LIBC = ctypes.CDLL(None, use_errno=True)
_RENAMEAT2 = getattr(_LIBC, "renameat2", None)
_SYNC_FILE_RANGE = getattr(_LIBC, "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _renameat2(source_fd: int, source: str, target_fd: int, target: str) -> int:
    if _RENAMEAT2 is None:
        return errno.ENOSYS
    result = _RENAMEAT2(source_fd, os.fsencode(source), target_fd, os.fsencode(target), _RENAME_NOREPLACE)
    return ctypes.get_errno() if result else 0


def rename_new_at(source_fd: int, source: str, target_fd: int, target: str) -> bool:
    """Renames without ever replacing.

    Args:
        source_fd: open folder of an existing file; ``HERE`` for a path.
        source: its name there.
        target_fd: open folder on the same file system; ``HERE`` for a path.
        target: its new name there.

    Returns:
        False if ``target`` exists already; ``source`` is then still there.

    Raises:
        OSError: any other failure.
    """
    code = _renameat2(source_fd, source, target_fd, target)
    if code in _NOT_SUPPORTED:
        ends = {"src_dir_fd": _plain(source_fd), "dst_dir_fd": _plain(target_fd)}
        try:
            os.link(source, target, **ends, follow_symlinks=False)
        except FileExistsError:
            return False
        os.unlink(source, dir_fd=_plain(source_fd))
        return True
    if code == errno.EEXIST:
        return False
    if code:
        raise OSError(code, os.strerror(code), target)
    return True


def _plain(fd: int) -> int | None:
    """A folder's descriptor as the functions of ``os`` take it."""
    return None if fd == HERE else fd


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
    return rename_new_at(HERE, str(source), HERE, str(target))


class NewFile:
    """A file in the making: hidden and unfinished until somebody renames it.

    Args:
        folder: where it is made.
        folder_fd: the same, open.
        name: its name there.
        flushed: :meth:`commit` flushes.

    Attributes:
        folder_fd: see above.
        name: see above.
        size: bytes written so far.
    """

    def __init__(self, folder: Path, folder_fd: int, name: str, *, flushed: bool) -> None:
        self.folder_fd = folder_fd
        self.name = name
        self.size = 0
        self._folder = folder
        self._flushed = flushed
        self._written_back = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(name, flags, 0o600, dir_fd=folder_fd)

    @property
    def path(self) -> Path:
        """Where it was made."""
        return self._folder / self.name

    def fileno(self) -> int:
        """The descriptor, for copies inside the kernel; who uses it adds to ``size``."""
        return self._fd

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Appends all parts.

        Raises:
            StorageFull: no room.
        """
        try:
            for at in range(0, len(parts), _MAX_VECTORS):
                self._write(list(parts[at : at + _MAX_VECTORS]))
        except OSError as error:
            raise as_room_error(error, self._folder) from None
        if self._flushed and self.size - self._written_back >= _WRITE_BACK_EVERY:
            self._write_back()

    def _write(self, parts: list[bytes | memoryview]) -> None:
        wanted = sum(map(len, parts))
        self.size += wanted
        written = os.writev(self._fd, parts)
        while written < wanted:  # a short write: signals, or the last block of a full disk
            rest = b"".join(parts)[written:]
            parts, wanted = [rest], len(rest)
            written = os.writev(self._fd, parts)

    def _write_back(self) -> None:
        """Has the disk begin with a large object while the rest of it still comes in.

        A hint only, and its result is of no interest: :meth:`commit` flushes, and reports what failed.
        """
        if _SYNC_FILE_RANGE is not None:
            length = self.size - self._written_back
            _SYNC_FILE_RANGE(self._fd, self._written_back, length, _SYNC_FILE_RANGE_WRITE)
        self._written_back = self.size

    def commit(self) -> None:
        """Flushes the bytes to the disk and closes; the name may change afterwards.

        A file whose flush failed must be thrown away: the kernel may have dropped what it could not
        write, and a second flush would not say so.

        Raises:
            StorageFull: no room (some file systems only say so now).
        """
        try:
            if self._flushed:
                flush_data(self._fd)
            self._close()  # some file systems say only now what they could not write
        except OSError as error:
            self._abandon()
            raise as_room_error(error, self._folder) from None

    def discard(self) -> None:
        """Closes and removes the file if it is still under its first name.

        A disk that can't be written any more keeps it until its workshop is cleared.
        """
        self._abandon()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _abandon(self) -> None:
        """Closes a file that is thrown away: whether its bytes reached the disk is of no interest."""
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        # The number is free after any close, also one that failed, and may be somebody else's a moment later.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


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

    def new_file(self, *, flushed: bool = True) -> NewFile:
        """A new empty file.

        Args:
            flushed: whether its bytes are flushed when it is complete.

        Raises:
            StorageFull: no room, no inodes or no descriptors.
        """
        try:
            return NewFile(self.path, self._fd, f"{next(self._numbers)}.part", flushed=flushed)
        except OSError as error:
            raise as_room_error(error, self.path) from None

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
