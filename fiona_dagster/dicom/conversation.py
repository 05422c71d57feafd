"""What either side of an established association does: messages in, answers out, the end (PS3.8 section 9).

Belongs here: commands, and data sets that go where they are wanted while they come in. Stays out: who asked
for the association (:mod:`requestor`, :mod:`taking`). Memory stays bounded, whatever lengths a peer claims.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

from fiona_dagster.dicom import dimse, pdu
from fiona_dagster.dicom.wire import Broken, Wire
from fiona_dagster.errors import UnreadableDicom

MAX_ANSWER = 8 * 1024 * 1024
"""Largest data set of an answer."""
OUR_MAX_PDU = 16384
"""What we receive at most in one PDU."""
SLOWEST_BYTES_PER_SECOND = 20_000
"""A peer that takes or gives an object more slowly than this is given up: it would hold a slot for days."""


class Conversation:
    """One established association.

    Args:
        wire: the connection.
        seconds: how long any single wait for the peer may take.
    """

    def __init__(self, wire: Wire, seconds: float) -> None:
        self._wire = wire
        self._seconds = seconds
        self._values: deque[tuple[int, bytes]] = deque()
        self._ended = False

    def request(self, seconds: float) -> tuple[dimse.Command, bytes]:
        """What the peer asks us: the command and its data set, which is short.

        Args:
            seconds: how long that may take.

        Raises:
            Broken: nothing came, or what came makes no sense.
        """
        with self._waiting(seconds) as deadline:
            command = dimse.decode_command(self._collect(deadline, dimse.MAX_COMMAND, command=True))
            data = self._collect(deadline, MAX_ANSWER, command=False) if command.has_data_set else b""
        return command, data

    def command(self, seconds: float) -> dimse.Command | dimse.Response:
        """The command set of the next message, a request or an answer; its data set is still to come.

        Args:
            seconds: how long that may take.

        Raises:
            Broken: nothing came, or what came makes no sense.
        """
        with self._waiting(seconds) as deadline:
            return dimse.decode_either(self._collect(deadline, dimse.MAX_COMMAND, command=True))

    def take(self, write: Callable[[bytes], object]) -> None:
        """Takes the data set of the message whose command :meth:`command` gave.

        Args:
            write: gets its parts as they come; what it raises gets out of here.

        Raises:
            Broken: it did not come whole, or too slowly.
        """
        begin, size = time.monotonic(), 0
        for fragment in self._fragments(command=False):
            size += len(fragment)
            write(fragment)
            if time.monotonic() - begin > self._seconds + size / SLOWEST_BYTES_PER_SECOND:
                raise Broken("the peer sends too slowly", timed_out=True)

    def reply(self, identifier: int, command: dimse.Command, status: int, limit: int) -> None:
        """Answers a request.

        Args:
            identifier: of its presentation context.
            command: the request.
            status: DIMSE status.
            limit: largest PDU that the peer takes.

        Raises:
            Broken: the association is gone.
        """
        raw = pdu.encode_command(identifier, dimse.encode_response(command, status), limit)
        self._wire.send([memoryview(raw)], time.monotonic() + self._seconds)

    def abort(self) -> None:
        """Ends the association at once; what was sent in part is void."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(OSError, Broken):
                self._wire.set_timeout(1.0)
                self._wire.send([memoryview(pdu.encode_user_abort())], time.monotonic() + 1.0)
        self._wire.close()

    @contextlib.contextmanager
    def _waiting(self, seconds: float) -> Iterator[float]:
        """Waits may take so long; gives the deadline. What can't be read breaks the association."""
        self._wire.set_timeout(seconds)
        try:
            yield time.monotonic() + seconds
        except UnreadableDicom as error:
            raise Broken(str(error)) from None
        finally:
            self._wire.set_timeout(self._seconds)

    def _collect(self, deadline: float, largest: int, *, command: bool) -> bytes:
        """One command set or data set, from as many PDUs as it comes in."""
        collected = bytearray()
        for fragment in self._fragments(command=command, deadline=deadline):
            collected += fragment
            if len(collected) > largest:
                raise Broken("the answer is too long")
        return bytes(collected)

    def _fragments(self, *, command: bool, deadline: float | None = None) -> Iterator[bytes]:
        """Parts of one command set or data set; without a deadline each PDU has its own."""
        while True:
            if not self._values:
                until = time.monotonic() + self._seconds if deadline is None else deadline
                try:
                    self._values.extend(pdu.data_values(self._p_data(until)))
                except UnreadableDicom as error:
                    raise Broken(str(error)) from None
                continue
            control, fragment = self._values.popleft()
            if bool(control & 1) != command:
                raise Broken("a data set came where a command was expected, or the other way round")
            yield fragment
            if control & 2:
                return

    def _p_data(self, deadline: float) -> bytes:
        kind, body = self._wire.next_pdu(deadline, OUR_MAX_PDU)
        if kind == pdu.RELEASE_RQ:
            with contextlib.suppress(Broken):
                self._wire.send([memoryview(pdu.encode_release_response())], deadline)
            self._ended = True
            raise Broken("the peer released the association")
        if kind == pdu.ABORT:
            self._ended = True
            raise Broken("the peer aborted the association", aborted=True)
        if kind != pdu.P_DATA:
            raise Broken("the peer sent an unexpected PDU")
        return body
