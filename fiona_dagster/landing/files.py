"""Files that appear complete or not at all, and stay after a power loss."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fiona_dagster.errors import StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})
_NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})
HERE = -100
"""In place of an open folder: names are paths (``AT_FDCWD``)."""
_RENAME_NOREPLACE = 1


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
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def _renameat2(source_fd: int, source: str, target_fd: int, target: str) -> int:
    if _RENAMEAT2 is None:
        return errno.ENOSYS
    encoded = source.encode(_ENCODING, _ERRORS), target.encode(_ENCODING, _ERRORS)  # os.fsencode, less a call
    result = _RENAMEAT2(source_fd, encoded[0], target_fd, encoded[1], _RENAME_NOREPLACE)
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
