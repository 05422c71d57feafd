"""One flush for all who wait for it (group commit), and two flushes at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class _Batch:
    """Those who wait for one and the same flush."""

    done = False
    failure: OSError | None = None


class GroupFlush:
    """Flushes one file or directory for many threads.

    A flush covers what was written before it began. So whoever comes while one is running waits for the
    next, together with all others who came meanwhile; one of them carries it out.

    A failed flush fails everybody whom it covered, and nobody else: the kernel may have dropped their
    pages, and a later flush that succeeds says nothing about them.

    Args:
        flush: what flushes a descriptor: ``os.fsync`` or ``os.fdatasync``.
    """

    def __init__(self, flush: Callable[[int], None]) -> None:
        self._flush = flush
        self._changed = threading.Condition(threading.Lock())
        self._next = _Batch()
        self._running = False

    def __call__(self, fd: int) -> None:
        """Returns when what the caller has written before is flushed.

        Args:
            fd: the caller's own descriptor of the file that all callers share.

        Raises:
            OSError: the flush failed.
        """
        with self._changed:
            batch = self._next
            while self._running and not batch.done:
                self._changed.wait()
            leads = not batch.done
            if leads:
                self._running = True
                self._next = _Batch()
        if leads:
            self._lead(batch, fd)
        if batch.failure is not None:
            raise OSError(batch.failure.errno, batch.failure.strerror)

    def _lead(self, batch: _Batch, fd: int) -> None:
        try:
            self._flush(fd)
        except OSError as error:
            batch.failure = error
        finally:
            with self._changed:
                batch.done = True
                self._running = False
                self._changed.notify_all()


class Beside:
    """Carries out one flush while its owner makes another: a disk does both in little more time than one.

    It has a thread of its own, which starts with the first flush. Belongs to one thread.

    Attributes:
        busy: a flush was begun, and :meth:`end` is to follow.
    """

    def __init__(self) -> None:
        self.busy = False
        self._go, self._done = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._flush: Callable[[], None] | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, flush: Callable[[], None]) -> None:
        """Begins a flush, unless the system has no thread for it: then the owner is not :attr:`busy`."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="flush", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return
            self._thread = thread
        self._flush = flush
        self.busy = True
        self._go.release()

    def end(self) -> None:
        """Waits for what was begun, and raises what it has raised."""
        self._done.acquire()
        self.busy = False
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._flush = None
            self._go.release()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._flush is None:
                return
            try:
                self._flush()
            except BaseException as error:  # noqa: BLE001 - raised by end()
                self._failure = error
            self._done.release()


def flush_entries(fd: int) -> None:
    """Flushes an open directory."""
    os.fsync(fd)


def flush_data(fd: int) -> None:
    """Flushes the bytes of an open file, and what is needed to read them back."""
    os.fdatasync(fd)
