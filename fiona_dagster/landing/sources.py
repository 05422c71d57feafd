"""Reading what people point at: files and folders, told apart by content; never a pipe that blocks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fiona_dagster.errors import UsageError
from fiona_dagster.landing.bare import looks_bare
from fiona_dagster.landing.files import room_errors
from fiona_dagster.landing.workshop import NewFile

CHUNK = 16 * 1024 * 1024
HEAD = 512
"""Bytes that tell what a file is; see :func:`kind_of`."""

_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})

_MAGIC = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (0, b"Rar!\x1a\x07", "RAR"),
    (257, b"ustar", "tar"),
)


class SourceError(Exception):
    """The source can't be read; says why, without its name."""


class SourceChanged(SourceError):
    """The source changed while it was read."""


def kind_of(head: bytes) -> str:
    """What a file is by its first :data:`HEAD` bytes; its name does not count.

    Returns:
        ``dicom`` (the prefix stands where PS3.10 section 7.1 wants it, whatever the preamble looks like),
        ``bare`` (perhaps DICOM without that prefix), ``zip``, the name of another kind of archive, or an
        empty text.
    """
    if head[128:132] == b"DICM":
        return "dicom"
    if looks_bare(head):
        return "bare"
    return next((kind for at, magic, kind in _MAGIC if head.startswith(magic, at)), "")


def walk(paths: Iterable[Path], unreadable: Callable[[OSError], object] = lambda _: None) -> Iterator[Path]:
    """Every file in ``paths`` and below them, in a stable order; links to folders are not followed.

    Args:
        paths: files and folders.
        unreadable: told of every folder that can't be listed; the walk goes on.

    Raises:
        UsageError: a path that does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path, onerror=unreadable):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(files))


def survey(paths: Iterable[Path]) -> tuple[int, int]:
    """How many regular files there are in ``paths`` and below, and their bytes; for a progress bar."""
    files = size = 0
    for path in walk(paths):
        try:
            state = path.stat()
        except OSError:
            continue  # counted as unreadable when its turn comes
        if stat.S_ISREG(state.st_mode):
            files += 1
            size += state.st_size
    return files, size


def open_regular(path: Path | str, *, dir_fd: int | None = None, follow: bool = True) -> int | None:
    """Opens a regular file for reading; None if it is something else (a pipe would block for ever).

    Args:
        path: the file.
        dir_fd: folder that ``path`` is relative to.
        follow: whether a symbolic link may lead to it.

    Raises:
        SourceError: it can't be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) and not follow:  # a link, a socket
            return None
        raise SourceError(f"can't be read ({error.strerror})") from None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def read_head(fd: int) -> bytes:
    """The first :data:`HEAD` bytes of an open file.

    Raises:
        SourceError: they can't be read.
    """
    try:
        return os.pread(fd, HEAD, 0)
    except OSError as error:
        raise SourceError(f"can't be read ({error.strerror})") from None


def copy_open(fd: int, new: NewFile, tick: Callable[[int], None]) -> None:
    """Copies an open file from its start, inside the kernel where that is possible.

    Args:
        fd: the file.
        new: the bytes are appended to it.
        tick: told how many bytes came, again and again.

    Raises:
        SourceError: the source can't be read.
        StorageFull: no room for the copy.
    """
    try:
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        raise SourceError(f"can't be read ({error.strerror})") from None
    if _copy_in_kernel(fd, new, tick):
        return
    while chunk := _read(fd):
        new.write([chunk])
        tick(len(chunk))


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError as error:
        raise SourceError(f"can't be read ({error.strerror})") from None


def _copy_in_kernel(fd: int, new: NewFile, tick: Callable[[int], None]) -> bool:
    """Lets the kernel copy; False if it can't, or has copied nothing of what is there."""
    begun = new.size
    with room_errors(new.path):
        while True:
            try:
                count = os.copy_file_range(fd, new.fileno(), CHUNK)
            except OSError as error:
                if new.size == begun and error.errno in _NO_KERNEL_COPY:
                    return False
                if error.errno == errno.EIO:
                    raise SourceError("can't be read (input/output error)") from None
                raise
            if count == 0:
                return new.size > begun  # some file systems say 0 for "not supported": let read() decide
            new.size += count
            tick(count)
