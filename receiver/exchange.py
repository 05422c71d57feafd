"""What is said on an established association: P-DATA-TF come in, each message is answered (PS3.8 9.3.5)."""

from __future__ import annotations

import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

from fiona_dagster.dicom import KnownHeads, dimse, pdu
from fiona_dagster.errors import UnreadableDicom
from fiona_dagster.landing import Counters, Landing, Visit
from receiver.commitment import IncomingReport, IncomingRequest
from receiver.storage import IncomingObject
from receiver.stream import Stream
from receiver.usual import UsualRequest

if TYPE_CHECKING:
    from fiona_dagster.config import ReceiverSettings

_SLACK = 1024
_PDU_HEADER, _PDV_HEADER = struct.Struct(">BxI"), struct.Struct(">IBB")
_BOTH = struct.Struct(">BxIIBB")
"""Of a P-DATA-TF that holds one presentation data value, as nearly all do."""
_MOST_USUAL = 32


class Abort(Exception):
    """We end the association with A-ABORT, for a reason of PS3.8 table 9-26."""

    def __init__(self, reason: int, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class Ended(Exception):
    """The association came to its end."""


class Exchange:
    """The messages of one association. Belongs to one thread.

    Args:
        sock: the connection.
        settings: of the port that it came to.
        landing: the door to its archive.
        counters: what is counted.

    Attributes:
        busy: a message has begun and is not yet answered.
        quiet_since: when the last one was answered, on the monotonic clock.
    """

    def __init__(
        self, sock: socket.socket, settings: ReceiverSettings, landing: Landing, counters: Counters
    ) -> None:
        self.busy = False
        self.quiet_since = time.monotonic()
        self._settings, self._landing, self._counters = settings, landing, counters
        self._stream = Stream(sock, self._flush)
        self._idle = settings.idle_seconds
        self._max_pdu = settings.max_pdu
        self._largest = settings.max_object_mb << 20
        self._contexts: dict[int, str] = {}
        self._peer_max_pdu = 0
        self._visit: Visit | None = None
        self._awaited = False
        self._incoming: IncomingObject | IncomingRequest | None = None
        self._command: dimse.Command | None = None
        self._known_heads = KnownHeads()
        self._usual: dict[int, UsualRequest] = {}
        self._collected = bytearray()
        self._received = 0
        self._begun = 0.0
        self._context = 0
        self._counts: Counter[str] = Counter()

    def _header(self) -> tuple[int, int]:
        kind, length = self._stream.unpack(_PDU_HEADER)
        return kind, length

    def _next_pdu(self) -> None:
        self._stream.limit(self._idle, None)
        if self._usual_pdu():
            return
        kind, length = self._header()
        self._stream.limit(self._idle, self._idle)
        if kind == pdu.P_DATA:
            if length > self._max_pdu + _SLACK:
                raise Abort(pdu.ABORT_BAD_VALUE, "P-DATA-TF is longer than agreed")
            self._p_data(length)
        elif kind == pdu.RELEASE_RQ:
            self._stream.take_long(min(length, _SLACK))
            self._send(pdu.encode_release_response())
            raise Ended("released")
        elif kind == pdu.ABORT:
            raise Ended("aborted by the peer")
        elif pdu.ASSOCIATE_RQ <= kind <= pdu.RELEASE_RP:
            raise Abort(pdu.ABORT_UNEXPECTED, "unexpected PDU")
        else:
            raise Abort(pdu.ABORT_UNRECOGNIZED, "unknown PDU")

    def _usual_pdu(self) -> bool:
        """Takes at once what nearly every PDU is: a request like one before, or data, as one value."""
        stream = self._stream
        head = stream.look(_BOTH.size)
        if head is None:
            return False
        kind, length, size, context, control = _BOTH.unpack(head)
        if kind != pdu.P_DATA or size != length - 4 or not 2 <= size <= self._max_pdu:
            return False
        if self._command is None:
            return not self._collected and self._usual_request(_PDU_HEADER.size + length, context)
        if context != self._context or control & 1:
            return False
        stream.skip(_BOTH.size)
        stream.limit(self._idle, self._idle)
        self._data_part(context, size - 2, last=bool(control & 2))
        return True

    def _usual_request(self, size: int, context: int) -> bool:
        whole = self._stream.look(size) if size in self._usual else None
        command = self._usual[size].read(bytes(whole)) if whole is not None else None
        if command is None:
            return False
        self._stream.skip(size)
        self.busy = True
        self._context = context
        self._dispatch(command)
        return True

    def _p_data(self, remaining: int) -> None:
        while remaining:
            if remaining < 6:
                raise Abort(pdu.ABORT_BAD_VALUE, "P-DATA-TF is cut")
            length, context, control = self._stream.unpack(_PDV_HEADER)
            remaining -= 4 + length
            if length < 2 or remaining < 0:
                raise Abort(pdu.ABORT_BAD_VALUE, "presentation data value does not fit its PDU")
            if context not in self._contexts:
                raise Abort(pdu.ABORT_BAD_VALUE, "presentation context was not accepted")
            if control & 1:
                self._command_part(context, length - 2, last=bool(control & 2))
            else:
                self._data_part(context, length - 2, last=bool(control & 2))

    def _command_part(self, context: int, length: int, *, last: bool) -> None:
        if self._command is not None:
            raise Abort(pdu.ABORT_UNEXPECTED, "a command came where a data set was expected")
        if len(self._collected) + length > dimse.MAX_COMMAND:
            raise Abort(pdu.ABORT_BAD_VALUE, "command set is too long")
        self.busy = True
        self._collected += self._stream.take_long(length)
        if not last:
            return
        try:
            command = dimse.decode_command(bytes(self._collected))
        except UnreadableDicom as error:
            raise Abort(pdu.ABORT_BAD_VALUE, str(error)) from None
        if len(self._collected) == length:
            self._learn(command, context, length)
        self._collected.clear()
        self._context = context
        self._dispatch(command)

    def _learn(self, command: dimse.Command, context: int, length: int) -> None:
        """Keeps a request that came as one value, by the size of the PDU that this would be alone."""
        whole = _BOTH.pack(pdu.P_DATA, length + 6, length + 2, context, 3) + self._collected
        usual = UsualRequest.of(whole, command)
        if usual is not None:
            if len(self._usual) >= _MOST_USUAL:
                self._usual.clear()
            self._usual[len(whole)] = usual

    def _dispatch(self, command: dimse.Command) -> None:
        if not command.has_data_set:
            self._answer_plain(command)
            return
        self._command = command
        self._received = 0
        self._begun = time.monotonic()
        self._stream.until = self._begun + self._settings.object_seconds
        landing, visit, syntax = self._landing, self._visit, self._contexts[self._context]
        if command.field == dimse.C_STORE_RQ and visit is not None:
            self._incoming = IncomingObject(landing, visit, command, syntax, self._known_heads)
        elif command.field == dimse.N_ACTION_RQ and visit is not None:
            wanted = visit.caller.calling_ae in self._settings.commitment
            self._incoming = IncomingRequest(landing.root, visit, command, syntax, wanted=wanted)
        elif command.field == dimse.N_EVENT_REPORT_RQ and visit is not None:
            self._incoming = IncomingReport(landing.root, visit, command, syntax, wanted=self._awaited)

    def _answer_plain(self, command: dimse.Command) -> None:
        self.busy = False
        if command.field & dimse.RESPONSE or command.field == dimse.C_CANCEL_RQ:
            return  # we asked nothing, and have nothing to cancel
        if command.field == dimse.C_ECHO_RQ:
            self._counts["echo"] += 1
            self._counters.add("echoes")
            self._respond(command, dimse.SUCCESS)
        elif command.field == dimse.C_STORE_RQ:
            self._counts["refused"] += 1
            self._respond(command, dimse.CANNOT_UNDERSTAND, "C-STORE without a data set")
        else:
            self._respond(command, dimse.UNRECOGNIZED_OPERATION)

    def _data_part(self, context: int, length: int, *, last: bool) -> None:
        if self._command is None or context != self._context:
            raise Abort(pdu.ABORT_UNEXPECTED, "a data set came without its command")
        incoming = self._incoming
        self._received += length
        if self._received > self._largest:
            self._refuse_size(incoming)
        while length:
            part = self._stream.chunk(length)
            length -= len(part)
            if incoming is not None:
                incoming.write(part)
        if last:
            command, self._command, self._incoming = self._command, None, None
            self._stream.until = 0.0
            self._finish(command, incoming)
            self._stream.seen()

    def _refuse_size(self, incoming: IncomingObject | IncomingRequest | None) -> None:
        """Keeps nothing of it; who goes on for as long again is sent away."""
        if incoming is None or self._received > 2 * self._largest:
            raise Abort(pdu.ABORT_NO_REASON, "a data set is larger than receiver.max_object_mb")
        incoming.refuse("the object is larger than receiver.max_object_mb")

    def _finish(self, command: dimse.Command, incoming: IncomingObject | IncomingRequest | None) -> None:
        if incoming is None:
            self._answer_plain(command)
            return
        outcome = incoming.finish()
        self._counts[outcome.kind] += 1
        self._respond(command, outcome.status, outcome.comment, outcome.element)
        self.quiet_since = time.monotonic()
        if isinstance(incoming, IncomingObject):
            self._counters.instance(outcome.kind, self._received, self.quiet_since - self._begun)
            incoming.prepare_next()
        self.busy = False

    def _respond(self, command: dimse.Command, status: int, comment: str = "", element: int = 0) -> None:
        answer = dimse.encode_response(command, status, comment, element)
        self._send(pdu.encode_command(self._context, answer, self._peer_max_pdu))

    def _flush(self) -> None:
        if self._incoming is not None:
            self._incoming.flush()

    def _send(self, data: bytes) -> None:
        self._stream.send(data)
