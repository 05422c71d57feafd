"""Who has the ledger open, and who may put another file in its place: never both.

Everybody who opens the ledger holds a shared flock beside the records as long as it is open; a rebuild holds
it alone. The receiver does not open the ledger: it goes on meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy
from fiona_dagster.ledger.records import records_folder

_WAIT_SECONDS = 10.0
_PAUSE = 0.1


class Holding:
    """The ledger in use, until :meth:`close`; children inherit it.

    Args:
        root: the data root.

    Raises:
        Busy: it is being built anew.
    """

    def __init__(self, root: DataRoot) -> None:
        self._fd = _open(root, os.O_RDONLY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Busy(f"{root.ledger_file}: is being built anew; try again when that has ended") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the use."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextmanager
def nobody_else(root: DataRoot) -> Iterator[None]:
    """Has the ledger for this process alone; those who use it at this moment may take 10 s to end.

    Raises:
        Busy: somebody uses it.
    """
    fd = _open(root, os.O_RDWR)  # NFS locks alone only what is open for writing
    try:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"{root.ledger_file}: another command has it open, or builds it anew; "
                        "try again when that has ended"
                    ) from None
                time.sleep(_PAUSE)
        yield
    finally:
        os.close(fd)


def _open(root: DataRoot, mode: int) -> int:
    path = records_folder(root) / ".lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, mode | os.O_CREAT | os.O_CLOEXEC, 0o600)
