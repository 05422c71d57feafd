"""The one door by which objects enter the archive.

Order, and with it durability: bytes flushed, journal claimed (flock), name taken by a link or a rename that
never replaces, journal line written, journal and folder flushed. Only then may a sender be told Success.

The last two are flushed at the same time, each by a flush of its own that began after it was written: file
systems with a log (ext4, XFS) write it once for both. Should a disk keep the line and lose the name, or the
other way round, then nobody was told Success, and the object comes again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids, is_uid
from fiona_dagster.errors import StorageFull, UnreadableDicom
from fiona_dagster.landing.aside import Aside
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.compare import same_object
from fiona_dagster.landing.files import (
    HERE,
    as_room_error,
    check_room,
    make_directory,
    rename_new_at,
)
from fiona_dagster.landing.flush import Beside, flush_data
from fiona_dagster.landing.journal import FlushGroups, Journal
from fiona_dagster.landing.names import NamesCache, StudyNames
from fiona_dagster.landing.prefix import archive_prefix
from fiona_dagster.landing.receipt import Caller, Kind, Receipt, now
from fiona_dagster.landing.workshop import NewFile, Workshop, clear_workshops, workshops

if TYPE_CHECKING:
    from fiona_dagster.config import Durability

_MAX_JOURNALS = 32
_TRIES = 5
_ROOM_HOLDS = 0.1
"""Seconds for which a look at the free space holds; below the smallest sensible reserve at any speed."""

_Placed = tuple[Kind, str, StudyNames, str]
"""What became of an object, the path of its file below the data root, its folder and its name in there."""


class Landing:
    """The door of one process.

    Args:
        root: the data root.
        reserve_mb: free space in MiB that is left on the disk (``receiver.reserve_mb``).
        durability: ``full``: what is filed is flushed; ``rename``: it is only complete under its name.

    Raises:
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`.
    """

    def __init__(self, root: DataRoot, *, reserve_mb: int = 0, durability: Durability = "full") -> None:
        self.root = root
        self.durability = durability
        self._flushed = durability == "full"
        self._reserve = reserve_mb * 1024 * 1024
        self._room_until = 0.0
        self._use = Use(root)
        try:
            make_directory(root.arrived)
            make_directory(root.archive)
            clear_workshops(root)
            self._workshop = Workshop(workshops(root))
        except BaseException:
            self._use.close()
            raise
        self.names = NamesCache(root, flushed=self._flushed)
        self.journals = FlushGroups()
        self.aside = Aside(root)
        self._unwritten: dict[str, Kind] = {}
        self._mutex = threading.Lock()

    def new_file(self, *, nameless: bool = False) -> NewFile:
        """An empty file to write an object to.

        Args:
            nameless: see :meth:`fiona_dagster.landing.workshop.Workshop.new_file`.

        Raises:
            StorageFull: no room, or the reserve is reached.
        """
        self.look_for_room()
        return self._workshop.new_file(flushed=self._flushed, nameless=nameless)

    def look_for_room(self) -> None:
        """The same as :meth:`check_room`, unless that was done a moment ago."""
        if time.monotonic() > self._room_until:
            self.check_room()

    def check_room(self) -> None:
        """Makes sure that the reserve is free.

        Raises:
            StorageFull: it is not.
        """
        check_room(self.root.archive, self._reserve)
        self._room_until = time.monotonic() + _ROOM_HOLDS

    def visit(self, caller: Caller) -> Visit:
        """Begins a visit: one association, or one import."""
        return Visit(self, caller)

    def file_object(
        self, temp_path: Path, uids: StorageUids, transfer_syntax: str, caller: Caller
    ) -> Receipt:
        """Files one object in a visit of its own; see :meth:`Visit.file_object`."""
        flush_file(temp_path)
        with self.visit(caller) as visit:
            return visit.file_object(temp_path, uids, transfer_syntax)

    def remember_unwritten(self, path: str, kind: Kind) -> None:
        """Notes a file that was placed but whose journal line could not be written."""
        with self._mutex:
            self._unwritten[path] = kind

    def true_kind(self, path: str, kind: Kind) -> Kind:
        """What a repeat really is: the first arrival, if that one never got its journal line."""
        with self._mutex:
            return self._unwritten.pop(path, kind) if kind == "repeat" else kind

    def close(self) -> None:
        """Removes what is unfinished."""
        self._workshop.close()
        self._use.close()

    def __enter__(self) -> Landing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Visit:
    """One association or import. Belongs to one thread.

    Holds the journals it has written to, which is how others know that more may come.
    """

    def __init__(self, landing: Landing, caller: Caller) -> None:
        self.caller = caller
        self._landing = landing
        self._root = landing.root
        self._journals: OrderedDict[str, Journal] = OrderedDict()
        self._spare: NewFile | None = None
        self._beside = Beside()
        self._prefix = f"{landing.root.archive.relative_to(landing.root.path).as_posix()}/scp_"

    def new_file(self) -> NewFile:
        """An empty file to write the next object to, without a name; see :meth:`Landing.new_file`."""
        if self._spare is None:
            return self._landing.new_file(nameless=True)
        self._landing.look_for_room()
        file, self._spare = self._spare, None
        return file

    def prepare(self) -> None:
        """Makes the next object's file now, while the sender reads the answer to the last one."""
        if self._spare is None:
            try:
                self._spare = self._landing.new_file(nameless=True)
            except (OSError, StorageFull):
                return  # the next object meets the same, and its sender is told

    def file_object(self, source: Path | NewFile, uids: StorageUids, transfer_syntax: str) -> Receipt:
        """Files one object; it is durable and in the journal when this returns.

        Args:
            source: the whole file, flushed, on the archive's file system; it is moved or removed.
            uids: as judged by ``fiona_dagster.dicom.judge``.
            transfer_syntax: UID.

        Returns:
            What happened: stored, repeat or conflict.

        Raises:
            StorageFull: no room; the sender must keep its copy.
            UnreadableDicom: the UIDs are not fit for a path, which the caller should have found.
        """
        if not (is_uid(uids.study) and is_uid(uids.series) and is_uid(uids.sop_instance)):
            raise UnreadableDicom("object has malformed UIDs; put it into quarantine")
        try:
            journal = self._journal(uids.study)
            size = source.size if isinstance(source, NewFile) else source.stat().st_size
            kind, relative, names, name = self._place(source, uids)
            if kind == "repeat":  # the file that is there may have other file meta, from another sender
                with suppress(FileNotFoundError):  # of a decided conflict only the name is still there
                    size = (self._root.path / relative).stat().st_size
        except OSError as error:
            raise as_room_error(error, self._root.archive) from None
        kind = self._landing.true_kind(relative, kind)
        caller = self.caller
        receipt = Receipt(
            now(),
            kind,
            uids.study,
            uids.series,
            uids.sop_instance,
            uids.sop_class,
            transfer_syntax,
            relative,
            size,
            caller.calling_ae,
            caller.called_ae,
            caller.ip,
        )
        self._write(journal, receipt, names, name)
        return receipt

    def _write(self, journal: Journal, receipt: Receipt, names: StudyNames, name: str) -> None:
        try:
            try:
                self._append(journal, receipt, names)
            finally:  # also without the line: from now on the name is flushed or in doubt
                names.flush(name, self._beside.end if self._beside.busy else None)
        except OSError as error:
            raise as_room_error(error, self._root.archive) from None

    def _append(self, journal: Journal, receipt: Receipt, names: StudyNames) -> None:
        try:
            journal.append(receipt, self._flush_beside(names))
        except (OSError, StorageFull):
            # The file stays: another association may have been told Success for it meanwhile.
            if receipt.kind != "repeat":
                self._landing.remember_unwritten(receipt.path, receipt.kind)
            raise

    def _flush_beside(self, names: StudyNames) -> Callable[[], None] | None:
        if self._landing.durability != "full":
            return None
        return partial(self._beside.begin, names.flush_entries)

    def _place(self, source: Path | NewFile, uids: StorageUids) -> _Placed:
        for _ in range(_TRIES):
            try:
                return self._try_to_place(source, uids)
            except FileNotFoundError:  # retention removed the folder or the file we compared with
                if source.is_lost if isinstance(source, NewFile) else not source.exists():
                    raise
                self._landing.names.forget(uids.study)
        raise StorageFull(f"study {uids.study}: its archive folder keeps disappearing; send again")

    def _try_to_place(self, source: Path | NewFile, uids: StorageUids) -> _Placed:
        names = self._landing.names.of(uids.study)
        name = f"{archive_prefix(uids)}.{uids.sop_instance}"
        appear = source.appear if isinstance(source, NewFile) else partial(rename_new_at, HERE, str(source))
        there = names.place(appear, name)
        relative = f"{self._prefix}{uids.study}/{there or name}"
        if there is None:
            return "stored", relative, names, name
        fd, own = HERE, str(source)
        if isinstance(source, NewFile):
            source.take_name()
            fd, own = source.folder_fd, source.name
        target = names.folder / there
        if not same_object(target, _path(source)):
            return *self._landing.aside.keep(self.caller, _path(source), target, uids), names, there
        return self._repeat(names, fd, own, there, uids.sop_instance), relative, names, there

    def _repeat(self, names: StudyNames, fd: int, own: str, there: str, instance: str) -> Kind:
        """The same object is there. Success rests on its file, so that is flushed as if it were new."""
        with names:
            # What a failed flush covered is never believed again. The new copy is sound: it takes over.
            doubtful = names.is_doubtful(instance)
            replaces = doubtful or names.is_unflushed(instance)
            if replaces:
                names.replace(fd, own, there)
        if not replaces:
            if self._landing.durability == "full":
                flush_file(names.folder / there)  # it may have come at another durability
            os.unlink(own, dir_fd=fd if fd >= 0 else None)
        return "stored" if doubtful else "repeat"

    def _journal(self, study: str) -> Journal:
        journal = self._journals.get(study)
        if journal is None:
            journal = self._journals[study] = Journal(
                self._root,
                self.caller,
                study,
                flushed=self._landing.durability == "full",
                groups=self._landing.journals,
            )
            if len(self._journals) > _MAX_JOURNALS:
                self._journals.popitem(last=False)[1].close()
        self._journals.move_to_end(study)
        return journal

    def close(self) -> None:
        """Lets go of the journals: from now on, quiet time counts."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()
        self._beside.close()

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _path(source: Path | NewFile) -> Path:
    return source.path if isinstance(source, NewFile) else source


def flush_file(path: Path) -> None:
    """Flushes the bytes of a file that is complete."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flush_data(fd)
    finally:
        os.close(fd)
