"""Which instances a study's archive folder holds, known without listing it for every arrival.

Two files with one SOP Instance UID are the same instance even if their Modality, and with it the prefix of
their name, differs. So processes tell each other of the prefixes of a study through a small file that is also
their lock: who holds it knows all prefixes there are, looks whether the instance is there under another one,
and nobody else renames. Most studies have one prefix, and then there is nothing to look for: the name itself
is taken by a rename that never replaces. Whoever files under the only prefix there is shares the lock with
others who do the same.

A prefix is announced before its first file is renamed, by that name. A name behind ``!`` is in doubt: the
flush of its directory entry failed. The same name without it ends the doubt: another file took its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing.files import make_directory, sync_directory
from fiona_dagster.landing.flush import GroupFlush, flush_entries

_MAX_STUDIES = 64
_DOUBT = "!"
_SPOILT = b"?\n"
"""Ends a line that a full disk or a crash has cut, so that nobody takes it for a shorter name."""
Appear = Callable[[int, str], bool]
_PREFIX = re.compile(r"[A-Z0-9]{1,16}")


class _Lock:
    """The file of names as one thread has opened it: a lock on it excludes other threads as well."""

    def __init__(self, path: Path, shared: int) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if not os.path.samestat(os.fstat(self.fd), os.fstat(shared)):
            raise FileNotFoundError(errno.ENOENT, "the file of names was removed, and made anew", str(path))

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)


class _Locks(threading.local):
    """That of each thread; closed when the thread ends."""

    def __init__(self, path: Path, shared: int) -> None:
        self.mine = _Lock(path, shared)


class StudyNames:
    """The archive folder of one study, open. As a context: alone with it, among threads and processes.

    Args:
        root: the data root.
        study: StudyInstanceUID.
        flushed: whether what happens here is flushed.

    Attributes:
        folder: its path.
        fd: the same, open.
    """

    def __init__(self, root: DataRoot, study: str, *, flushed: bool = True) -> None:
        self.folder = root.archive / f"scp_{study}"
        self._flushed = flushed
        make_directory(self.folder, flushed=flushed)
        if flushed:
            sync_directory(root.archive)  # whoever made the folder may not have flushed its name yet
        make_directory(root.locks, flushed=flushed)
        self._prefixes: set[str] = set()
        self._announced: set[str] = set()
        self._doubtful: set[str] = set()
        self._unflushed: set[tuple[str, int]] = set()
        self._read = 0
        self._torn = False
        self._listed = False
        self._only = ""
        self._flush = GroupFlush(flush_entries)
        self.fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        prefix = f"{root.site_name}." if root.site_name else ""
        path = root.locks / f"{prefix}{study}.names"
        self._fd = os.open(path, flags, 0o600)
        self._locks = _Locks(path, self._fd)

    def __del__(self) -> None:
        for fd in (getattr(self, "fd", -1), getattr(self, "_fd", -1)):
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> StudyNames:
        fcntl.flock(self._locks.mine.fd, fcntl.LOCK_EX)
        try:
            self._catch_up()
        except BaseException:
            fcntl.flock(self._locks.mine.fd, fcntl.LOCK_UN)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._locks.mine.fd, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size > self._read or not self._listed:
            *lines, rest = os.pread(self._fd, size - self._read, self._read).split(b"\n")
            for line in lines:
                self._remember(line.decode("ascii", "replace"))
            self._torn = bool(rest)
            self._read = size - len(rest)
        if not self._listed:
            for name in os.listdir(self.fd):  # noqa: PTH208 - the open folder, whatever its path means now
                prefix, instance = _parts(name)
                if instance:
                    self._prefixes.add(prefix)
            self._listed = True
            self._settle()

    def _settle(self) -> None:
        """Notes the only prefix that is known, if all others know it: under the lock, there is no other."""
        alone = self._listed and len(self._prefixes) == len(self._announced) == 1
        self._only = min(self._announced) if alone else ""

    def _remember(self, line: str) -> None:
        prefix, instance = _parts(line.removeprefix(_DOUBT))
        if not instance:
            return  # also what a power loss has left of a line
        self._prefixes.add(prefix)
        self._announced.add(prefix)
        self._settle()
        if line.startswith(_DOUBT):
            self._doubtful.add(instance)
        else:
            self._doubtful.discard(instance)

    def find(self, instance: str, *, but: str = "") -> str | None:
        """The file name of an instance that is there, whatever its prefix. Only as a context.

        Args:
            instance: SOP Instance UID.
            but: a prefix that is not looked for.
        """
        others = sorted(self._prefixes - {but})
        return next((name for prefix in others if self._is_there(name := f"{prefix}.{instance}")), None)

    def _is_there(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def is_doubtful(self, instance: str) -> bool:
        """Whether the flush of its directory entry failed: a later one does not vouch for it."""
        return instance in self._doubtful

    def is_unflushed(self, instance: str) -> bool:
        """Whether the flush of its directory entry is still to come, and may fail."""
        return any(instance == other for other, _ in list(self._unflushed))

    def place(self, appear: Appear, name: str) -> str | None:
        """Lets a file appear here, unless its instance is here already.

        Args:
            appear: gives the file a name in an open folder; False, and nothing is changed, if that is taken.
            name: its name here.

        Returns:
            The name under which the instance is here already, and the file was left where it was; None if the
            file has taken its name.
        """
        prefix, _, instance = name.partition(".")
        if prefix != self._only:
            return self._place_alone(appear, name)
        lock = self._locks.mine.fd
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            if os.lseek(lock, 0, os.SEEK_END) == self._read and prefix == self._only:
                if not appear(self.fd, name):
                    return name
                self._taken(name, instance)
                return None
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        return self._place_alone(appear, name)

    def _place_alone(self, appear: Appear, name: str) -> str | None:
        prefix, _, instance = name.partition(".")
        with self:
            if prefix not in self._announced:  # maybe in the folder, where others had looked before
                self._announce(name)
            there = self.find(instance, but=prefix) if len(self._prefixes) > 1 else None
            if there is None and not appear(self.fd, name):
                there = name
            if there is None:
                self._taken(name, instance)
        return there

    def _taken(self, name: str, instance: str) -> None:
        """A file has just got its name, by an entry that is not flushed yet."""
        if instance in self._doubtful:  # that was another file, or an entry that a power loss took back
            self._announce(name)
        if self._flushed:
            self._unflushed.add((instance, threading.get_ident()))

    def replace(self, source_fd: int, source: str, name: str) -> None:
        """Puts the same object once more in place of a file that is in doubt. Only as a context."""
        os.replace(source, name, src_dir_fd=source_fd if source_fd >= 0 else None, dst_dir_fd=self.fd)
        self._taken(name, name.partition(".")[2])

    def _announce(self, line: str) -> None:
        """Tells all who file into this study; they read it, as we do, before their next name."""
        whole = (_SPOILT if self._torn else b"") + line.encode("ascii") + b"\n"
        if os.write(self._fd, whole) < len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        self._remember(line)

    def _doubt(self, name: str) -> None:
        """What we know holds for us, whether or not the disk takes it for the others."""
        self._doubtful.add(name.partition(".")[2])
        with self:  # which catches up with what was said before
            self._remember(_DOUBT + name)
            self._announce(_DOUBT + name)

    def flush_entries(self) -> None:
        """Flushes all entries; one flush serves everybody who waits. To be followed by :meth:`flush`.

        Raises:
            OSError: the flush failed.
        """
        self._flush(self.fd)

    def flush(self, name: str, flush: Callable[[], None] | None = None) -> None:
        """Flushes all entries; one flush serves everybody who waits.

        Args:
            name: the file that this is about; it is in doubt if the flush fails.
            flush: waits for :meth:`flush_entries`, which was begun elsewhere.

        Raises:
            OSError: the flush failed.
        """
        if not self._flushed:
            return
        try:
            (flush or self.flush_entries)()
        except OSError:
            self._doubt(name)
            raise
        finally:
            self._unflushed.discard((name.partition(".")[2], threading.get_ident()))


def _parts(name: str) -> tuple[str, str]:
    """Prefix and SOP Instance UID of a file's name; the latter is empty if it is none of ours."""
    prefix, _, instance = name.partition(".")
    return (prefix, instance) if _PREFIX.fullmatch(prefix) and is_uid(instance) else ("", "")


class NamesCache:
    """The studies that this process is filing; the least recently used ones are forgotten."""

    def __init__(self, root: DataRoot, *, flushed: bool = True) -> None:
        self._root = root
        self._flushed = flushed
        self._mutex = threading.Lock()
        self._studies: OrderedDict[str, StudyNames] = OrderedDict()

    def of(self, study: str) -> StudyNames:
        """The names of one study."""
        with self._mutex:
            names = self._studies.get(study)
            if names is None:
                names = self._studies[study] = StudyNames(self._root, study, flushed=self._flushed)
            self._studies.move_to_end(study)
            while len(self._studies) > _MAX_STUDIES:
                self._studies.popitem(last=False)
            return names

    def forget(self, study: str) -> None:
        """Reads this study anew the next time; its folder was removed by somebody."""
        with self._mutex:
            self._studies.pop(study, None)
