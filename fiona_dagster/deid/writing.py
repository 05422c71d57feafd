"""Puts a copy on disk: header bytes, and pixel data that the kernel copies from file to file.

Belongs here: that a copy is under its name whole or not at all. Stays out: what stands in it, and flushing
the copies of a study (``flushing``).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fiona_dagster.deid.elements import FileRange
from fiona_dagster.deid.files import became_shorter, from_disk

_STEP = 64 << 20
_PIPE, _PIPED_FROM = 1 << 20, 1 << 18
"""Bytes of a pipe (the most that a user gets by default, pipe(7)), and of ranges that are worth one."""
_JOINED = 1 << 18
_MAPPED = 8 << 20
"""Bytes of a mapped file that are written at once."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_NO_KERNEL_COPY = frozenset((errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM))
"""File systems between which, or kernels in which, it does not work: copy_file_range(2), splice(2)."""


@contextmanager
def part_of(target: Path, *, flush: bool = True) -> Iterator[int]:
    """A descriptor of a new file that becomes ``target`` when the block ends well, and vanishes otherwise."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    descriptor = os.open(part, _NEW, 0o600)
    try:
        try:
            yield descriptor
            if flush:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write(
    target: int,
    pieces: Iterable[bytes | memoryview | FileRange],
    source: int,
    release: Callable[[], None] = lambda: None,
) -> int:
    """Writes pieces one after the other; the number of bytes.

    Args:
        target: descriptor, open for writing at its end.
        pieces: bytes, and ranges of the original.
        source: descriptor of the original.
        release: gives memory back that pieces which were written took.

    Raises:
        OriginalUnavailable: the disk does not give it, or it ends before a range does.
    """
    small: list[bytes | memoryview] = []
    waiting = size = 0
    for piece in pieces:
        if isinstance(piece, FileRange):
            _make_room(target, size + len(piece))
            _all(target, b"".join(small))
            small, waiting = [], 0
            _range(target, piece, source)
        else:
            if waiting + len(piece) > _JOINED:
                _all(target, b"".join(small))
                small, waiting = [], 0
            if len(piece) > _JOINED:
                for at in range(0, len(piece), _MAPPED):
                    _all(target, piece[at : at + _MAPPED])
                    release()
            else:
                small.append(piece)
                waiting += len(piece)
        size += len(piece)
    _all(target, b"".join(small))
    return size


_LIBC = ctypes.CDLL(None, use_errno=True)
_FALLOCATE = getattr(_LIBC, "fallocate", None)
if _FALLOCATE is not None:
    _FALLOCATE.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_KEEP_SIZE = 1


def _make_room(target: int, size: int) -> None:
    """Blocks for a whole file at once, which takes the disk less than one by one (fallocate(2)).

    No more than a hint: the file has no byte that was not written, and where there is no such function, or no
    room, writing goes on without or fails by itself. The C library's ``posix_fallocate`` would write zeros.
    """
    if _FALLOCATE is not None:
        _FALLOCATE(target, _KEEP_SIZE, 0, size)


def _all(target: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(target, view[:_STEP]) :]


def _range(target: int, piece: FileRange, source: int) -> None:
    done = 0
    for way in (_piped, _copied, _read):
        while done < piece.length:
            try:
                new = way(target, source, piece.start + done, piece.length - done)
            except _NotHere:
                break
            if not new:
                raise became_shorter(piece.start + done)
            done += new


class _NotHere(Exception):
    """Between these files, or in this kernel, bytes can't be copied in this way; none were."""


def _piped(target: int, source: int, start: int, length: int) -> int:
    """Moves pages of the original through a pipe into the copy, up to a MiB at once (splice(2)).

    ``copy_file_range`` does that in steps of 64 KiB, for which a file system takes nearly twice the time.
    Where no disk is below (NFS and the like), a server may copy that way, and it is left to it. The pipe
    belongs to this range alone: bytes that are left in it after an error get into no other file.
    """
    if length < _PIPED_FROM or not (_on_disk(source) and _on_disk(target)):
        raise _NotHere
    out, into = os.pipe()
    done = 0
    try:
        room = fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
        while done < length:
            with from_disk(_NO_KERNEL_COPY):
                inside = os.splice(source, into, min(room, length - done), offset_src=start + done)
            if not inside:
                raise became_shorter(start + done)
            while inside:
                moved = os.splice(out, target, inside)
                inside, done = inside - moved, done + moved
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        if not done:
            raise _NotHere from None
    finally:
        os.close(out)
        os.close(into)
    return done


def _on_disk(descriptor: int) -> bool:
    return os.major(os.fstat(descriptor).st_dev) != 0


def _copied(target: int, source: int, start: int, length: int) -> int:
    try:
        return os.copy_file_range(source, target, min(length, _STEP), start)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise _NotHere from None  # which of the two files is at fault shows when it is read


def _read(target: int, source: int, start: int, length: int) -> int:
    with from_disk():
        block = os.pread(source, min(length, _JOINED), start)
    _all(target, block)
    return len(block)
