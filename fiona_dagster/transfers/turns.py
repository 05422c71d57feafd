"""Whose turn it is where two at once would write into the same place of REDCap."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fiona_dagster.transfers.context import Gateway

ASSIGNMENT = "assignment"
"""Requests, and participant ids that are made: two rounds would give one person two."""


@contextmanager
def turn(gateway: Gateway, name: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock of the data root; the kernel drops it when the process dies.

    REDCap gives no number of an instance away by itself: who reads which is free and writes into it must be
    alone meanwhile, or two write into the same one, and the later takes the other's place.

    Args:
        gateway: the open gateway.
        name: of what; part of a file name.
        wait: until it is free.

    Yields:
        Whether it is held; always True with ``wait``.
    """
    path = gateway.root.ledger_file.parent / f"{name}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
