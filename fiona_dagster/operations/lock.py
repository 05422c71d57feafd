"""One ``fiona up`` per data root: a lock that the kernel takes back when its last holder has ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy
from fiona_dagster.landing import require_no_erasure

_LEFTOVER_SECONDS = 10.0


def lock_file(root: DataRoot) -> Path:
    """Holds the process id of the supervisor; locked as long as it or its guardian lives."""
    return root.dagster_home / "fiona-up.lock"


@contextmanager
def hold_root(root: DataRoot, *, erasing: bool = False) -> Iterator[int]:
    """Holds the data root for this process.

    A supervisor that was killed leaves its guardian, which ends everything within a moment: for that
    we wait; for a living supervisor we don't.

    Args:
        root: the data root.
        erasing: for the one who finishes an erasure; nobody else starts before that is done.

    Yields:
        The locked file's descriptor, to be inherited by the guardian.

    Raises:
        Busy: another ``fiona up`` runs on this data root.
        ErasureUnfinished: an erasure was cut short.
    """
    path = lock_file(root)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = path.read_text(encoding="ascii").strip()
                if _lives(owner) or time.monotonic() > deadline:
                    raise Busy(
                        f"`fiona up` already runs on {root.path} (process {owner}); stop it first"
                    ) from None
                time.sleep(0.1)
        if not erasing:
            require_no_erasure(root)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def is_up(root: DataRoot) -> bool:
    """Whether a ``fiona up`` runs on this data root."""
    try:
        descriptor = os.open(lock_file(root), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lives(owner: str) -> bool:
    if not owner.isdigit():
        return False
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
