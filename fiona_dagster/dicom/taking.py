"""A listener that takes the one instance that is expected and nothing else: where a C-MOVE of ours goes."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from fiona_dagster.dicom import dimse, pdu
from fiona_dagster.dicom.conversation import OUR_MAX_PDU, Conversation
from fiona_dagster.dicom.instances import Instance
from fiona_dagster.dicom.wire import Broken, Wire
from fiona_dagster.errors import Busy, ConfigurationError, UnreadableDicom

if TYPE_CHECKING:
    import ssl

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_CONNECTIONS = 8
"""Connections that are served at the same time; more are closed."""
_POLL_SECONDS = 0.2


@dataclass
class Arrival:
    """An instance that is expected.

    Attributes:
        instance: which.
        write: gets its data set.
        error: why it was not taken whole, once it came; None: it was.
        refused: somebody came who has it in no transfer syntax that is taken.
    """

    instance: Instance
    write: Callable[[bytes], object]
    error: Exception | None = None
    refused: bool = False
    _taken: bool = False
    _done: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, seconds: float) -> bool:
        """Whether it came, or something in its place, within so many seconds."""
        return self._done.wait(seconds)

    def claim(self) -> bool:
        """Whether the caller may take it: it comes once."""
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken

    def end(self, error: Exception | None) -> None:
        """It came."""
        self.error = error
        self._done.set()


class Listener:
    """A Storage SCP for single expected instances, to be used as a context manager.

    Args:
        host: address to listen on; empty: all of them.
        port: TCP port that the peer knows.
        ae_title: ours, as the peer knows it.
        seconds: how long any single wait may take.
        admitted: networks that are listened to; everybody else is turned away.
        originator: AE title that asks for what comes. A peer need not repeat it (PS3.7 section 9.1.1.1.6);
            one that names another answers somebody else.
        tls: how connections are secured; None: they are not.

    Attributes:
        turned_away: addresses that were not listened to, a few of them.

    Raises:
        Busy: on entry: the port is taken and does not get free; another delivery uses it.
        ConfigurationError: on entry: there is no such address, or the port is forbidden.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ae_title: str,
        seconds: float,
        *,
        admitted: Collection[Network],
        originator: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.ae_title = ae_title
        self.turned_away: set[str] = set()
        self._admitted = admitted
        self._originator = originator
        self._address = (host, port)
        self._seconds = seconds
        self._tls = tls
        self._expected: Arrival | None = None
        self._stop = threading.Event()
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._thread = threading.Thread(target=self._accept, name=f"listener {ae_title}", daemon=True)

    def __enter__(self) -> Listener:
        self._server = self._bind()
        self._server.settimeout(_POLL_SECONDS)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._server.close()

    @contextlib.contextmanager
    def expecting(self, instance: Instance, write: Callable[[bytes], object]) -> Iterator[Arrival]:
        """Takes this instance, in its transfer syntax, once; anything else is refused."""
        arrival = Arrival(instance, write)
        self._expected = arrival
        try:
            yield arrival
        finally:
            self._expected = None
            if not arrival.claim() and not arrival.wait(0):
                arrival.wait(self._seconds)  # it is being written to what the caller is about to close

    def _bind(self) -> socket.socket:
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return socket.create_server(self._address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
                    raise ConfigurationError(
                        f"move_port {self._address[1]}: can't be listened on ({why}); correct it or move_host"
                    ) from None
                if time.monotonic() > deadline:
                    raise Busy(
                        f"move_port {self._address[1]}: in use; another delivery compares at this moment, or "
                        "another program has the port"
                    ) from None
                time.sleep(_POLL_SECONDS)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, address = self._server.accept()
            except TimeoutError:
                continue
            except OSError:  # no descriptors or memory: who waits has to wait until there are some
                self._stop.wait(_POLL_SECONDS)
                continue
            if not self._is_admitted(address[0]) or not self._places.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # no more threads
                connection.close()
                self._places.release()

    def _is_admitted(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        found = getattr(address, "ipv4_mapped", None) or address
        if any(found in network for network in self._admitted):
            return True
        if len(self.turned_away) < MOST_CONNECTIONS:
            self.turned_away.add(str(found))
        return False

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(self._seconds)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._converse(Wire(connection, self._seconds))
        except (Broken, OSError):  # the C-MOVE tells what is missing
            pass
        finally:
            connection.close()
            self._places.release()

    def _converse(self, wire: Wire) -> None:
        deadline = time.monotonic() + self._seconds
        kind, body = wire.next_pdu(deadline, pdu.MAX_ASSOCIATE)
        if kind != pdu.ASSOCIATE_RQ:
            return
        try:
            request = pdu.decode_associate_request(body)
        except UnreadableDicom:
            return
        arrival = self._expected
        if request.called_ae != self.ae_title or arrival is None:
            refusal = pdu.encode_reject(pdu.REJECT_CALLED_AE if arrival else pdu.REJECT_CONGESTION)
            wire.send([memoryview(refusal)], deadline)
            return
        answers, context = _answers(request, arrival.instance)
        if not any(each.result == pdu.ACCEPTED for each in answers):
            arrival.refused = True
        accept = pdu.encode_associate_accept(request, answers, OUR_MAX_PDU)
        wire.send([memoryview(accept)], deadline)
        conversation = Conversation(wire, self._seconds)
        try:
            while not self._stop.is_set():
                message = conversation.command(self._seconds)
                if not isinstance(message, dimse.Command):
                    raise Broken("an answer, and nothing was asked")
                status = self._take(conversation, message, arrival)
                conversation.reply(context, message, status, request.max_pdu)
        finally:
            conversation.abort()

    def _take(self, conversation: Conversation, message: dimse.Command, arrival: Arrival) -> int:
        wanted = message.field == dimse.C_STORE_RQ and message.has_data_set
        originator = message.originator.decode("ascii", "replace").strip(" \0")
        ours = originator in ("", self._originator)
        if not (wanted and ours and _is(arrival.instance, message) and arrival.claim()):
            if message.has_data_set:
                conversation.take(lambda _: None)
            return dimse.CANNOT_UNDERSTAND if wanted else dimse.UNRECOGNIZED_OPERATION
        try:
            conversation.take(arrival.write)
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            arrival.end(error)
            raise Broken("what came can't be taken") from None
        arrival.end(None)
        return dimse.SUCCESS


def _is(instance: Instance, message: dimse.Command) -> bool:
    return (message.sop_class, message.sop_instance) == (instance.sop_class, instance.sop_instance)


def networks_of(host: str) -> list[Network]:
    """The addresses of a host as networks of one address each; none when nobody knows it.

    Args:
        host: name or address.
    """
    with contextlib.suppress(OSError):
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
        return [ipaddress.ip_network(each) for each in sorted(found)]
    return []


def _answers(request: pdu.AssociateRequest, instance: Instance) -> tuple[list[pdu.AnsweredContext], int]:
    """Takes one context for the instance in its own transfer syntax; gives that context's id, or 1."""
    taken = 0
    answers = []
    for each in request.contexts:
        syntax = instance.transfer_syntax
        if each.abstract_syntax != instance.sop_class:
            result = pdu.ABSTRACT_SYNTAX_REFUSED
        elif taken or syntax not in each.transfer_syntaxes:
            result = pdu.TRANSFER_SYNTAX_REFUSED
        else:
            result, taken = pdu.ACCEPTED, each.identifier
        answers.append(pdu.AnsweredContext(each.identifier, result, syntax))
    return answers, taken or 1
