"""The listening socket, the threads behind it, and an orderly end."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
import traceback

from fiona_dagster.config import DataRoot, Settings
from fiona_dagster.errors import ConfigurationError, FionaError
from fiona_dagster.landing import Landing, adopt_orphans
from receiver.association import Association

log = logging.getLogger("fiona.receiver")

_BACKLOG = 128
_PENDING = 64
"""Connections above the limit of associations that may be waiting for their rejection."""
_QUIET_DRAIN = 1.0
_ADOPT_AGAIN = 30.0


class Receiver:
    """The Storage SCP of one data root.

    Args:
        root: the data root.
        settings: ``config.json``.

    Raises:
        ConfigurationError: the address can't be listened on.
    """

    def __init__(self, root: DataRoot, settings: Settings) -> None:
        self.settings = settings.receiver
        self._root = root
        self._mutex = threading.Lock()
        self._threads: dict[threading.Thread, Association] = {}
        self._admitted = 0
        self._closing = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._listener = _listen(settings.DICOMIP, settings.DICOMPORT)
        host, port = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)
        self.landing = Landing(root, reserve_mb=self.settings.reserve_mb)

    def admit(self) -> bool:
        """Takes one of the places for associations."""
        with self._mutex:
            if self._closing.is_set() or self._admitted >= self.settings.max_associations:
                return False
            self._admitted += 1
            return True

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
        adoption.start()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._closing.is_set():
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
        self._listener.close()
        self._drain()
        adoption.join(timeout=5)
        self.landing.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except OSError as error:  # gone again, or no descriptors left: then leave the others some time
            log.warning("can't accept a connection (%s)", error.strerror)
            time.sleep(0.05)
            return
        with self._mutex:
            crowded = len(self._threads) >= self.settings.max_associations + _PENDING
        if crowded:
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        association = Association(sock, _plain_ip(peer[0]), self)
        thread = threading.Thread(target=self._serve, args=(association,), daemon=True)
        with self._mutex:
            self._threads[thread] = association
        thread.start()

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
            with self._mutex:
                self._threads.pop(threading.current_thread(), None)
                self._admitted -= association.admitted

    def _running(self) -> dict[threading.Thread, Association]:
        with self._mutex:
            return dict(self._threads)

    def _drain(self) -> None:
        """Lets objects that are under way finish; who is idle is sent away after a moment."""
        end = time.monotonic() + self.settings.drain_seconds
        while (running := self._running()) and time.monotonic() < end:
            for thread, association in running.items():
                if not association.busy and time.monotonic() - association.quiet_since > _QUIET_DRAIN:
                    association.break_off()
                thread.join(timeout=0.05)
        for thread, association in self._running().items():
            association.break_off()
            thread.join(timeout=1.0)

    def _adopt(self) -> None:
        while not self._closing.is_set():
            try:
                result = adopt_orphans(self._root)
            except (OSError, FionaError) as error:
                kind = error.strerror if isinstance(error, OSError) else str(error)
                log.error("looking for files without a journal line failed (%s)", kind)  # noqa: TRY400
            else:
                if not result.waiting:
                    return
            self._closing.wait(_ADOPT_AGAIN)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port} ({error.strerror}); is another receiver running? "
            "Change DICOMIP or DICOMPORT in config.json"
        ) from None


def _plain_ip(ip: str) -> str:
    return ip.removeprefix("::ffff:").partition("%")[0]
