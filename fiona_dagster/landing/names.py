"""Which instances a study's archive folder holds, known without listing it for every arrival.

Two files with one SOP Instance UID are the same instance even if their Modality, and with it their name,
differs. So each process keeps the names of the studies it is filing; processes tell each other of new names
through a small file that is also their lock: who holds it sees every name there is, and nobody else renames.
A name is announced before its rename. An announced name without a file (killed in between) means nothing.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing.files import make_directory, sync_directory

_MAX_STUDIES = 64


class StudyNames:
    """The archive folder of one study. Use it only inside :meth:`locked`."""

    def __init__(self, root: DataRoot, study: str) -> None:
        self.folder = root.archive / f"scp_{study}"
        make_directory(self.folder)
        sync_directory(root.archive)  # whoever made the folder may not have flushed its name yet
        make_directory(root.locks)
        self._mutex = threading.Lock()
        self._names: dict[str, str] = {}
        self._read = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(root.locks / f"{study}.names", flags, 0o600)
        self._listed = False

    def __del__(self) -> None:
        fd = getattr(self, "_fd", -1)
        if fd >= 0:
            os.close(fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with this folder, among the threads and processes that file objects."""
        with self._mutex:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                self._catch_up()
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        size = os.fstat(self._fd).st_size
        if not self._listed:
            self._listed = True
            for name in os.listdir(self.folder):  # noqa: PTH208
                self._remember(name)
        elif size > self._read:
            for line in os.pread(self._fd, size - self._read, self._read).split(b"\n"):
                self._remember(line.decode("ascii", "replace"))
        self._read = size

    def _remember(self, name: str) -> None:
        prefix, _, instance = name.partition(".")
        if prefix and is_uid(instance):
            self._names[instance] = name

    def find(self, instance: str) -> str | None:
        """The file name of an instance that is there, whatever its prefix."""
        name = self._names.get(instance)
        if name is not None and not (self.folder / name).exists():
            del self._names[instance]
            return None
        return name

    def announce(self, name: str) -> None:
        """Says that a file of this name is about to appear."""
        line = name.encode("ascii") + b"\n"
        self._read += os.write(self._fd, line)
        self._remember(name)


class NamesCache:
    """The studies that this process is filing; the least recently used ones are forgotten."""

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._mutex = threading.Lock()
        self._studies: OrderedDict[str, StudyNames] = OrderedDict()

    def of(self, study: str) -> StudyNames:
        """The names of one study."""
        with self._mutex:
            names = self._studies.get(study)
            if names is None:
                names = self._studies[study] = StudyNames(self._root, study)
            self._studies.move_to_end(study)
            while len(self._studies) > _MAX_STUDIES:
                self._studies.popitem(last=False)
            return names

    def forget(self, study: str) -> None:
        """Reads this study anew the next time; its folder was removed by somebody."""
        with self._mutex:
            self._studies.pop(study, None)
