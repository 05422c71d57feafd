"""Gets single instances back from a PACS, byte for byte: C-GET, or C-MOVE to a listener of ours (PS3.4 C).

Belongs here: asking for one instance in the transfer syntax that it was sent in, and taking what comes.
Stays out: whether it is the same (:mod:`sameness`). Nothing is held in memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Protocol

from fiona_dagster.dicom import dimse
from fiona_dagster.dicom.clients import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN
from fiona_dagster.dicom.conversation import SLOWEST_BYTES_PER_SECOND
from fiona_dagster.dicom.datasets import encode, tag_of
from fiona_dagster.dicom.instances import Instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.dicom.sources import move
from fiona_dagster.dicom.taking import Listener
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable

STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
ATTEMPTS = 3
"""How often an instance is asked for when the association breaks."""
LONGEST_SECONDS = 600.0
"""How long one instance may take to come, beside the time for its bytes: a PACS may have it on tape."""
_GET_CONTEXTS = [(STUDY_ROOT_GET, EXPLICIT_LITTLE_ENDIAN), (STUDY_ROOT_GET, IMPLICIT_LITTLE_ENDIAN)]
_PENDING = (0xFF00, 0xFF01)
_OUT_OF_RESOURCES = 0xA7
_REFUSED = (0x0122, 0x0124, 0xA900)
"""SOP class not supported, not authorized, identifier does not match SOP class (PS3.4 C.4.2.1.5)."""


class TooLong(Exception):
    """More came than the instance can have; it is another one."""


class NotNow(PeerUnavailable):
    """The peer answers, and can't give this instance at present: no means, or its way to us is broken."""


def bounded(out: IO[bytes], limit: int) -> Callable[[bytes], None]:
    """Writes to ``out`` and raises :class:`TooLong` beyond so many bytes."""
    written = 0

    def write(part: bytes) -> None:
        nonlocal written
        written += len(part)
        if written > limit:
            raise TooLong
        out.write(part)

    return write


class Retriever(Protocol):
    """A way of getting instances back; a context manager."""

    def __enter__(self) -> Retriever:
        """Opens what is needed."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes everything."""

    def fetch(self, instance: Instance, out: IO[bytes], limit: int) -> bool:
        """Writes the data set of an instance, as the peer gives it, to an empty file.

        Args:
            instance: which, and in which transfer syntax.
            out: gets the data set, without file meta information.
            limit: bytes beyond which it can't be the same any more.

        Returns:
            Whether the peer gave it, whole and within the limit.

        Raises:
            DeliveryRefused: the peer gives nothing back to us in this way.
            NotNow: it has no means to do so at present.
            PeerUnavailable: it can't be reached, or broke off.
        """


def _query(instance: Instance) -> dict[str, str]:
    return {
        "QueryRetrieveLevel": "IMAGE",
        "StudyInstanceUID": instance.study,
        "SeriesInstanceUID": instance.series,
        "SOPInstanceUID": instance.sop_instance,
    }


class Getter:
    """C-GET: instances come back on the association on which they are asked for (PS3.4 C.4.3).

    Args:
        peer: whom to ask.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._context: Context | None = None
        self._association: Requestor | None = None
        self._answers = False

    def __enter__(self) -> Getter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._association is not None:
            self._association.__exit__(kind, error, trace)

    def fetch(self, instance: Instance, out: IO[bytes], limit: int) -> bool:
        """See :class:`Retriever`."""
        broke: Broken | None = None
        for _ in range(ATTEMPTS):
            out.seek(0)
            out.truncate()
            try:
                association = self._open(instance.context)
                seconds = LONGEST_SECONDS + limit / SLOWEST_BYTES_PER_SECOND
                return instance.context in association.accepted and self._fetch(
                    association, instance, bounded(out, limit), time.monotonic() + seconds
                )
            except TooLong:
                self._drop()
                return False
            except Broken as broken:
                self._drop()
                broke = broken
                if broken.timed_out:
                    break
            except BaseException:
                self._drop()
                raise
        if broke is not None and broke.aborted and not self._answers:  # Orthanc says so that it may not
            raise DeliveryRefused(f"{self._peer.name}: aborts when it is asked for something by C-GET")
        raise PeerUnavailable(f"{self._peer.name}: C-GET broke off: {broke}")

    def _open(self, context: Context) -> Requestor:
        """An association with one context for what comes back, so that its transfer syntax is known."""
        if self._association is not None and self._context == context:
            return self._association
        if self._association is not None:
            self._association.release()
        self._association = Requestor(self._peer, [*_GET_CONTEXTS, context], scp_roles=(context[0],))
        self._context = context
        if not any(each in self._association.accepted for each in _GET_CONTEXTS):
            raise DeliveryRefused(f"{self._peer.name}: gives nothing back by C-GET (study root)")
        return self._association

    def _drop(self) -> None:
        if self._association is not None:
            self._association.abort()
        self._association = None

    def _fetch(
        self, association: Requestor, instance: Instance, write: Callable[[bytes], object], deadline: float
    ) -> bool:
        context = next(each for each in _GET_CONTEXTS if each in association.accepted)
        query = {tag_of(keyword): value for keyword, value in _query(instance).items()}
        number = association.next_message_id()
        association.demand(
            context,
            dimse.encode_request(dimse.C_GET_RQ, number, STUDY_ROOT_GET, data_set=True),
            encode(query, explicit=context[1] == EXPLICIT_LITTLE_ENDIAN),
        )
        given = False
        while True:
            if time.monotonic() > deadline:
                raise Broken("it does not come to an end", timed_out=True)
            message = association.command(self._peer.timeout)
            self._answers = True
            if isinstance(message, dimse.Command):
                if message.field != dimse.C_STORE_RQ or not message.has_data_set:
                    raise Broken("the peer asks for something else in the middle of C-GET")
                wanted = not given and message.sop_instance == instance.sop_instance
                association.take(write if wanted else bounded_away(deadline))
                association.respond(
                    instance.context, message, dimse.SUCCESS if wanted else dimse.CANNOT_UNDERSTAND
                )
                given = given or wanted
                continue
            if message.field != dimse.C_GET_RQ | dimse.RESPONSE or message.message_id != number:
                raise Broken("the answer belongs to no request of ours")
            if message.has_data_set:
                association.take(_away)
            if message.status in _PENDING:
                continue
            if not given and message.status >> 8 == _OUT_OF_RESOURCES:
                raise NotNow(f"C-GET: status {message.status:04X}")
            return given


def _away(_: bytes) -> None:
    pass


def bounded_away(deadline: float) -> Callable[[bytes], None]:
    """Takes what was not asked for, until the deadline: nobody knows how much of it there is."""

    def away(_: bytes) -> None:
        if time.monotonic() > deadline:
            raise Broken("something else comes, without an end", timed_out=True)

    return away


class Mover:
    """C-MOVE to a listener of ours: for a PACS that does no C-GET (PS3.4 C.4.2).

    Args:
        peer: whom to ask.
        listener: where instances come to; the PACS knows its AE title with our address and its port.
    """

    def __init__(self, peer: Peer, listener: Listener) -> None:
        self._peer = peer
        self._listener = listener
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Mover:
        self._exit.enter_context(self._listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    def fetch(self, instance: Instance, out: IO[bytes], limit: int) -> bool:
        """See :class:`Retriever`."""
        out.seek(0)
        out.truncate()
        with self._listener.expecting(instance, bounded(out, limit)) as arrival:
            moved = move(
                self._peer,
                instance.study,
                instance.series,
                self._listener.ae_title,
                instance=instance.sop_instance,
                longest=LONGEST_SECONDS + limit / SLOWEST_BYTES_PER_SECOND,
            )
            if arrival.wait(self._peer.timeout if moved.completed else 0.0):
                if isinstance(arrival.error, Broken):
                    raise PeerUnavailable(f"{self._peer.name}: C-MOVE broke off: {arrival.error}")
                if arrival.error is not None and not isinstance(arrival.error, TooLong):
                    raise arrival.error
                return arrival.error is None
        if self._listener.turned_away:
            raise NotNow(
                f"C-MOVE to {self._listener.ae_title}: somebody connected from "
                f"{', '.join(sorted(self._listener.turned_away))} and was turned away; if that is the PACS, "
                "name it in move_from"
            )
        gives_nothing = moved.status == dimse.SUCCESS and not moved.failed and not moved.completed
        if not (gives_nothing or arrival.refused or moved.status in _REFUSED):
            raise NotNow(
                f"C-MOVE to {self._listener.ae_title}: {moved}; check that the PACS knows it with our "
                "address and move_port"
            )
        return False
