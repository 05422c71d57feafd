from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fiona_dagster.operations.guard import Guard
from tests.operations.processes import alive, wait_until


def test_a_new_guardian_learns_all_groups(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (scratch / "left").touch()
        guard = Guard(lock.fileno(), scratch)
        victims = [
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], process_group=0)
            for _ in range(3)
        ]
        for victim in victims:
            guard.add(victim.pid)
        first = guard.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: not alive(first))
        guard.remove(victims[2].pid)  # nobody listens
        guard.keep()
        assert guard.pid != first
        time.sleep(0.3)
        guard.end()

    assert [victims[0].wait(170), victims[1].wait(170)] == [-signal.SIGKILL, -signal.SIGKILL]
    assert victims[2].poll() is None
    assert not scratch.exists()
    victims[2].kill()
    victims[2].wait()


def test_a_machine_that_takes_no_more_processes_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = subprocess.Popen
    with (tmp_path / "lock").open("w") as lock:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(subprocess, "Popen", _none_more)
        guard = Guard(lock.fileno(), scratch)
        victim = real([sys.executable, "-c", "import time; time.sleep(100)"], process_group=0)
        guard.add(victim.pid)
        guard.keep()
        assert not guarded(guard)
        assert caplog.text.count("guardian process can't be started") == 1
        monkeypatch.setattr(subprocess, "Popen", real)
        guard.keep()
        assert not guarded(guard), "not at each look"
        monkeypatch.setattr(guard, "_next", 1e-9)
        guard.keep()
        assert guarded(guard)
        time.sleep(0.3)
        guard.end()
    assert victim.wait(170) == -signal.SIGKILL
    assert not scratch.exists()


def guarded(guard: Guard) -> bool:
    return guard.pid is not None


def _none_more(*_: object, **__: object) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
