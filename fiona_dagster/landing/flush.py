"""One flush for all who wait for it (group commit)."""

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


def flush_entries(fd: int) -> None:
    """Flushes an open directory."""
    os.fsync(fd)


def flush_data(fd: int) -> None:
    """Flushes the bytes of an open file, and what is needed to read them back."""
    os.fdatasync(fd)
