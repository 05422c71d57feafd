"""Who writes below a data root, and who has it to himself: an erasure works only where nobody else does.

Everybody who opens the data root for writing holds a shared flock on one file for as long as it is open: the
receiver, imports, every ledger. An erasure holds it alone, so that nothing can be acknowledged, appended or
booked while files are written anew. The kernel drops the lock with the process; an erasure that was killed
leaves its order (``ledger/erasure.json``), and until that is carried out nobody else gets in.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, ErasureUnfinished

_WAIT_SECONDS = 10.0
_PAUSE = 0.1
_alone: set[Path] = set()
"""Data roots that this process has to itself; what it opens there meanwhile is part of that."""


class Use:
    """The data root in use by somebody who may write, until :meth:`close`; children inherit it.

    Args:
        root: the data root.

    Raises:
        ErasureUnfinished: an erasure was cut short.
        Busy: an erasure is at work.
    """

    def __init__(self, root: DataRoot) -> None:
        self._fd = -1
        if root.path in _alone:
            return
        self._fd = _open(root, os.O_RDONLY)  # open for writing, it would keep a disk from becoming read-only
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            require_no_erasure(root)
        except BlockingIOError:
            self.close()
            raise Busy(f"{root.path}: an erasure is at work; try again when it has ended") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the use."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_no_erasure(root: DataRoot) -> None:
    """Makes sure that no erasure waits to be finished.

    Raises:
        ErasureUnfinished: one was cut short.
    """
    if root.erasure_file.exists():
        raise ErasureUnfinished(
            f"{root.path}: an erasure was cut short; finish it first with `fiona erase --resume`"
        )


@contextmanager
def alone(root: DataRoot, wait_seconds: float | None = None) -> Iterator[None]:
    """Has the data root for this process alone, whether or not an erasure was cut short.

    Args:
        root: the data root.
        wait_seconds: how long those who use it at this moment may take to end; None: 10.

    Raises:
        Busy: somebody uses it.
    """
    fd = _open(root, os.O_RDWR)  # NFS locks alone only what is open for writing
    try:
        deadline = time.monotonic() + (_WAIT_SECONDS if wait_seconds is None else wait_seconds)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"{root.path}: `fiona receive` or another command uses it; stop it first"
                    ) from None
                time.sleep(_PAUSE)
        _alone.add(root.path)
        try:
            yield
        finally:
            _alone.discard(root.path)
    finally:
        os.close(fd)


def _open(root: DataRoot, mode: int) -> int:
    path = root.use_lock
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, mode | os.O_CREAT | os.O_CLOEXEC, 0o600)
