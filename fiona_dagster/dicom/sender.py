"""C-STORE as a service class user (PS3.4 annex B): bytes go from the file to the socket as they are.

One operation at a time is open on an association: more would have to be negotiated (PS3.7 D.3.3.3), and
hardly any peer does. While the peer works on one object the next is read and compared. Several associations
share the instances where that is configured.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fiona_dagster.dicom.instances import NO_ANSWER, NOT_ACCEPTED, Instance, Ready, Room, StoreResult
from fiona_dagster.dicom.pdu import MAX_CONTEXTS
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import DeliveryRefused, PeerNotTrusted, PeerUnavailable

ATTEMPTS = 3
"""How often an instance without an answer is sent in all."""
_STOP_SECONDS = 0.2
"""How long a lane that may not go on takes to notice."""
_BUFFERED = 4 * 1024 * 1024
_BUFFERED_BYTES_PER_SECOND = 500_000
"""The wait for an answer begins while the last bytes are still in the kernel's buffers."""

Take = Callable[[bool], Instance | None]
"""The next instance to send; None: there is none (any more), or none yet when it is not to wait."""
Done = Callable[[StoreResult], None]


def store_files(
    peer: Peer,
    instances: Sequence[Instance],
    *,
    digests: Mapping[str, str] | None = None,
    associations: int = 1,
    before: Callable[[Instance], None] | None = None,
    after: Done | None = None,
) -> list[StoreResult]:
    """Sends files by C-STORE in the transfer syntax that they have.

    Args:
        peer: where to.
        instances: what, see :func:`fiona_dagster.dicom.instances.read_instance`.
        digests: SHA-256 by ``str(path)`` that the very bytes which are sent must have; None: any.
        associations: how many at once; those that a peer refuses beyond the first are done without.
        before: called right before an instance is sent; what it raises ends the sending.
        after: called with each result. Both are called in the caller's thread.

    Returns:
        One result an instance, in no particular order; an instance without an answer was sent
        :data:`ATTEMPTS` times.

    Raises:
        PeerUnavailable: no association could be had, or the peer takes associations and then says nothing.
        DeliveryRefused: the peer refuses associations from us for good.
        PeerNotTrusted: it is not who its certificate should say, on whichever of the associations.
        ConfigurationError: the files for TLS can't be used.
        NotVerified: a file is not what its digest says, or changed while it was sent. Of a large one the last
            part was held back then, and the association aborted: the peer has no whole object.
    """
    results: list[StoreResult] = []

    def done(result: StoreResult) -> None:
        results.append(result)
        if after is not None:
            after(result)

    for contexts in _batches(sorted({instance.context for instance in instances})):
        waiting = [each for each in instances if each.context in contexts]
        several = _Several(peer, contexts, digests, before or (lambda _: None), done)
        several.run(waiting, min(associations, len(waiting)))
    return results


def _batches(contexts: list[Context]) -> list[list[Context]]:
    return [contexts[at : at + MAX_CONTEXTS] for at in range(0, len(contexts), MAX_CONTEXTS)]


class _Lane:
    """Sends one instance after the other, on one association at a time, since any of them may break."""

    def __init__(
        self,
        peer: Peer,
        contexts: Sequence[Context],
        digests: Mapping[str, str] | None,
        *,
        take: Take,
        done: Done,
        permit: Callable[[Instance], None],
    ) -> None:
        self._peer = peer
        self._contexts = contexts
        self._digests = digests
        self._take = take
        self._done = done
        self._permit = permit
        self._rooms = [Room(), Room()]
        self._now: Ready | None = None
        self._ahead: Ready | None = None
        self.failure: Exception | None = None
        """What looking ahead met; raised when the answer that is waited for is here."""
        self._breaks = 0
        self._silences = 0

    def run(self) -> None:
        """Sends until nothing is left.

        Raises:
            PeerUnavailable: the peer is of no use now; :meth:`unfinished` tells what is left.
        """
        try:
            self._now = self._prepare(wait=True)
            while self._now is not None:
                with Requestor(self._peer, self._contexts) as association:
                    self._until_it_breaks(association)
        finally:
            for ready in (self._now, self._ahead):
                if ready is not None:
                    ready.close()

    def unfinished(self) -> list[Instance]:
        """What was taken and has no result."""
        return [ready.instance for ready in (self._now, self._ahead) if ready is not None]

    def _until_it_breaks(self, association: Requestor) -> None:
        while self._now is not None:
            ready = self._now
            instance = ready.instance
            if instance.context not in association.accepted:
                self._finish(StoreResult(instance, None, NOT_ACCEPTED))
                continue
            self._permit(instance)
            try:
                association.store(instance.context, instance.sop_instance, ready.data)
                self._look_ahead()
                wait = self._peer.timeout + min(ready.size, _BUFFERED) / _BUFFERED_BYTES_PER_SECOND
                status = association.answer(wait)
            except Broken as broken:
                association.abort()
                self._broke(ready, broken)
                return
            self._breaks = self._silences = 0
            self._finish(StoreResult(instance, status))

    def _broke(self, ready: Ready, broken: Broken) -> None:
        ready.tries += 1
        self._breaks += 1
        self._silences += broken.timed_out
        if self._silences >= ATTEMPTS or self._breaks >= 2 * ATTEMPTS:
            raise PeerUnavailable(
                f"{self._peer.name}: takes associations, but {self._breaks} of them ended without any "
                f"answer: {broken}"
            )
        if ready.tries >= ATTEMPTS:
            self._finish(StoreResult(ready.instance, None, NO_ANSWER))

    def _finish(self, result: StoreResult) -> None:
        if self._now is not None:
            self._now.close()
        self._now = None
        self._done(result)
        if self.failure is not None:
            raise self.failure
        self._now, self._ahead = self._ahead or self._prepare(wait=True), None

    def _look_ahead(self) -> None:
        """Uses the time while the peer works; what goes wrong here waits until its answer was taken."""
        if self._ahead is not None or self.failure is not None:
            return
        try:
            self._ahead = self._prepare(wait=False)
        except Exception as error:  # noqa: BLE001 - raised as soon as the answer is here
            self.failure = error

    def _prepare(self, *, wait: bool) -> Ready | None:
        instance = self._take(wait)
        if instance is None:
            return None
        self._rooms.reverse()
        digest = None if self._digests is None else self._digests.get(str(instance.path), "")
        return Ready(instance, self._rooms[0], digest)


@dataclass(frozen=True)
class _Ended:
    """A lane ended: with the reason, and what it leaves to others."""

    error: BaseException | None
    unfinished: list[Instance]


@dataclass(frozen=True)
class _Wish:
    """A lane wants to send something, and waits until it may."""

    instance: Instance
    granted: threading.Event = field(default_factory=threading.Event)


class _Stopped(Exception):
    """The sending ended while this lane still had something."""


def _done_without(error: BaseException) -> bool:
    """Whether it only means one association too many, which some peers refuse for good."""
    return isinstance(error, PeerUnavailable | DeliveryRefused) and not isinstance(error, PeerNotTrusted)


class _Several:
    """One or several lanes that share the instances; whatever is called back is called in this thread."""

    def __init__(
        self,
        peer: Peer,
        contexts: Sequence[Context],
        digests: Mapping[str, str] | None,
        before: Callable[[Instance], None],
        done: Done,
    ) -> None:
        self._peer = peer
        self._contexts = contexts
        self._digests = digests
        self._before = before
        self._done = done
        self._left: deque[Instance] = deque()
        self._todo: queue.SimpleQueue[Instance | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[StoreResult | _Wish | _Ended] = queue.SimpleQueue()
        self._stop = threading.Event()

    def run(self, waiting: Sequence[Instance], lanes: int) -> None:
        """Sends them all."""
        self._left.extend(waiting)
        if lanes <= 1:
            self._lane(self._next, self._done, self._before).run()
            return
        threads = [threading.Thread(target=self._work, name=f"store-{n}") for n in range(lanes)]
        for thread in threads:
            thread.start()
        try:
            self._hand_out(lanes)
        finally:
            self._stop.set()
            self._todo.put(None)
            for thread in threads:
                thread.join()

    def _lane(self, take: Take, done: Done, permit: Callable[[Instance], None]) -> _Lane:
        return _Lane(self._peer, self._contexts, self._digests, take=take, done=done, permit=permit)

    def _next(self, wait: bool) -> Instance | None:
        del wait
        return self._left.popleft() if self._left else None

    def _hand_out(self, lanes: int) -> None:
        """Gives each lane one to send and one to look ahead at, so that a stop works almost at once."""
        handed = 0
        while self._left or handed:
            while self._left and handed < 2 * lanes:
                self._todo.put(self._left.popleft())
                handed += 1
            event = self._events.get()
            if isinstance(event, StoreResult):
                handed -= 1
                self._done(event)
                continue
            if isinstance(event, _Wish):
                self._before(event.instance)
                event.granted.set()
                continue
            lanes -= 1
            if event.error is not None and not (lanes and _done_without(event.error)):
                raise event.error
            handed -= len(event.unfinished)
            self._left.extendleft(event.unfinished)

    def _work(self) -> None:
        lane = self._lane(self._shared, self._events.put, self._permit)
        try:
            lane.run()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._events.put(_Ended(lane.failure or error, lane.unfinished()))

    def _permit(self, instance: Instance) -> None:
        """Asks in the caller's thread whether it may still go: what is handed out may have to stay."""
        wish = _Wish(instance)
        self._events.put(wish)
        while not wish.granted.wait(_STOP_SECONDS):
            if self._stop.is_set():
                raise _Stopped

    def _shared(self, wait: bool) -> Instance | None:
        try:
            instance = self._todo.get(block=wait)
        except queue.Empty:
            return None
        if instance is None:
            self._todo.put(None)  # who only looked ahead will wait later on, and must find the end again
        return None if self._stop.is_set() else instance
