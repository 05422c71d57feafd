"""One association from its first byte to its last: the acceptor's side of PS3.8 section 9.2."""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING, Protocol

from fiona_dagster.dicom import VERIFICATION, is_storage_class, is_uid, pdu
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE, STORAGE_COMMITMENT
from fiona_dagster.errors import UnreadableDicom
from fiona_dagster.landing import Caller, Counters, Landing
from fiona_dagster.landing.asked import awaits_answer
from receiver.admission import Rejection, printable
from receiver.exchange import Abort, Ended, Exchange
from receiver.storage import describe
from receiver.stream import PeerGone, PeerSilent, Stream

if TYPE_CHECKING:
    from fiona_dagster.config import ReceiverSettings
    from receiver.throttle import ThrottledLog
    from receiver.tls import Tls

log = logging.getLogger("fiona.receiver")

_LINGER = 2.0


class House(Protocol):
    """What an association needs from the port that it came to."""

    settings: ReceiverSettings
    landing: Landing
    chatter: ThrottledLog
    counters: Counters
    tls: Tls | None

    def admit(self, association: Association, request: pdu.AssociateRequest) -> int | Rejection:
        """Takes one of the places, or says why not."""

    def welcome(self, association: Association) -> bool:
        """It is no guest of the lobby any more; False if it was turned out."""

    def leave(self, place: int) -> None:
        """Gives it back."""


class Association(Exchange):
    """Serves one connection. Runs in a thread of its own; :meth:`run` never raises for what a peer does.

    Attributes:
        ip: the peer's address.
        deadline: when its A-ASSOCIATE-RQ must be here, on the monotonic clock.
        certificate: names of the client certificate, see :func:`receiver.tls.certificate_names`.
    """

    def __init__(self, sock: socket.socket, ip: str, house: House) -> None:
        super().__init__(sock, house.settings, house.landing, house.counters)
        self.deadline = self.quiet_since + house.settings.artim_seconds
        self.ip = ip
        self.certificate: frozenset[str] = frozenset()
        self._place: int | None = None
        self._sock = sock
        self._house = house

    def run(self) -> None:
        """Serves until release, abort, time-out, or the connection's end."""
        reason, how = "released", "released"
        try:
            if self._begin():
                while True:
                    self._next_pdu()
        except Ended as end:
            reason = str(end)
            how = "released" if reason == "released" else "aborted_by_peer"
        except Abort as abort:
            reason, how = f"aborted by us: {abort}", "aborted_by_us"
            self._send_quietly(pdu.encode_abort(abort.reason))
        except PeerSilent:
            reason, how = "aborted by us: nothing came for too long", "aborted_by_us"
            self._send_quietly(pdu.encode_abort(pdu.ABORT_NO_REASON))
        except PeerGone:
            reason, how = "connection broke", "broken"
        finally:
            if self._visit is not None:
                self._house.counters.add(f"ends.{how}")
                self._house.counters.add("open", -1)
            self._end(reason)

    def break_off(self) -> None:
        """Ends it from another thread: A-ABORT, then the connection is shut.

        One with TLS is shut without A-ABORT: two threads can't use its state at once.
        """
        if self._house.tls is None:
            self._send_quietly(pdu.encode_abort(pdu.ABORT_NO_REASON))
        self.turn_out()

    def fileno(self) -> int:
        """The connection's descriptor, so that a selector can wait for its first byte."""
        return self._sock.fileno()

    def turn_out(self) -> None:
        """Ends it from another thread, at once and without a word."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # leaves the state of TLS alone
        except OSError:
            return  # it was closed already

    def drop(self) -> None:
        """Ends it without a word before :meth:`run` was called."""
        self._sock.close()

    def leave(self) -> None:
        """Gives its place back, however it ended."""
        if self._place is not None:
            self._house.leave(self._place)
            self._place = None

    def _end(self, reason: str) -> None:
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None
        if self._visit is not None:
            self._visit.close()
            counts = ", ".join(f"{kind} {count}" for kind, count in sorted(self._counts.items()))
            log.info(
                "association with %s: %s (%s)", describe(self._visit.caller), reason, counts or "nothing"
            )
        elif reason != "released":
            self._house.chatter.say(logging.INFO, "connection from %s: %s", self.ip, reason)
        try:
            self._sock.shutdown(socket.SHUT_WR)
            self._stream.drain(_LINGER)
        except OSError:
            pass  # the peer was faster
        self._sock.close()

    # -- establishing ---------------------------------------------------------------------------

    def _begin(self) -> bool:
        if self._house.tls is not None:
            self._secure(self._house.tls)
        left = self._left()
        self._stream.limit(left, left)
        kind, length = self._header()
        if kind != pdu.ASSOCIATE_RQ:
            known = pdu.ASSOCIATE_RQ <= kind <= pdu.ABORT
            reason = pdu.ABORT_UNEXPECTED if known else pdu.ABORT_UNRECOGNIZED
            raise Abort(reason, "the first PDU is no A-ASSOCIATE-RQ")
        if length > pdu.MAX_ASSOCIATE:
            raise Abort(pdu.ABORT_BAD_VALUE, "A-ASSOCIATE-RQ is too long")
        try:
            request = pdu.decode_associate_request(self._stream.take_long(length))
        except UnreadableDicom as error:
            raise Abort(pdu.ABORT_BAD_VALUE, str(error)) from None
        admitted = self._house.admit(self, request)
        if isinstance(admitted, Rejection):
            self._house.chatter.say(
                logging.WARNING,
                "rejected an association of %s@%s with %s: %s",
                *(printable(request.calling_ae), self.ip, printable(request.called_ae), admitted.why),
            )
            self._house.counters.add(f"rejections.{admitted.kind}")
            self._send(pdu.encode_reject(admitted.cause))
            return False
        self._place = admitted
        if not self._house.welcome(self):
            raise PeerGone
        self._accept(request)
        return True

    def _left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.01)

    def _secure(self, tls: Tls) -> None:
        from receiver.tls import HandshakeFailed, certificate_names

        try:
            secured = tls.wrap(self._sock, self._left())
        except HandshakeFailed as failure:
            self._house.counters.add("rejections.tls")
            raise Ended(f"no TLS: {failure}") from None
        self._sock = secured
        self._stream = Stream(secured, self._flush)
        self.certificate = certificate_names(secured)

    def _accept(self, request: pdu.AssociateRequest) -> None:
        roles = self._roles(request)
        commitment = self._awaited or request.calling_ae in self._house.settings.commitment
        answers = [_answer(context, commitment=commitment) for context in request.contexts]
        self._contexts = {a.identifier: a.transfer_syntax for a in answers if a.result == pdu.ACCEPTED}
        self._peer_max_pdu = request.max_pdu
        caller = Caller(request.calling_ae, printable(request.called_ae) or "-", self.ip)
        self._visit = self._house.landing.visit(caller)
        self._house.counters.add("associations")
        self._house.counters.add("open")
        self._stream.grow()
        self._send(pdu.encode_associate_accept(request, answers, self._max_pdu, roles))

    def _roles(self, request: pdu.AssociateRequest) -> tuple[str, ...]:
        """A PACS that a delivery asked for storage commitment may report as the SCP of it."""
        if not any(context.abstract_syntax == STORAGE_COMMITMENT for context in request.contexts):
            return ()
        self._awaited = awaits_answer(self._house.landing.root, request.calling_ae)
        return (STORAGE_COMMITMENT,) if self._awaited and STORAGE_COMMITMENT in request.scp_roles else ()

    def _send_quietly(self, data: bytes) -> None:
        try:
            self._sock.settimeout(_LINGER)
            self._sock.sendall(data)
        except OSError:
            return  # the peer is gone; that is what we were about to say


def _answer(context: pdu.ProposedContext, *, commitment: bool) -> pdu.AnsweredContext:
    """Accepts verification and all storage, with the sender's own choice: the first transfer syntax.

    Except that explicit VR goes before implicit: private attributes keep their VR then. Storage commitment is
    accepted for those who may ask for it.
    """
    usable = [syntax for syntax in context.transfer_syntaxes if is_uid(syntax)]
    service = context.abstract_syntax
    known = service == VERIFICATION or is_storage_class(service)
    if not known and not (commitment and service == STORAGE_COMMITMENT):
        result = pdu.ABSTRACT_SYNTAX_REFUSED
    elif not usable:
        result = pdu.TRANSFER_SYNTAX_REFUSED
    else:
        explicit = usable[0] == IMPLICIT_LITTLE and EXPLICIT_LITTLE in usable
        choice = EXPLICIT_LITTLE if explicit else usable[0]
        return pdu.AnsweredContext(context.identifier, pdu.ACCEPTED, choice)
    return pdu.AnsweredContext(context.identifier, result, (usable or [IMPLICIT_LITTLE])[0])
