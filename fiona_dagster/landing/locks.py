"""The lock of a study: whoever works on a study holds it (design section 4)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import Busy, UsageError

_PAUSE = 0.05


@contextmanager
def study_lock(
    root: DataRoot, study: str, *, blocking: bool = True, timeout: float | None = None
) -> Iterator[None]:
    """Holds the exclusive lock of a study; not re-entrant. The kernel drops it when the process dies.

    Args:
        root: the data root.
        study: StudyInstanceUID.
        blocking: wait for it.
        timeout: seconds to wait at most; None waits for ever.

    Raises:
        Busy: somebody else holds it (and still did after ``timeout``).
        UsageError: ``study`` is no UID.
    """
    if not is_uid(study):
        raise UsageError("study lock: not a StudyInstanceUID; give digits joined by points")
    root.locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(root.locks / f"{study}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(fd, study, blocking, timeout)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, study: str, blocking: bool, timeout: float | None) -> None:
    if blocking and timeout is None:
        fcntl.flock(fd, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + (timeout or 0.0 if blocking else 0.0)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(f"study {study}: somebody else works on it; try again later") from None
            time.sleep(_PAUSE)
        else:
            return
