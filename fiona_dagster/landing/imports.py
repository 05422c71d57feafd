"""Files, folders and ZIP archives through the same door as the network, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import FileMeta, Refusal, is_uid
from fiona_dagster.errors import StorageFull, UnreadableDicom, UsageError
from fiona_dagster.landing.archives import Archive, ArchiveRefused, Entry, EntryDamaged
from fiona_dagster.landing.bare import missing_beginning
from fiona_dagster.landing.door import Landing, Visit
from fiona_dagster.landing.inspect import Inspection, inspect_file
from fiona_dagster.landing.media import Listing, missing_instances, read_media_directory
from fiona_dagster.landing.quarantine import quarantine_file
from fiona_dagster.landing.receipt import IMPORTER
from fiona_dagster.landing.report import ImportReport
from fiona_dagster.landing.sources import (
    HEAD,
    SourceChanged,
    SourceError,
    copy_open,
    kind_of,
    open_regular,
    read_head,
    walk,
)
from fiona_dagster.landing.workshop import NewFile

MAX_UNPACKED = 500 * 2**30
"""Bytes that one archive may unpack to unless the configuration says something else."""

_CHECK_ROOM_EVERY = 32 * 1024 * 1024
_MAX_DEPTH = 1
_UNKNOWN = {"zip": "archive in an archive in an archive; unpack it first"}

UNPACKED_IN_PART = Refusal("archive_in_part", 0, "archive with entries that could not be unpacked or read")
"""Why an archive is kept whole although some of its entries were filed."""


def import_paths(
    root: DataRoot,
    paths: Iterable[Path],
    *,
    progress: Callable[[ImportReport], None] | None = None,
    reserve_mb: int = 0,
    max_unpacked: int = MAX_UNPACKED,
    report: ImportReport | None = None,
) -> ImportReport:
    """Imports files, folders and ZIP archives as if they had been received; safe beside a running receiver.

    Sources are only read. Every byte of a file is kept, its preamble and meta information included.

    Args:
        root: the data root.
        paths: files and folders; what a file is, its content tells.
        progress: called after every file, and again and again within a large one.
        reserve_mb: free space in MiB that is left on the disk.
        max_unpacked: bytes that one archive may unpack to.
        report: counts go here, for callers that want them also when it fails in the middle.

    Raises:
        UsageError: a path does not exist; nothing was imported then.
        StorageFull: no room; what was imported so far stays, and a repetition goes on from there.
    """
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    report = ImportReport() if report is None else report
    with Landing(root, reserve_mb=reserve_mb) as landing, landing.visit(IMPORTER) as visit:
        importer = Importer(landing, visit, report, progress=progress, max_unpacked=max_unpacked)
        for path in walk(paths, importer.cannot_list):
            importer.take(path)
        importer.compare_with_media()
    return report


class Importer:
    """Takes one source after the other; belongs to one thread.

    Args:
        landing: the door.
        visit: whose receipts they are.
        report: counts go here.
        progress: see :func:`import_paths`.
        max_unpacked: see :func:`import_paths`.
        source: where the files come from, as the reason in quarantine says it.
    """

    def __init__(
        self,
        landing: Landing,
        visit: Visit,
        report: ImportReport,
        *,
        progress: Callable[[ImportReport], None] | None = None,
        max_unpacked: int = MAX_UNPACKED,
        source: str = "import",
    ) -> None:
        self.report = report
        self._landing = landing
        self._visit = visit
        self._progress = progress
        self._max_unpacked = max_unpacked
        self._source = source
        self._listings: list[tuple[str, Listing]] = []

    def take(self, path: Path) -> None:
        """Takes one file; what can't be read is counted and named in the report.

        Raises:
            StorageFull: no room; the file may have been taken in part, if it is an archive.
        """
        label = str(path)
        try:
            fd = open_regular(path)
            if fd is None:
                self.report.skipped += 1
            else:
                try:
                    self.take_open(fd, label)
                finally:
                    os.close(fd)
        except SourceError as error:
            self._failed(label, str(error))
        self._tick(0)

    def take_open(self, fd: int, label: str, unchanged: Callable[[], bool] = lambda: True) -> bool:
        """Takes an open file.

        Args:
            fd: a regular file, open for reading.
            label: its name for people.
            unchanged: asked when all of it was read and before anything is filed. (What an archive holds
                is checked by its checksums in any case.)

        Returns:
            Whether every byte that it holds is durable elsewhere when this returns; False for an archive with
            entries that could not be unpacked.

        Raises:
            SourceError: it can't be read, or changed meanwhile; nothing was kept.
            StorageFull: no room.
        """
        refusal = None
        if kind_of(read_head(fd)) == "zip":
            with os.fdopen(os.dup(fd), "rb") as file:
                before, size = self.report.bytes, os.fstat(fd).st_size
                outcome = self._take_archive(file, label, 0)
                if not isinstance(outcome, Refusal):
                    self.report.bytes = before + size
                    return outcome
            refusal = outcome
        new = self._landing.new_file()
        try:
            copy_open(fd, new, self._copied)
            if not unchanged():
                raise SourceChanged("changed while it was read")
            if refusal is None:
                self._take_new(new, label, 0)
            else:
                new.commit()
                self._quarantine(new, label, None, refusal)
        finally:
            new.discard()
        return True

    def quarantine_open(self, fd: int, refusal: Refusal) -> None:
        """Keeps a copy of an open file in quarantine, counted by nobody."""
        new = self._landing.new_file()
        try:
            copy_open(fd, new, lambda _: self._landing.check_room())
            new.commit()
            quarantine_file(self._landing.root, new.path, _reason(None, refusal, self._source))
        finally:
            new.discard()

    def compare_with_media(self) -> None:
        """Looks whether what the media directories list is in the archive; to be called at the end."""
        for label, listing in self._listings:
            missing = len(missing_instances(self._landing.root, listing))
            if missing:
                self.report.missing += missing
                told = f"lists {len(listing.instances)} instances; {missing} of them were not filed"
                self.report.problems.append((label, told))
            if listing.problem:
                self.report.directories_damaged += 1
                self.report.problems.append((label, listing.problem))
        self._listings.clear()

    # One file in the workshop.

    def _take_new(self, new: NewFile, label: str, depth: int) -> None:
        """Files what was copied or unpacked; nothing of it is left open."""
        with new.path.open("rb") as file:
            kind = kind_of(file.read(HEAD))
            refusal = None
            if kind == "zip" and depth <= _MAX_DEPTH:
                outcome = self._take_archive(file, label, depth)
                if outcome is True:
                    return
                refusal = outcome or UNPACKED_IN_PART
            elif kind == "bare":
                beginning = missing_beginning(new.path)
                if not isinstance(beginning, Refusal):
                    self._take_bare(file.fileno(), beginning, label)
                    return
                refusal = beginning
            elif kind not in ("", "dicom"):
                refusal = Refusal(
                    "archive_unknown", 0, _UNKNOWN.get(kind, f"{kind} archive; unpack it first")
                )
        if refusal is not None:
            new.commit()
            self._quarantine(new, label, None, refusal)
            return
        self._take_file(new, label)

    def _take_bare(self, fd: int, beginning: bytes, label: str) -> None:
        whole = self._landing.new_file()
        try:
            whole.write([beginning])
            copy_open(fd, whole, lambda _: self._landing.check_room())
            self._take_file(whole, label)
        finally:
            whole.discard()

    def _take_file(self, new: NewFile, label: str) -> None:
        new.commit()
        inspection = inspect_file(new.path)
        if inspection.is_media_directory:
            self.report.skipped += 1
            self._read_listing(new.path, label)
            return
        if isinstance(inspection.verdict, Refusal):
            self._quarantine(new, label, inspection.meta, inspection.verdict)
            return
        self._file(new, inspection)

    def _file(self, new: NewFile, inspection: Inspection) -> None:
        assert not isinstance(inspection.verdict, Refusal)  # noqa: S101 - the caller looked
        receipt = self._visit.file_object(new.path, inspection.verdict, inspection.transfer_syntax)
        self.report.studies.add(receipt.StudyInstanceUID)
        if receipt.kind == "conflict":
            self.report.conflicts += 1
        elif receipt.kind == "repeat":
            self.report.repeats += 1
        else:
            self.report.stored += 1

    def _quarantine(self, new: NewFile, label: str, meta: FileMeta | None, refusal: Refusal) -> None:
        quarantine_file(self._landing.root, new.path, _reason(meta, refusal, self._source))
        self.report.quarantined += 1
        self.report.problems.append((label, refusal.message))

    def _read_listing(self, path: Path, label: str) -> None:
        try:
            listing = read_media_directory(path)
        except UnreadableDicom:
            listing = Listing(problem="DICOMDIR is damaged; what it lists could not be checked")
        self._listings.append((label, listing))

    def cannot_list(self, error: OSError) -> None:
        """A folder can't be listed: whatever is in it was not imported, and nobody may think it was."""
        self._failed(str(error.filename), f"folder can't be read ({error.strerror})")

    def _failed(self, label: str, reason: str) -> None:
        self.report.failed += 1
        self.report.problems.append((label, reason))

    def _copied(self, count: int) -> None:
        self._landing.check_room()
        self._tick(count)

    def _tick(self, count: int) -> None:
        self.report.bytes += count
        if self._progress is not None:
            self._progress(self.report)

    # Archives.

    def _take_archive(self, file: BinaryIO, label: str, depth: int) -> bool | Refusal:
        """Takes all entries.

        Returns:
            Whether all of them are kept, or why the archive as a whole is refused.
        """
        try:
            archive = Archive(file, self._max_unpacked)
        except ArchiveRefused as error:
            return Refusal(error.code, 0, str(error))
        try:
            archive.must_hold_dicom()
            self._must_fit(archive)
            whole = True
            for entry in archive.entries():
                whole &= self._take_entry(entry, f"{label}: {entry.name}", depth)
                self._tick(0 if depth else entry.packed)
        except ArchiveRefused as error:
            return Refusal(error.code, 0, str(error))
        finally:
            archive.close()
        return whole

    def _take_entry(self, entry: Entry, label: str, depth: int) -> bool:
        if entry.is_link:
            self.report.skipped += 1
            return True
        if entry.refusal:
            self._failed(label, entry.refusal)
            return False
        new = self._landing.new_file()
        try:
            damage = self._unpack(entry, new)
            if damage and not new.size:
                self._failed(label, damage)
                return False
            if damage:
                new.commit()
                self._quarantine(new, label, None, Refusal("archive_entry_damaged", 0, damage))
                return False
            self._take_new(new, label, depth + 1)
        finally:
            new.discard()
        return True

    def _must_fit(self, archive: Archive) -> None:
        free = shutil.disk_usage(self._landing.root.archive).free
        if archive.unpacked > free:
            raise StorageFull(
                f"{self._landing.root.archive}: an archive unpacks to {archive.unpacked // 2**20} MiB and "
                f"{free // 2**20} MiB are free; make room"
            )

    def _unpack(self, entry: Entry, new: NewFile) -> str:
        """Writes the bytes of an entry; what is wrong with it, empty if nothing is."""
        unchecked = 0
        try:
            for chunk in entry.chunks():
                new.write([chunk])
                unchecked += len(chunk)
                if unchecked >= _CHECK_ROOM_EVERY:
                    unchecked = 0
                    self._landing.check_room()
                    self._tick(0)
        except EntryDamaged as error:
            return str(error)
        return ""


def _reason(meta: FileMeta | None, refusal: Refusal, source: str) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "message": refusal.message,
        "element": f"{refusal.element:08X}" if refusal.element else "",
        "source": source,
        "transfer_syntax": _uid_or_empty(meta.transfer_syntax if meta else ""),
        "SOPClassUID": _uid_or_empty(meta.sop_class if meta else ""),
        "SOPInstanceUID": _uid_or_empty(meta.sop_instance if meta else ""),
    }


def _uid_or_empty(text: str) -> str:
    return text if is_uid(text) else ""
