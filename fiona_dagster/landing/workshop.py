"""Where files are made: hidden, on the archive's file system, unfinished until somebody gives them a name.

What comes by the network is made without any name where the file system can do that (``O_TMPFILE``): it gets
the only one that it ever has when it is complete. That costs one change of names less than a rename, and
leaves nothing behind when the process dies.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.files import as_room_error, make_directory, rename_new_at
from fiona_dagster.landing.flush import flush_data

_MAX_VECTORS = 512
_WRITE_BACK_EVERY = 4 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_FSTATFS = ctypes.CDLL(None).fstatfs
_FUSE = 0x65735546
"""Says only when a file is closed what it could not write; one without a name is open until it has one."""


def workshops(root: DataRoot) -> Path:
    """Folder of unfinished files, hidden and on the file system of the archive."""
    return root.archive / ".incoming"


class NewFile:
    """A file in the making: hidden and unfinished until somebody renames it.

    Args:
        folder: where it is made.
        folder_fd: the same, open.
        name: its name there, or the one that it takes if need be.
        flushed: :meth:`commit` flushes.
        nameless: without a name, until :meth:`appear` or :meth:`take_name`.

    Attributes:
        folder_fd: see above.
        name: see above.
        size: bytes written so far.
    """

    def __init__(
        self, folder: Path, folder_fd: int, name: str, *, flushed: bool, nameless: bool = False
    ) -> None:
        self.folder_fd = folder_fd
        self.name = name
        self.size = 0
        self._folder = folder
        self._flushed = flushed
        self._nameless = nameless
        self._written_back = 0
        if nameless:
            self._fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(name, flags, 0o600, dir_fd=folder_fd)

    @property
    def path(self) -> Path:
        """Where it was made; without a name, nothing is there."""
        return self._folder / self.name

    @property
    def is_lost(self) -> bool:
        """Whether somebody has removed it."""
        return not self._nameless and not self.path.exists()

    def fileno(self) -> int:
        """The descriptor, for copies inside the kernel; who uses it adds to ``size``."""
        return self._fd

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Appends all parts.

        Raises:
            StorageFull: no room.
        """
        try:
            if len(parts) <= _MAX_VECTORS:
                self._write(parts)
            else:
                for at in range(0, len(parts), _MAX_VECTORS):
                    self._write(parts[at : at + _MAX_VECTORS])
        except OSError as error:
            raise as_room_error(error, self._folder) from None
        if self._flushed and self.size - self._written_back >= _WRITE_BACK_EVERY:
            self._write_back()

    def _write(self, parts: Sequence[bytes | memoryview]) -> None:
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
        """Flushes the bytes to the disk and closes, if it has a name; the name may change afterwards.

        A file whose flush failed must be thrown away: the kernel may have dropped what it could not
        write, and a second flush would not say so.

        Raises:
            StorageFull: no room (some file systems only say so now).
        """
        try:
            if self._flushed:
                flush_data(self._fd)
            if not self._nameless:
                self._close()  # some file systems say only now what they could not write
        except OSError as error:
            self._abandon()
            raise as_room_error(error, self._folder) from None

    def appear(self, folder_fd: int, name: str) -> bool:
        """Gives a complete file its name elsewhere on its file system, unless that is taken.

        Args:
            folder_fd: an open folder.
            name: its name there.

        Returns:
            False if the name exists already; nothing has changed then.

        Raises:
            OSError: any other failure.
        """
        if not self._nameless:
            return rename_new_at(self.folder_fd, self.name, folder_fd, name)
        try:
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=folder_fd)
        except FileExistsError:
            return False
        self._nameless = False
        self._close()
        return True

    def take_name(self) -> None:
        """Gives a complete file its name where it was made, for those who need its path."""
        if self._nameless:
            self.appear(self.folder_fd, self.name)

    def discard(self) -> None:
        """Closes and removes the file if it is still under its first name.

        A disk that can't be written any more keeps it until its workshop is cleared.
        """
        self._abandon()
        if self._nameless:
            return
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
    dead folder from a living one (:func:`dead_workshop`).

    Args:
        parent: folder of all workshops, on the file system of the archive.
    """

    def __init__(self, parent: Path) -> None:
        self._numbers = itertools.count(1)
        make_directory(parent)
        while True:
            self.path = parent / f"{os.getpid()}-{os.urandom(4).hex()}"
            self.path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # cleared between its making and its lock: once more
                self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                if self.path.is_dir():
                    self._nameless = self._may_be_nameless()
                    return
                os.close(self._fd)

    def _may_be_nameless(self) -> bool:
        """Whether this file system makes files without names, and this system lets them have one later."""
        kind = (ctypes.c_long * 32)()
        if _FSTATFS(self._fd, kind) or kind[0] == _FUSE:
            return False
        try:
            probe = NewFile(self.path, self._fd, "probe", flushed=False, nameless=True)
        except OSError:
            return False
        try:
            probe.take_name()
        except OSError:
            return False
        finally:
            probe.discard()
        return True

    def new_file(self, *, flushed: bool = True, nameless: bool = False) -> NewFile:
        """A new empty file.

        Args:
            flushed: whether its bytes are flushed when it is complete.
            nameless: without a name, where that can be had; nobody asks for its path before it has taken one.

        Raises:
            StorageFull: no room, no inodes or no descriptors.
        """
        try:
            name = f"{next(self._numbers)}.part"
            return NewFile(self.path, self._fd, name, flushed=flushed, nameless=nameless and self._nameless)
        except OSError as error:
            raise as_room_error(error, self.path) from None

    def close(self) -> None:
        """Removes the folder with everything unfinished in it."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


@contextmanager
def dead_workshop(folder: Path) -> Iterator[bool]:
    """Whether the process that worked in a folder is gone; if so, nobody else looks at it meanwhile."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def dead_workshops(root: DataRoot) -> list[Path]:
    """Folders of unfinished files whose processes are gone."""
    parent = workshops(root)
    dead = []
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        with dead_workshop(folder) as is_dead:
            if is_dead:
                dead.append(folder)
    return dead


def clear_workshops(root: DataRoot) -> int:
    """Removes the workshops of processes that are gone; nobody was told Success for what is in there.

    Returns:
        Number of unfinished files that were removed.
    """
    removed = 0
    for folder in sorted(workshops(root).iterdir()) if workshops(root).is_dir() else []:
        with suppress(FileNotFoundError), dead_workshop(folder) as is_dead:
            if is_dead:
                removed += len(list(folder.iterdir()))  # not there: another process has just removed it
                shutil.rmtree(folder, ignore_errors=True)
    return removed
