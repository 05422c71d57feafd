"""Watches over the supervisor: when it is gone, however it went, every process that it started ends.

Runs as a program of its own (``python -I guardian.py FOLDER``), standard library only. It reads lines
``+PGID`` and ``-PGID`` from its standard input, whose other end only the supervisor holds. At the end
of that input it kills the process groups that are left and removes their temporary folder. It also
inherits the lock of the data root, so that the next supervisor starts only when nothing of the last one
is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable


def watch(lines: Iterable[str]) -> set[int]:
    """Follows the supervisor's lines to their end.

    Args:
        lines: ``+PGID`` when a group was started, ``-PGID`` when all of it has ended.

    Returns:
        The process groups that the supervisor left behind.
    """
    groups: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if not number.isdigit() or int(number) <= 1:
            continue  # half a line of a supervisor that was killed while it wrote
        if sign == "+":
            groups.add(int(number))
        elif sign == "-":
            groups.discard(int(number))
    return groups


def main() -> None:
    """Waits for the end of standard input, then kills what is left and removes its temporary folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    for group in watch(sys.stdin):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
