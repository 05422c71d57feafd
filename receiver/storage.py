"""One C-STORE: bytes from the network go straight into a file, the head is watched on the way."""

from __future__ import annotations

import logging
from typing import NamedTuple

from fiona_dagster.dicom import HeadReader, KnownHeads, Refusal, StorageUids, build_file_meta, is_uid, judge
from fiona_dagster.dicom.dimse import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, SUCCESS, Command
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing import Caller, Landing, NewFile, Visit, quarantine_file
from receiver.throttle import ThrottledLog

log = logging.getLogger("fiona.receiver")
_chatter = ThrottledLog(log)  # a full disk refuses a thousand objects a second

_CHECK_ROOM_EVERY = 32 * 1024 * 1024


class Outcome(NamedTuple):
    """How a C-STORE ends.

    Attributes:
        kind: ``stored``, ``repeat``, ``conflict``, ``refused``, ``no_room`` or ``too_large``.
        status: DIMSE status (PS3.4 table B.2-1).
        comment: Error Comment, without values.
        element: Offending Element, 0 for none.
    """

    kind: str
    status: int = SUCCESS
    comment: str = ""
    element: int = 0


class IncomingObject:
    """An object while it comes in. Never raises for what a peer or a disk does: see :meth:`finish`.

    Args:
        landing: the door.
        visit: this association's visit.
        command: the C-STORE-RQ.
        transfer_syntax: what was agreed for the presentation context.
        known: what this association's objects before have in common.
    """

    _unchecked = 0
    _fault = _refusal = ""
    _file: NewFile | None = None

    def __init__(
        self, landing: Landing, visit: Visit, command: Command, transfer_syntax: str, known: KnownHeads
    ) -> None:
        self._landing = landing
        self._visit = visit
        self._command = command
        self._transfer_syntax = transfer_syntax
        self._head = HeadReader(transfer_syntax, known)
        self._pending: list[bytes | memoryview] = []
        try:
            self._file = visit.new_file()
        except (OSError, StorageFull) as error:
            self._fail(error)
        ae = visit.caller.calling_ae
        self._pending.append(build_file_meta(command.sop_class, command.sop_instance, transfer_syntax, ae))

    def write(self, part: memoryview) -> None:
        """Takes the next bytes; the view must stay valid until :meth:`flush`."""
        if self._fault:
            return
        if not self._head.done:
            self._head.feed(part)
        self._pending.append(part)
        self._unchecked += len(part)

    def flush(self) -> None:
        """Writes what was taken, so that the buffer behind it may be used again."""
        if self._file is None or not self._pending:
            return
        try:
            self._file.write(self._pending)
            if self._unchecked >= _CHECK_ROOM_EVERY:
                self._unchecked = 0
                self._landing.check_room()
        except (OSError, StorageFull) as error:
            self._fail(error)
        self._pending.clear()

    def _fail(self, error: OSError | StorageFull) -> None:
        self._fault = _describe(error)
        self._pending.clear()
        self.discard()

    def refuse(self, why: str) -> None:
        """Keeps nothing of it, whatever still comes; may be called more than once.

        Args:
            why: for the log and the Error Comment; at most 64 characters.
        """
        if not self._refusal:
            self._refusal = self._fault = why
            self._pending.clear()
            self.discard()

    def discard(self) -> None:
        """Drops everything: the association ended in the middle, or the disk is full."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def finish(self) -> Outcome:
        """The data set is complete: files the object and says how it went."""
        self.flush()
        self._head.end()
        try:
            return self._finish()
        except (OSError, StorageFull) as error:
            self._fail(error)
            return self._no_room()
        finally:
            self.discard()

    def prepare_next(self) -> None:
        """After the answer: what the next object will need and can be had before it comes."""
        self._visit.prepare()

    def _finish(self) -> Outcome:
        if self._file is None:
            return self._no_room()
        verdict = self._judge()
        self._file.commit()
        if isinstance(verdict, Refusal):
            self._file.take_name()
            quarantine_file(self._landing.root, self._file.path, self._reason(verdict))
            self._file = None
            log.warning(
                "refused an object from %s: %s (0x%04X); it is in quarantine",
                describe(self._visit.caller),
                verdict.message,
                verdict.status,
            )
            return Outcome("refused", verdict.status, verdict.message, verdict.element)
        receipt = self._visit.file_object(self._file, verdict, self._transfer_syntax)
        self._file = None
        if receipt.kind == "conflict":
            log.warning("conflict: instance %s came again with another data set", verdict.sop_instance)
        return Outcome(receipt.kind)

    def _judge(self) -> StorageUids | Refusal:
        for name, uid in (("Class", self._command.sop_class), ("Instance", self._command.sop_instance)):
            if not is_uid(uid):
                message = f"Affected SOP {name} UID is missing or malformed"
                return Refusal("malformed_uid", CANNOT_UNDERSTAND, message)
        return judge(self._head, self._command.sop_class, self._command.sop_instance)

    def _no_room(self) -> Outcome:
        caller = describe(self._visit.caller)
        if self._refusal:
            _chatter.say(logging.WARNING, "refused an object from %s: %s", caller, self._refusal)
            return Outcome("too_large", OUT_OF_RESOURCES, self._refusal)
        _chatter.say(logging.ERROR, "no room for an object from %s: %s", caller, self._fault)
        return Outcome("no_room", OUT_OF_RESOURCES, "out of resources, keep your copy and send again")

    def _reason(self, refusal: Refusal) -> dict[str, str]:
        caller = self._visit.caller
        return {
            "code": refusal.code,
            "message": refusal.message,
            "element": f"{refusal.element:08X}" if refusal.element else "",
            "status": f"{refusal.status:04X}",
            "source": "association",
            "calling_ae": caller.calling_ae,
            "called_ae": caller.called_ae,
            "caller_ip": caller.ip,
            "transfer_syntax": self._transfer_syntax,
            "SOPClassUID": self._command.sop_class if is_uid(self._command.sop_class) else "",
            "SOPInstanceUID": self._command.sop_instance if is_uid(self._command.sop_instance) else "",
        }


def describe(caller: Caller) -> str:
    """A caller for a log line; AE titles were checked when the association began."""
    return f"{caller.calling_ae}@{caller.ip}"


def _describe(error: OSError | StorageFull) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
