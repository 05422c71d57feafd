"""A receiver as operators run it, below the tracer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash import calls
from tests.receiver.conftest import Process


def need_tracing() -> None:
    """Skips where the kernel or the machine can't be traced by us."""
    if not sys.platform.startswith("linux") or not calls.NAMES:
        pytest.skip("tracing needs Linux on x86-64 or ARM64")


@dataclass
class Traced(Process):
    """Starts like a :class:`Process`; killing it kills the whole tree."""

    record: Path | None = None
    from_start: bool = False
    point: str = ""
    error: str = ""
    times: int = 1

    def start(self, **values: Any) -> tuple[str, int]:
        need_tracing()
        receiver = self.command
        self.command = [sys.executable, "-m", "tests.crash.tracer", "--root", str(self.root.path)]
        self.command += ["--pid", str(self.root.path.with_name("pid"))]
        self.command += ["--record", str(self.record)] if self.record else []
        self.command += ["--from-start"] if self.from_start else []
        self.command += ["--point", self.point, "--error", self.error, "--times", str(self.times)]
        self.command += ["--", *receiver]
        try:
            return super().start(**values)
        finally:
            self.command = receiver

    def terminate(self) -> int:
        """SIGTERM to the receiver itself; its exit code."""
        os.kill(int(self.root.path.with_name("pid").read_text()), signal.SIGTERM)
        return self._reap()

    def died(self) -> bool:
        """Whether it was killed; waits a while for it. One that lives on is stopped."""
        assert self.process is not None
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.terminate()
            return False
        return self._reap() == 128 + signal.SIGKILL
