"""One association that we ask for: the requestor's side of PS3.8 section 9.2, byte for byte.

Belongs here: negotiation, objects out and answers in, the end. Stays out: what is stored and tried again
(:mod:`sender`), sockets (:mod:`wire`). Answers are read into bounded memory, whatever lengths they claim.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from fiona_dagster.dicom import dimse, pdu
from fiona_dagster.dicom.conversation import MAX_ANSWER, OUR_MAX_PDU, SLOWEST_BYTES_PER_SECOND, Conversation
from fiona_dagster.dicom.opened import Open
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.wire import Broken, Wire, connect
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, UnreadableDicom

Context = tuple[str, str]
"""SOP class and transfer syntax."""
Response = tuple[dimse.Response, bytes]
"""An answer and its data set, empty if it has none."""

LARGEST_PDU = 262_144
"""What we send at most, also to a peer without a limit."""
SMALLEST_PDU = 128
"""A peer that takes less at a time can't be served."""
BLOCK = 1024 * 1024
"""Bytes that are read at a time from a file that is not held in memory."""

_RELEASE_SECONDS = 5.0
_PDV = struct.Struct(">BxIIBB")


class Requestor(Conversation):
    """An established association. Use it as a context manager: it ends with a release, or an abort.

    Args:
        peer: with whom.
        contexts: SOP classes and transfer syntaxes to propose, each as a presentation context of its own.
        scp_roles: SOP classes that we offer to be the SCP of.

    Attributes:
        accepted: presentation context ID of each context that the peer took.
        step: bytes of a data set in one PDU.

    Raises:
        PeerUnavailable: it can't be had now.
        DeliveryRefused: the peer refuses us for good, or is not who its certificate should say.
        ConfigurationError: the files for TLS can't be used.
    """

    def __init__(self, peer: Peer, contexts: Sequence[Context], scp_roles: Sequence[str] = ()) -> None:
        self._peer = peer
        self._message = 0
        super().__init__(Wire(connect(peer), peer.timeout), peer.timeout)
        try:
            self.accepted, limit = self._negotiate(contexts, scp_roles)
        except BaseException:
            self._wire.close()
            raise
        self.step = (min(limit or LARGEST_PDU, LARGEST_PDU) - 6) & ~1

    def __enter__(self) -> Requestor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    # -- establishing ---------------------------------------------------------------------------

    def _negotiate(self, contexts: Sequence[Context], roles: Sequence[str]) -> tuple[dict[Context, int], int]:
        name = self._peer.name
        proposed = [
            pdu.ProposedContext(2 * number + 1, sop_class, (syntax,))
            for number, (sop_class, syntax) in enumerate(contexts)
        ]
        request = pdu.encode_associate_request(
            self._peer.called, self._peer.calling, proposed, OUR_MAX_PDU, roles
        )
        try:
            answer = self._ask(request)
        except Broken as broken:
            raise PeerUnavailable(f"{name}: no association: {broken}") from None
        except UnreadableDicom as error:
            raise PeerUnavailable(f"{name}: no association: {error}; check the port") from None
        if 0 < answer.max_pdu < SMALLEST_PDU:
            raise PeerUnavailable(f"{name}: no association: it takes PDUs of {answer.max_pdu} bytes only")
        wanted = {each.identifier: each for each in proposed}
        accepted: dict[Context, int] = {}
        for each in answer.contexts:
            asked = wanted.get(each.identifier)
            # Another transfer syntax than the one that was proposed is no acceptance.
            if asked and each.result == pdu.ACCEPTED and each.transfer_syntax in asked.transfer_syntaxes:
                accepted[asked.abstract_syntax, each.transfer_syntax] = each.identifier
        return accepted, answer.max_pdu

    def _ask(self, request: bytes) -> pdu.AssociateAccept:
        deadline = time.monotonic() + self._peer.timeout
        self._wire.send([memoryview(request)], deadline)
        kind, body = self._wire.next_pdu(deadline, pdu.MAX_ASSOCIATE)
        if kind == pdu.ASSOCIATE_AC:
            return pdu.decode_associate_accept(body)
        if kind == pdu.ASSOCIATE_RJ:
            raise _rejected(self._peer, pdu.decode_reject(body))
        if kind == pdu.ABORT:
            raise Broken("the peer aborts what we ask for")
        raise Broken("the peer answers with something else; check the port")

    # -- established ----------------------------------------------------------------------------

    def store(self, context: Context, sop_instance: str, data: memoryview | Open) -> None:
        """Sends a C-STORE-RQ and its data set; :meth:`answer` gets what the peer says.

        Args:
            context: one of :attr:`accepted`.
            sop_instance: Affected SOP Instance UID.
            data: the data set, in memory or in a file.

        Raises:
            Broken: the association is gone.
            NotVerified: the file changed, or is not the one that it should be; its last part was not sent,
                the association must be aborted.
        """
        command = dimse.encode_store_request(self.next_message_id(), context[0], sop_instance)
        identifier = self.accepted[context]
        head = pdu.encode_command(identifier, command, self.step + 6)
        if isinstance(data, memoryview):
            deadline = self._deadline(len(data))
            self._wire.send([memoryview(head), *self._pdus(identifier, data, last=True)], deadline)
        else:
            self._wire.send([memoryview(head)], self._deadline(0))
            self._store_file(identifier, data, self._deadline(data.size))

    def _deadline(self, size: int) -> float:
        return time.monotonic() + self._peer.timeout + size / SLOWEST_BYTES_PER_SECOND

    def _pdus(self, identifier: int, data: memoryview, *, last: bool) -> Iterator[memoryview]:
        """Headers and parts of the data set in turn; nothing of it is copied."""
        step, size = self.step, len(data)
        whole = memoryview(_PDV.pack(pdu.P_DATA, step + 6, step + 2, identifier, 0))
        at = 0
        while at + step < size:
            yield whole
            yield data[at : at + step]
            at += step
        rest = size - at
        yield memoryview(_PDV.pack(pdu.P_DATA, rest + 6, rest + 2, identifier, 2 if last else 0))
        yield data[at:]

    def _store_file(self, identifier: int, data: Open, deadline: float) -> None:
        left = data.size
        for part in data.parts(max(BLOCK // self.step, 1) * self.step):
            left -= len(part)
            self._wire.send(list(self._pdus(identifier, part, last=not left)), deadline)

    def answer(self, seconds: float) -> int:
        """The status with which the peer answers the C-STORE that was sent last.

        Args:
            seconds: how long it may take.

        Raises:
            Broken: the association is gone, or the answer belongs to no request of ours.
        """
        return self._response(dimse.C_STORE_RQ, seconds)[0].status

    def ask(self, field: int, context: Context, command: bytes, data: bytes = b"") -> Response:
        """Sends a request and takes its first answer; :meth:`more` gets those behind it.

        Args:
            field: Command Field of the request.
            context: one of :attr:`accepted`.
            command: the command set, with :meth:`next_message_id`.
            data: the data set; empty for none.

        Raises:
            Broken: the association is gone, or the answer belongs to no request of ours.
        """
        self.demand(context, command, data)
        return self.more(field)

    def demand(self, context: Context, command: bytes, data: bytes = b"") -> None:
        """Sends a request and does not wait for what comes back; see :meth:`ask`."""
        identifier = self.accepted[context]
        parts = [memoryview(pdu.encode_command(identifier, command, self.step + 6))]
        if data:
            parts += self._pdus(identifier, memoryview(data), last=True)
        self._wire.send(parts, self._deadline(len(data)))

    def more(self, field: int) -> Response:
        """The next answer to the request that was sent last; see :meth:`ask`."""
        return self._response(field, self._peer.timeout)

    def respond(self, context: Context, command: dimse.Command, status: int) -> None:
        """Answers what the peer asked.

        Raises:
            Broken: the association is gone.
        """
        self.reply(self.accepted[context], command, status, self.step + 6)

    def next_message_id(self) -> int:
        """Message ID of the next request."""
        self._message = self._message % 0xFFFF + 1
        return self._message

    def _response(self, field: int, seconds: float) -> Response:
        with self._waiting(seconds) as deadline:
            response = dimse.decode_response(self._collect(deadline, dimse.MAX_COMMAND, command=True))
            if response.field != field | dimse.RESPONSE or response.message_id != self._message:
                raise Broken("the answer belongs to no request of ours")
            data = self._collect(deadline, MAX_ANSWER, command=False) if response.has_data_set else b""
        return response, data

    # -- the end --------------------------------------------------------------------------------

    def release(self) -> None:
        """Ends the association in order; a peer that does not answer is not waited for long."""
        if self._ended:
            self._wire.close()
            return
        deadline = time.monotonic() + _RELEASE_SECONDS
        try:
            self._wire.set_timeout(min(_RELEASE_SECONDS, self._peer.timeout))
            self._wire.send([memoryview(pdu.encode_release_request())], deadline)
            self._wire.next_pdu(deadline, OUR_MAX_PDU)
        except (Broken, OSError):
            pass  # all answers are here; how it ended changes nothing
        finally:
            self._ended = True
            self._wire.close()


def _rejected(peer: Peer, cause: tuple[int, int, int]) -> PeerUnavailable | DeliveryRefused:
    result, source, reason = cause
    if result == 1:  # rejected-permanent (PS3.8 9.3.4)
        return DeliveryRefused(
            f"{peer.name}: rejects associations from {peer.calling} (source {source}, reason {reason}); "
            "check both AE titles there and in config.json"
        )
    return PeerUnavailable(f"{peer.name}: rejects associations for now (source {source}, reason {reason})")
