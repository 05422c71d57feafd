"""Several processes behind one port: started, replaced when they die, drained, and never left behind."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, Protocol

from fiona_dagster.errors import ConfigurationError, FionaError
from receiver.places import Places

log = logging.getLogger("fiona.receiver")

_PR_SET_PDEATHSIG = 1
_GRACE = 10.0
"""Seconds above the drain limit after which a process that does not end is killed."""
_SOUND_LIFE = 5.0
_LONGEST_PAUSE = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Server(Protocol):
    """What runs in a worker."""

    def stop(self) -> None:
        """Ends :meth:`serve`; called from a signal handler."""

    def serve(self) -> None:
        """Returns when it has ended in order."""


Make = Callable[[int, bool], Server]
"""Makes the server of a worker, in that worker: its number, and whether it looks for what a dead one left."""


@dataclass
class _Slot:
    number: int
    pid: int = 0
    ready: int = -1
    begun: float = 0.0
    pause: float = 0.0
    due: float = 0.0


class Workers:
    """The main process of several. It forks them, and itself touches neither sockets nor files.

    A worker dies with its main process, also when that is killed: the kernel sends it SIGKILL, and so the
    port is free at once. A worker that dies is replaced; connections that wait in the listening queue are not
    lost with it.

    Args:
        count: how many.
        make: makes the server of one worker.
        places: shared table, to take back what a dead worker held.
        drain_seconds: how long workers may take to end in order.
        close: called in the main process before it drains, to let go of the listeners.
    """

    def __init__(
        self, count: int, make: Make, *, places: Places, drain_seconds: float, close: Callable[[], None]
    ) -> None:
        self._make = make
        self._places = places
        self._patience = drain_seconds + _GRACE
        self._close = close
        self._slots = [_Slot(number) for number in range(count)]
        self._main = os.getpid()
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False

    @property
    def pids(self) -> list[int]:
        """The workers that run."""
        return [slot.pid for slot in self._slots if slot.pid]

    def start(self) -> None:
        """Forks all workers and returns when all answer.

        Raises:
            ConfigurationError: one of them could not begin; then none is left.
        """
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        gc.freeze()  # pages that the collector never writes to stay shared
        for slot in self._slots:
            self._fork(slot, adopt=slot.number == 0)
        for slot in self._slots:
            with os.fdopen(slot.ready, "rb") as pipe:
                answer = pipe.read()
            slot.ready = -1
            if answer != b"ready":
                self._end(signal.SIGKILL)
                raise ConfigurationError(answer.decode() or "a process of the receiver died at its start")

    def run(self) -> None:
        """Watches over the workers until SIGTERM or SIGINT, then lets them drain."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not self._stopping:
                self._reap()
                due = [slot.due for slot in self._slots if not slot.pid]
                selector.select(max(0.0, min(due) - time.monotonic()) if due else None)
                self._drink()
                for slot in self._slots:
                    if not self._stopping and not slot.pid and slot.due <= time.monotonic():
                        self._fork(slot, adopt=True)
        self._close()
        self._end(signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True

    def _drink(self) -> None:
        try:
            while os.read(self._wake_read, 512):
                pass
        except BlockingIOError:
            return

    def _fork(self, slot: _Slot, *, adopt: bool) -> None:
        read_end, write_end = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # none may reach the child with our handlers
        pid = os.fork()
        if pid == 0:
            os.close(read_end)
            self._work(slot.number, adopt, write_end)
        slot.pid, slot.begun = pid, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(write_end)
        if slot.ready >= 0:
            os.close(slot.ready)
        slot.ready = read_end

    def _work(self, number: int, adopt: bool, ready: int) -> NoReturn:
        """The life of a worker; never returns into the main process's code."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # Ctrl-C reaches the whole group; the main one decides
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            _die_with(self._main)
            os.close(self._wake_read)
            os.close(self._wake_write)
            server = self._make(number, adopt)
            signal.signal(signal.SIGTERM, lambda *_: server.stop())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.write(ready, b"ready")
            os.close(ready)
            server.serve()
            code = 0
        except (FionaError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.strerror:
                text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            log.error("a process of the receiver can't go on (%s)", text)  # noqa: TRY400
            _tell(ready, text or type(error).__name__)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        for slot in self._slots:
            if not slot.pid or os.waitpid(slot.pid, os.WNOHANG)[0] == 0:
                continue
            self._places.bury(slot.pid)
            sound = time.monotonic() - slot.begun > _SOUND_LIFE
            slot.pause = 0.0 if sound else min(max(slot.pause * 2, 0.1), _LONGEST_PAUSE)
            slot.due = time.monotonic() + slot.pause
            log.error("process %d of the receiver died; it is replaced", slot.pid)
            slot.pid = 0

    def _end(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)
        deadline = time.monotonic() + self._patience
        for slot in self._slots:
            while slot.pid:
                if os.waitpid(slot.pid, os.WNOHANG)[0]:
                    slot.pid = 0
                elif time.monotonic() > deadline:
                    os.kill(slot.pid, signal.SIGKILL)
                    os.waitpid(slot.pid, 0)
                    slot.pid = 0
                else:
                    time.sleep(0.02)


def _die_with(main: int) -> None:
    """Asks the kernel to kill this process when its main one ends, however that happens."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != main:  # it ended before we asked
        os._exit(1)


def _tell(pipe: int, text: str) -> None:
    try:
        os.write(pipe, text.encode("utf-8", "replace"))
    except OSError:
        return  # it said "ready" already, and nobody listens any more
