"""Brings the copies of a study to the disk while they are searched.

Belongs here: that what was looked at is durable before anything vouches for it. Stays out: what is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_THREADS, _TOGETHER = 4, 8
"""Threads that flush (commits of the file system's journal are shared), and files in one of their turns:
with a turn for each, threads would hand the interpreter to each other all the time."""


@contextmanager
def flushed(folder: Path) -> Iterator[None]:
    """All that lies in a folder when the block begins is on the disk when it ends well, names included.

    Writing goes on beside the block. An error of the disk that came to light after a copy was written, and
    before, is told to this flush (fsync(2)), so that nobody takes such a copy for whole.

    Args:
        folder: of files, without folders in it; its own name is made durable, too.

    Raises:
        OSError: the disk did not take it.
    """
    from concurrent.futures import ThreadPoolExecutor  # only those who vouch for copies need it

    files = sorted(folder.iterdir())
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="flush")
    try:
        turns = [pool.submit(_flush, files[at : at + _TOGETHER]) for at in range(0, len(files), _TOGETHER)]
        yield
        for turn in turns:
            turn.result()
        _flush([folder, folder.parent])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _flush(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
