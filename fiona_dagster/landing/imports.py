"""Files and folders through the same door as the network, byte for byte."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import FileMeta, Refusal, is_uid
from fiona_dagster.errors import UsageError
from fiona_dagster.landing.door import Landing, Visit
from fiona_dagster.landing.files import NewFile, room_errors
from fiona_dagster.landing.inspect import Inspection, inspect_file
from fiona_dagster.landing.quarantine import quarantine_file
from fiona_dagster.landing.receipt import IMPORTER

_CHUNK = 16 * 1024 * 1024
_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})


@dataclass
class ImportReport:
    """What became of the files of one import.

    Attributes:
        stored: instances that are new.
        repeats: instances that were there already with the same data set.
        conflicts: other data set under a known SOP Instance UID, kept aside.
        quarantined: files that can't be filed.
        skipped: media directories (DICOMDIR) and things that are no regular files.
        failed: files that could not even be read; nothing was kept of them.
        problems: (path, reason) of every file that was quarantined or failed.
        studies: StudyInstanceUIDs that were filed to.
    """

    stored: int = 0
    repeats: int = 0
    conflicts: int = 0
    quarantined: int = 0
    skipped: int = 0
    failed: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)

    @property
    def files(self) -> int:
        """Everything that was looked at."""
        counts = (self.stored, self.repeats, self.conflicts, self.quarantined, self.skipped, self.failed)
        return sum(counts)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able picture."""
        return {
            "files": self.files,
            "stored": self.stored,
            "repeats": self.repeats,
            "conflicts": self.conflicts,
            "quarantined": self.quarantined,
            "skipped": self.skipped,
            "failed": self.failed,
            "studies": sorted(self.studies),
            "problems": [{"path": path, "reason": reason} for path, reason in self.problems],
        }


def walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file in ``paths`` and below them, in a stable order; links to folders are not followed.

    Raises:
        UsageError: a path that does not exist.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(files))


def import_paths(
    root: DataRoot,
    paths: Iterable[Path],
    *,
    progress: Callable[[ImportReport], None] | None = None,
    reserve_mb: int = 0,
) -> ImportReport:
    """Imports files and folders as if they had been received; safe beside a running receiver.

    Sources are only read. Every byte of a file is kept, its preamble and meta information included.

    Args:
        root: the data root.
        paths: files and folders.
        progress: called after every file.
        reserve_mb: free space in MiB that is left on the disk.

    Raises:
        UsageError: a path does not exist; nothing was imported then.
        StorageFull: no room; what was imported so far stays, and a repetition goes on from there.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    report = ImportReport()
    with Landing(root, reserve_mb=reserve_mb) as landing, landing.visit(IMPORTER) as visit:
        importer = _Importer(landing, visit, report)
        for path in walk(paths):
            importer.take(path)
            if progress is not None:
                progress(report)
    return report


@dataclass(frozen=True)
class _Importer:
    landing: Landing
    visit: Visit
    report: ImportReport

    def take(self, path: Path) -> None:
        new = self.landing.new_file()
        try:
            if not _copy(path, new):
                self.report.skipped += 1
                return
            inspection = inspect_file(new.path)
            if inspection.is_media_directory:
                self.report.skipped += 1
                return
            new.commit()
            self._file(new, inspection, path)
        except _SourceError as error:
            self.report.failed += 1
            self.report.problems.append((str(path), str(error)))
        finally:
            new.discard()

    def _file(self, new: NewFile, inspection: Inspection, path: Path) -> None:
        verdict = inspection.verdict
        if isinstance(verdict, Refusal):
            quarantine_file(self.landing.root, new.path, _reason(inspection.meta, verdict))
            self.report.quarantined += 1
            self.report.problems.append((str(path), verdict.message))
            return
        receipt = self.visit.file_object(new.path, verdict, inspection.transfer_syntax)
        self.report.studies.add(receipt.StudyInstanceUID)
        if receipt.kind == "conflict":
            self.report.conflicts += 1
        elif receipt.kind == "repeat":
            self.report.repeats += 1
        else:
            self.report.stored += 1


def _reason(meta: FileMeta | None, refusal: Refusal) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "message": refusal.message,
        "element": f"{refusal.element:08X}" if refusal.element else "",
        "source": "import",
        "transfer_syntax": _uid_or_empty(meta.transfer_syntax if meta else ""),
        "SOPClassUID": _uid_or_empty(meta.sop_class if meta else ""),
        "SOPInstanceUID": _uid_or_empty(meta.sop_instance if meta else ""),
    }


def _uid_or_empty(text: str) -> str:
    return text if is_uid(text) else ""


class _SourceError(Exception):
    """The source can't be read; says why, without its name."""


def _copy(source: Path, new: NewFile) -> bool:
    """Copies a regular file; False if it is something else (a pipe would block for ever)."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise _SourceError(f"can't be read ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        if not _copy_in_kernel(fd, new):
            while chunk := _read(fd):
                new.write([chunk])
    finally:
        os.close(fd)
    return True


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        raise _SourceError(f"can't be read ({error.strerror})") from None


def _copy_in_kernel(fd: int, new: NewFile) -> bool:
    """Lets the kernel copy; False if it can't, or has copied nothing of what is there."""
    with room_errors(new.path):
        while True:
            try:
                count = os.copy_file_range(fd, new.fileno(), _CHUNK)
            except OSError as error:
                if new.size == 0 and error.errno in _NO_KERNEL_COPY:
                    return False
                if error.errno == errno.EIO:
                    raise _SourceError("can't be read (input/output error)") from None
                raise
            if count == 0:
                return new.size > 0  # some file systems say 0 for "not supported": let read() decide
            new.size += count
