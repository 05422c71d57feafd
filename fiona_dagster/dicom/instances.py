"""What is sent by C-STORE: one file, what is known of it, and what became of it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fiona_dagster.dicom.filing import Refusal, judge
from fiona_dagster.dicom.head import HeadReader
from fiona_dagster.dicom.opened import DIFFERS, Open, from_copy
from fiona_dagster.dicom.part10 import read_file_meta
from fiona_dagster.dicom.requestor import Context
from fiona_dagster.errors import NotVerified, UnreadableDicom

IN_MEMORY = 16 * 1024 * 1024
"""Larger files are not held in memory: they are sent part by part and compared meanwhile."""
_STEP = 32 * 1024

NO_ANSWER = "no answer"
NOT_ACCEPTED = "SOP class or transfer syntax not accepted"


@dataclass(frozen=True)
class Instance:
    """A DICOM file that can be sent; UIDs as they stand in it.

    Attributes:
        path: the file.
        sop_class: SOPClassUID.
        sop_instance: SOPInstanceUID.
        transfer_syntax: TransferSyntaxUID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        data_set_offset: where the data set begins, bytes from the start of the file.
    """

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: str
    study: str
    series: str
    data_set_offset: int

    @property
    def context(self) -> Context:
        """What must be negotiated for it."""
        return (self.sop_class, self.transfer_syntax)


@dataclass(frozen=True)
class StoreResult:
    """What became of one instance.

    Attributes:
        instance: which.
        status: DIMSE status (PS3.4 B.2.3), or None when there was no answer or it could not be offered.
        reason: why there is no status; empty otherwise.
    """

    instance: Instance
    status: int | None
    reason: str = ""

    @property
    def stored(self) -> bool:
        """Success or one of the warnings B000, B006, B007 with which the object is kept."""
        return self.status is not None and (self.status == 0 or self.status >> 12 == 0xB)

    @property
    def may_pass(self) -> bool:
        """Not stored, but for a reason that may pass: no answer, or out of resources (A7xx)."""
        return not self.stored and (
            self.status >> 8 == 0xA7 if self.status is not None else self.reason == NO_ANSWER
        )


def read_instance(path: Path) -> Instance:
    """Reads what must be known to send a file.

    Raises:
        UnreadableDicom: no DICOM file with file meta information, or UIDs are missing; or there is none.
        CopyUnavailable: the disk does not give it.
    """
    try:
        with from_copy(), path.open("rb") as file:
            meta = read_file_meta(file)
            file.seek(meta.data_set_offset)
            head = HeadReader(meta.transfer_syntax)
            while (part := file.read(_STEP)) and not head.feed(part):
                pass
    except NotVerified:
        raise UnreadableDicom("a file to send can't be read (No such file)") from None
    except UnreadableDicom as error:
        raise UnreadableDicom(f"a file to send is no readable DICOM: {error}") from None
    head.end()
    uids = judge(head)
    if isinstance(uids, Refusal):
        raise UnreadableDicom(f"a file to send is no readable DICOM: {uids.message}")
    return Instance(
        path=path,
        sop_class=uids.sop_class,
        sop_instance=uids.sop_instance,
        transfer_syntax=meta.transfer_syntax,
        study=uids.study,
        series=uids.series,
        data_set_offset=meta.data_set_offset,
    )


class Room:
    """Memory for one file, used again and again."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def read(self, descriptor: int, size: int) -> memoryview:
        """The whole file; what lay here before is gone.

        Raises:
            OSError: it can't be read, or is shorter than it was.
        """
        if len(self._bytes) < size:
            self._bytes = bytearray(size + size // 4)
        view = memoryview(self._bytes)[:size]
        done = 0
        while done < size:
            count = os.preadv(descriptor, [view[done:]], done)
            if not count:
                raise OSError("the file became shorter")
            done += count
        return view


class Ready:
    """An instance whose bytes are in hand, compared with what they should be.

    A large file is compared while it is sent (:meth:`Open.parts`), before its last part leaves.

    Args:
        instance: which.
        room: where small files are read to; nobody else may use it until :meth:`close`.
        digest: SHA-256 that the whole file must have; None: whatever it is.

    Attributes:
        instance: which.
        data: its data set.
        tries: how often it was sent without an answer.

    Raises:
        NotVerified: the digest of a small file differs, or a file with a digest is gone.
        CopyUnavailable: the disk does not give a file with a digest.
        UnreadableDicom: a file without one can't be read.
    """

    def __init__(self, instance: Instance, room: Room, digest: str | None) -> None:
        self.instance = instance
        self.tries = 0
        self._descriptor = -1
        try:
            self._descriptor = os.open(instance.path, os.O_RDONLY | os.O_CLOEXEC)
            self.data, same = self._take(room, digest)
        except OSError as error:
            self.close()
            if digest is not None:
                with from_copy():
                    raise
            why = os.strerror(error.errno) if error.errno else str(error)
            raise UnreadableDicom(f"a file to send can't be read ({why})") from None
        if not same:
            self.close()
            raise NotVerified(DIFFERS)

    def _take(self, room: Room, digest: str | None) -> tuple[memoryview | Open, bool]:
        status = os.fstat(self._descriptor)
        offset = self.instance.data_set_offset
        if status.st_size > IN_MEMORY:
            size = status.st_size - offset
            return Open(self._descriptor, offset, size, status.st_mtime_ns, digest), True
        view = room.read(self._descriptor, status.st_size)
        self.close()
        return view[offset:], digest is None or hashlib.sha256(view).hexdigest() == digest

    @property
    def size(self) -> int:
        """Bytes of the data set."""
        return len(self.data) if isinstance(self.data, memoryview) else self.data.size

    def close(self) -> None:
        """Lets go of the file; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
