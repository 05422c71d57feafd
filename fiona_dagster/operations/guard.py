"""The supervisor's end of the guardian (:mod:`guardian`): tells it which process groups live."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

log = logging.getLogger("fiona.up")

PAUSE = 5.0
"""Seconds until a guardian that the machine could not have is tried again."""


class Guard:
    """A guardian process, replaced when it is gone.

    Args:
        lock: descriptor of the data root's lock, which the guardian holds as long as it lives.
        scratch: folder that it removes at the end.
    """

    def __init__(self, lock: int, scratch: Path) -> None:
        self._lock = lock
        self._scratch = scratch
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0
        self._start()

    @property
    def pid(self) -> int | None:
        """Process id of the guardian; None while there is none."""
        return None if self._process is None else self._process.pid

    def add(self, group: int) -> None:
        """A process group was started."""
        self._groups.add(group)
        self._tell(f"+{group}")

    def remove(self, group: int) -> None:
        """All of a process group has ended."""
        self._groups.discard(group)
        self._tell(f"-{group}")

    def keep(self) -> None:
        """Starts a new guardian when it is gone, or could not be started before."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            log.error("the guardian process was gone; a new one is started")
            self._close_pipe()
            self._process = None
        elif time.monotonic() < self._next:
            return
        self._start()

    def end(self) -> None:
        """Lets the guardian kill what is left, and go."""
        self._close_pipe()
        if self._process is None:
            shutil.rmtree(self._scratch, ignore_errors=True)
        else:
            self._process.wait()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                (sys.executable, "-I", str(Path(__file__).with_name("guardian.py")), str(self._scratch)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C at the terminal is not for it
                pass_fds=(self._lock,),
                bufsize=0,
            )
        except OSError as error:
            if not self._next:
                log.error(  # noqa: TRY400 - the message is for an operator
                    "the guardian process can't be started (%s); it is tried again: until then, what runs "
                    "may stay when `fiona up` is killed",
                    error,
                )
            self._next = time.monotonic() + PAUSE
            return
        self._next = 0.0
        for group in self._groups:
            self._tell(f"+{group}")

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(f"{line}\n".encode("ascii"))
        except BrokenPipeError:
            log.debug("the guardian is gone; the next look starts a new one, which learns all groups")

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
