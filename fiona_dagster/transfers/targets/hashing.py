"""Digests beside other work: in a thread, which lets go of the interpreter while it hashes."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

WORTH_A_THREAD = 1 << 16
"""Bytes from which on hashing takes longer than asking a thread for it."""


class Hashing:
    """A digest of what it is given, in order; at most one piece waits.

    Args:
        algorithm: as hashlib calls it.
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self._digest = hashlib.new(algorithm, usedforsecurity=False)
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown()

    def update(self, data: bytes) -> None:
        """Takes a piece; it must not be altered afterwards."""
        if self._last is not None:
            self._last.result()
        if len(data) < WORTH_A_THREAD:
            self._digest.update(data)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "digest")
        self._last = self._thread.submit(self._digest.update, data)

    def hexdigest(self) -> str:
        """Of everything that was given so far."""
        if self._last is not None:
            self._last.result()
        return self._digest.hexdigest()
