"""The one door by which objects enter the archive.

Order, and with it durability: bytes flushed, journal claimed (flock), name taken by a rename that never
replaces, folder flushed, journal line flushed. Only then may a sender be told Success.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids, is_uid, read_file_meta
from fiona_dagster.errors import PermanentError, StorageFull, UnreadableDicom
from fiona_dagster.landing import files
from fiona_dagster.landing.conflicts import SUPERSEDED, kept_at
from fiona_dagster.landing.files import (
    NewFile,
    Workshop,
    check_room,
    clear_workshops,
    make_directory,
    rename_new,
    room_errors,
    sync_directory,
)
from fiona_dagster.landing.journal import Journal
from fiona_dagster.landing.names import NamesCache
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import Caller, Kind, Receipt, now

if TYPE_CHECKING:
    from fiona_dagster.config import Durability

_MODALITY = re.compile(r"[A-Z0-9]{1,16}")
_CHUNK = 1024 * 1024
_MAX_JOURNALS = 32
_TRIES = 5

_PREFIX_BY_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.3": "US",
    "1.2.840.10008.5.1.4.1.1.6": "US",
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.12": "XA",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.66": "SEG",
    "1.2.840.10008.5.1.4.1.1.88": "SR",
    "1.2.840.10008.5.1.4.1.1.104": "DOC",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.481": "RT",
}


def workshops(root: DataRoot) -> Path:
    """Folder of unfinished files, hidden and on the file system of the archive."""
    return root.archive / ".incoming"


def dead_workshops(root: DataRoot) -> list[Path]:
    """Folders of unfinished files whose processes are gone."""
    return files.dead_workshops(workshops(root))


def archive_prefix(uids: StorageUids) -> str:
    """The first part of an archived file's name: the modality, or what the SOP class suggests, or ``OT``."""
    if _MODALITY.fullmatch(uids.modality):
        return uids.modality
    parts = uids.sop_class.split(".")
    for length in range(len(parts), 8, -1):
        prefix = _PREFIX_BY_CLASS.get(".".join(parts[:length]))
        if prefix:
            return prefix
    return "OT"


class Landing:
    """The door of one process.

    Args:
        root: the data root.
        reserve_mb: free space in MiB that is left on the disk (``receiver.reserve_mb``).
        durability: ``full``: what is filed is flushed; ``rename``: it is only complete under its name.
    """

    def __init__(self, root: DataRoot, *, reserve_mb: int = 0, durability: Durability = "full") -> None:
        self.root = root
        self.durability = durability
        self._reserve = reserve_mb * 1024 * 1024
        make_directory(root.arrived)
        make_directory(root.archive)
        clear_workshops(workshops(root))
        self._workshop = Workshop(workshops(root))
        self.names = NamesCache(root)
        self._unwritten: dict[str, Kind] = {}
        self._mutex = threading.Lock()

    def new_file(self) -> NewFile:
        """An empty file to write an object to.

        Raises:
            StorageFull: no room, or the reserve is reached.
        """
        self.check_room()
        return self._workshop.new_file()

    def check_room(self) -> None:
        """Makes sure that the reserve is free.

        Raises:
            StorageFull: it is not.
        """
        check_room(self.root.archive, self._reserve)

    def visit(self, caller: Caller) -> Visit:
        """Begins a visit: one association, or one import."""
        return Visit(self, caller)

    def file_object(
        self, temp_path: Path, uids: StorageUids, transfer_syntax: str, caller: Caller
    ) -> Receipt:
        """Files one object in a visit of its own; see :meth:`Visit.file_object`."""
        fd = os.open(temp_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
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

    def file_object(self, temp_path: Path, uids: StorageUids, transfer_syntax: str) -> Receipt:
        """Files one object; it is durable and in the journal when this returns.

        Args:
            temp_path: the whole file, flushed, on the archive's file system; it is moved or removed.
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
        with room_errors(self._root.archive):
            journal = self._journal(uids.study)
            size = temp_path.stat().st_size
            kind, path = self._place(temp_path, uids)
        relative = path.relative_to(self._root.path).as_posix()
        kind = self._landing.true_kind(relative, kind)
        receipt = Receipt(
            time=now(),
            kind=kind,
            StudyInstanceUID=uids.study,
            SeriesInstanceUID=uids.series,
            SOPInstanceUID=uids.sop_instance,
            SOPClassUID=uids.sop_class,
            transfer_syntax=transfer_syntax,
            path=relative,
            size=size,
            calling_ae=self.caller.calling_ae,
            called_ae=self.caller.called_ae,
            caller_ip=self.caller.ip,
        )
        self._write(journal, receipt)
        return receipt

    def _write(self, journal: Journal, receipt: Receipt) -> None:
        try:
            journal.append(receipt)
        except (OSError, StorageFull):
            # The file stays: another association may have been told Success for it meanwhile.
            if receipt.kind != "repeat":
                self._landing.remember_unwritten(receipt.path, receipt.kind)
            raise

    def _place(self, temp_path: Path, uids: StorageUids) -> tuple[Kind, Path]:
        for _ in range(_TRIES):
            try:
                return self._try_to_place(temp_path, uids)
            except FileNotFoundError:  # retention removed the folder or the file we compared with
                if not temp_path.exists():
                    raise
                self._landing.names.forget(uids.study)
        raise StorageFull(f"study {uids.study}: its archive folder keeps disappearing; send again")

    def _try_to_place(self, temp_path: Path, uids: StorageUids) -> tuple[Kind, Path]:
        names = self._landing.names.of(uids.study)
        name = f"{archive_prefix(uids)}.{uids.sop_instance}"
        with names.locked():
            there = names.find(uids.sop_instance)
            if there is None:
                names.announce(name)
                if not rename_new(temp_path, names.folder / name):
                    there = name
        target = names.folder / (there or name)
        # Also for a repeat: whoever placed the file may not have flushed its name yet.
        sync_directory(names.folder)
        if there is None:
            return "stored", target
        if same_object(target, temp_path):
            temp_path.unlink()
            return "repeat", target
        return self._keep_aside(temp_path, target, uids)

    def _keep_aside(self, temp_path: Path, archived: Path, uids: StorageUids) -> tuple[Kind, Path]:
        folder = self._root.conflicts / uids.study
        make_directory(folder)
        sync_directory(folder.parent)
        path = folder / f"{archive_prefix(uids)}.{uids.sop_instance}.{digest_of(temp_path)[:16]}.dcm"
        reason = {
            "time": now(),
            "code": "conflict",
            "message": "same SOP Instance UID with another data set; accept or reject it",
            "StudyInstanceUID": uids.study,
            "SeriesInstanceUID": uids.series,
            "SOPInstanceUID": uids.sop_instance,
            "archived": archived.relative_to(self._root.path).as_posix(),
            "calling_ae": self.caller.calling_ae,
            "called_ae": self.caller.called_ae,
            "caller_ip": self.caller.ip,
        }
        kept = kept_at(self._root, uids.study, path.name)
        if kept is not None:  # it waits for a decision, or a person has decided about these very bytes
            kind: Kind = "repeat"
            temp_path.unlink()
            path = kept if kept.parent.parent.name == SUPERSEDED else path
        else:
            kind = "conflict"
            write_json_new(path.with_suffix(".json"), reason)
            if not rename_new(temp_path, path):
                temp_path.unlink()
                kind = "repeat"
        sync_directory(folder)
        return kind, path

    def _journal(self, study: str) -> Journal:
        journal = self._journals.get(study)
        if journal is None:
            journal = self._journals[study] = Journal(self._root, self.caller, study)
            if len(self._journals) > _MAX_JOURNALS:
                self._journals.popitem(last=False)[1].close()
        self._journals.move_to_end(study)
        return journal

    def close(self) -> None:
        """Lets go of the journals: from now on, quiet time counts."""
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _begin(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        try:
            meta = read_file_meta(file)
        except PermanentError:
            return "", 0
    return meta.transfer_syntax, meta.data_set_offset


def same_object(one: Path, other: Path) -> bool:
    """Whether two files hold the same transfer syntax and data set; the rest of the meta does not count."""
    (syntax, start), (other_syntax, other_start) = _begin(one), _begin(other)
    if syntax != other_syntax or one.stat().st_size - start != other.stat().st_size - other_start:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        a.seek(start)
        b.seek(other_start)
        while chunk := a.read(_CHUNK):
            if chunk != b.read(_CHUNK):
                return False
    return True


def digest_of(path: Path) -> str:
    """SHA-256 in hex over transfer syntax and data set of a file."""
    syntax, start = _begin(path)
    digest = hashlib.sha256(syntax.encode("ascii", "replace") + b"\0")
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
