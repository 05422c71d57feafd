"""One supervised program: its own process group, its log, its end.

Belongs here: starting, noticing the end, killing the whole group. Stays out: which programs there are
(:mod:`services`) and when they start again (:mod:`supervisor`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fiona_dagster.config import UMASK

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)

LOG_BYTES = 10_000_000
"""A log file that is larger is moved aside."""
LOG_GENERATIONS = 3


class Process:
    """A running program that leads a process group of its own.

    The kernel kills it when the supervisor dies (PR_SET_PDEATHSIG); what it started itself is left to
    the guardian, who knows the group.

    Args:
        arguments: the program and its arguments.
        environment: its whole environment.
        log: file that its output is appended to.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self.log_start = output.tell()
            self._popen = subprocess.Popen(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd="/",
                process_group=0,
                umask=UMASK,
                preexec_fn=functools.partial(_die_with, os.getpid()),  # noqa: PLW1509 - we have one thread
            )
        self.log = log
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        """Process id, and id of the group."""
        return self._popen.pid

    def ended(self) -> bool:
        """Whether the program itself has ended; its group is untouched and its id not free yet."""
        if self._popen.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """Signals the program alone, so that it can end its children in order."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def kill_group(self) -> int:
        """Kills all that is left of the group, then takes the program's exit code.

        In this order: until the code is taken the id can't belong to a stranger.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait()

    def command_lines(self) -> list[bytes]:
        """The command lines of the group's living processes, as ``/proc`` has them."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended while we looked
                if os.getpgid(int(folder.name)) == self.pid:
                    found.append((folder / "cmdline").read_bytes())
        return found

    def output(self, limit: int = 100_000) -> str:
        """What the program has written since it started, at most the first ``limit`` bytes.

        Nothing when its log can't be read (somebody took it away): who waits for a word waits in vain, and
        starts the program again with a new one.
        """
        try:
            with self.log.open("rb") as log:
                log.seek(self.log_start)
                return log.read(limit).decode("utf-8", "replace")
        except OSError:
            return ""


def _die_with(parent: int) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def rotate(log: Path, limit: int = LOG_BYTES, generations: int = LOG_GENERATIONS) -> bool:
    """Moves a log that has grown too large aside and empties it in place.

    The program keeps its file open in append mode, so the content is copied and the file truncated;
    lines that are written between the two are lost.

    Returns:
        Whether it was done; not while there is no room for the copy.
    """
    if not log.is_file() or log.stat().st_size <= limit:
        return False
    part = log.with_name(f".{log.name}.part")
    try:
        part.write_bytes(log.read_bytes())
    except OSError:
        part.unlink(missing_ok=True)
        return False
    older = [log.with_name(f"{log.name}.{number}") for number in range(1, generations + 1)]
    for newer, older_one in reversed(list(itertools.pairwise(older))):
        if newer.is_file():
            newer.replace(older_one)
    part.replace(older[0])
    os.truncate(log, 0)
    return True
