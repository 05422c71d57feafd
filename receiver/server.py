"""One process behind the listening sockets: threads for associations, and an orderly end."""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.pdu import AssociateRequest
from fiona_dagster.errors import FionaError
from fiona_dagster.landing import Counters, Landing, adopt_orphans, prepare_counters
from receiver.admission import DRAINING, FULL, Rejection
from receiver.association import Association
from receiver.listener import Listener
from receiver.lobby import Lobby
from receiver.places import Places
from receiver.throttle import ThrottledLog

if TYPE_CHECKING:
    from fiona_dagster.config import Settings

log = logging.getLogger("fiona.receiver")

_LOBBY_LOOK = 0.1
"""Seconds between two looks for connections whose time is over before they said anything."""
_QUIET_DRAIN = 1.0
_ADOPT_AGAIN = 30.0
_AFTER_YOU, _TIMES = 0.001, 10
"""How long, in seconds, and how often a process leaves a connection to one that has fewer."""


class Port:
    """A listener as one process serves it: settings, the door to its archive, and the right to admit.

    Attributes:
        settings: the section ``receiver``.
        landing: this process's door.
        chatter: takes log lines that strangers can cause.
        tls: what secures its connections; None if they are plain.
        counters: what this process counts.
    """

    def __init__(
        self,
        listener: Listener,
        places: Places,
        lobby: Lobby[Association],
        counters: Counters,
        closing: threading.Event,
    ) -> None:
        self.listener = listener
        self.settings = listener.settings
        self.tls = listener.tls
        self.landing = Landing(
            listener.root, reserve_mb=self.settings.reserve_mb, durability=self.settings.durability
        )
        self.chatter = ThrottledLog(log)
        self.counters = counters
        self._places = places
        self._lobby = lobby
        self._closing = closing

    def admit(self, association: Association, request: AssociateRequest) -> int | Rejection:
        """Judges a request and takes a place for it, or says why not."""
        rejection = self.listener.admission.judge(request, association.ip, association.certificate)
        if rejection is not None:
            return rejection
        if self._closing.is_set():
            return DRAINING
        place = self._places.take(association.ip, self.settings.max_associations_per_peer)
        return FULL if place is None else place

    def welcome(self, association: Association) -> bool:
        """Takes an association out of the lobby; False if it was turned out meanwhile."""
        return self._lobby.leave(association)

    def leave(self, place: int) -> None:
        """Gives a place back."""
        self._places.free(place)


class Receiver:
    """The Storage SCP in one process: the only one, or one of several that share the same listeners.

    Args:
        listeners: what to accept from; closed at the end.
        places: shared with the other processes.
        number: which of the processes this is, from 0.
        adopt: look for files without a journal line, which a process that died may have left.
    """

    def __init__(
        self, listeners: Sequence[Listener], places: Places, *, number: int = 0, adopt: bool = True
    ) -> None:
        self.places = places
        self._number = number
        self._mutex = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}
        self._silent: dict[Association, None] = {}
        self._look_at = 0.0
        self._closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._lobby = Lobby[Association](max(listener.settings.max_pending for listener in listeners))
        self._counters = Counters(listeners[0].root.counters_file, number)
        self._ports = [
            Port(listener, places, self._lobby, self._counters, self._closing) for listener in listeners
        ]
        self._selector = selectors.DefaultSelector()
        self._adopts = adopt

    @classmethod
    def alone(cls, root: DataRoot, settings: Settings) -> Receiver:
        """A receiver that needs no other process.

        Raises:
            ConfigurationError: the address can't be listened on.
        """
        prepare_counters(root.counters_file)
        return cls(Listener.all_of(root, settings), Places(settings.receiver.max_associations))

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        return self._ports[0].listener.address

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports of all listeners."""
        return [port.listener.address for port in self._ports]

    @property
    def landing(self) -> Landing:
        """The door behind the first listener."""
        return self._ports[0].landing

    def stop(self) -> None:
        """Asks :meth:`serve` to end; may be called from a signal handler, more than once."""
        self._closing.set()
        try:
            os.write(self._wake_write, b"x")
        except (BlockingIOError, OSError):
            return  # it is awake, or over

    def serve(self) -> None:
        """Accepts until :meth:`stop`, then drains and returns."""
        adoption = threading.Thread(target=self._adopt, name="adoption", daemon=True)
        if self._adopts:
            adoption.start()
        self.places.begin(self._number)
        with self._selector as selector:
            for port in self._ports:
                selector.register(port.listener.socket, selectors.EVENT_READ, port)
            selector.register(self._wake_read, selectors.EVENT_READ)
            if threading.current_thread() is threading.main_thread():
                # A signal that comes just before select, or is given to another thread, must wake it as well.
                signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            while not self._closing.is_set():
                self._look(selector.select(_LOBBY_LOOK if self._silent else None))
            for association in list(self._silent):
                self._hear(association)  # it may be about to ask; then it is told why not
        for port in self._ports:
            port.listener.close()
        self._drain()
        if self._adopts:
            adoption.join(timeout=5)
        for port in self._ports:
            port.landing.close()
            port.chatter.close()
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _look(self, events: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        """Serves whoever came, or said something, or has said nothing for too long."""
        for key, _ in events:
            if isinstance(key.data, Port):
                self._accept(key.data)
            elif key.data in self._silent:
                self._hear(key.data)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOBBY_LOOK
            for association in self._lobby.late():
                if association in self._silent:
                    self._hear(association)  # so that it is told, and has time to read it

    def _accept(self, port: Port) -> None:
        for _ in range(_TIMES):
            if not self.places.lighter_elsewhere or self._crowded:
                break
            time.sleep(_AFTER_YOU)
        try:
            sock, peer = port.listener.socket.accept()
        except BlockingIOError:
            return  # another process was faster
        except OSError as error:  # gone again, or no descriptors left: then leave the others some time
            log.warning("can't accept a connection (%s)", error.strerror)
            time.sleep(0.05)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._counters.add("connections")
        association = Association(sock, _plain_ip(peer[0]), port)
        victim = self._lobby.enter(association)
        if victim is not None:
            port.chatter.say(logging.INFO, "connection from %s: gave way to newer ones", victim.ip)
            if victim in self._silent:
                self._forget(victim)
                victim.drop()
            else:
                victim.turn_out()
        self._silent[association] = None
        self._selector.register(association, selectors.EVENT_READ, association)
        self._carry()

    @property
    def _crowded(self) -> bool:
        return 2 * len(self._lobby) > self._lobby.limit

    def _forget(self, association: Association) -> None:
        del self._silent[association]
        self._selector.unregister(association)

    def _hear(self, association: Association) -> None:
        """Its first byte is here, or its time is over: from now on it has a thread."""
        self._forget(association)
        thread = threading.Thread(target=self._serve, args=(association,), daemon=True)
        with self._mutex:
            self._threads[thread] = association
        thread.start()

    def _carry(self) -> None:
        with self._mutex:
            self.places.carry(len(self._threads) + len(self._silent))

    def _serve(self, association: Association) -> None:
        try:
            association.run()
        except Exception as error:  # noqa: BLE001 - one association must never take others with it
            last = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400 - a traceback would quote values
                "association ended by an internal fault: %s in %s:%s",
                type(error).__name__,
                last.name,
                last.lineno,
            )
        finally:
            self._lobby.leave(association)
            association.leave()
            with self._mutex:
                self._threads.pop(threading.current_thread(), None)
            self._carry()

    def _running(self) -> dict[threading.Thread, Association]:
        with self._mutex:
            return dict(self._threads)

    def _drain(self) -> None:
        """Lets objects that are under way finish; who is idle is sent away after a moment."""
        end = time.monotonic() + max(port.settings.drain_seconds for port in self._ports)
        while (running := self._running()) and time.monotonic() < end:
            for thread, association in running.items():
                if not association.busy and time.monotonic() - association.quiet_since > _QUIET_DRAIN:
                    association.break_off()
                thread.join(timeout=0.05)
        for thread, association in self._running().items():
            association.break_off()
            thread.join(timeout=1.0)

    def _adopt(self) -> None:
        roots = [port.landing.root for port in self._ports]
        while not self._closing.is_set():
            roots = [root for root in roots if not self._adopted(root)]
            if not roots:
                return
            self._closing.wait(_ADOPT_AGAIN)

    def _adopted(self, root: DataRoot) -> bool:
        """One pass; whether nothing is left to be looked at again."""
        try:
            return not adopt_orphans(root).waiting
        except (OSError, FionaError) as error:
            kind = error.strerror if isinstance(error, OSError) else str(error)
            log.error("looking for files without a journal line failed (%s)", kind)  # noqa: TRY400
            return False


def _plain_ip(ip: str) -> str:
    return ip.removeprefix("::ffff:").partition("%")[0]
