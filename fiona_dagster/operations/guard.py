"""The supervisor's end of the guardian (:mod:`guardian`): tells it which process groups live."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

log = logging.getLogger("fiona.up")


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
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Process id of the guardian."""
        return self._process.pid

    def add(self, group: int) -> None:
        """A process group was started."""
        self._groups.add(group)
        self._tell(f"+{group}")

    def remove(self, group: int) -> None:
        """All of a process group has ended."""
        self._groups.discard(group)
        self._tell(f"-{group}")

    def keep(self) -> None:
        """Starts a new guardian when it is gone."""
        if self._process.poll() is None:
            return
        log.error("the guardian process was gone; a new one is started")
        self._close_pipe()
        self._process = self._start()
        for group in self._groups:
            self._tell(f"+{group}")

    def end(self) -> None:
        """Lets the guardian kill what is left, and go."""
        self._close_pipe()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (sys.executable, "-I", str(Path(__file__).with_name("guardian.py")), str(self._scratch)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C at the terminal is not for it
            pass_fds=(self._lock,),
            bufsize=0,
        )

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(f"{line}\n".encode("ascii"))
        except BrokenPipeError:
            log.debug("the guardian is gone; the next look starts a new one, which learns all groups")

    def _close_pipe(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
