from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy
from fiona_dagster.operations import lock
from fiona_dagster.operations.lock import hold_root, lock_file


def test_a_second_holder_is_told_who_holds_the_root(root: DataRoot) -> None:
    with hold_root(root):
        with pytest.raises(Busy, match=rf"already runs .*process {os.getpid()}"), hold_root(root):
            pass
        assert lock_file(root).read_text() == f"{os.getpid()}\n"


def test_it_is_free_again_afterwards(root: DataRoot) -> None:
    for _ in range(2):
        with hold_root(root) as descriptor:
            assert descriptor > 2


def test_a_killed_holder_frees_it_when_its_guardian_has_ended(root: DataRoot) -> None:
    code = "import sys, time; print('up', flush=True); time.sleep(0.7)"
    with hold_root(root) as descriptor:
        guardian = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=(descriptor,), stdout=subprocess.PIPE
        )
        assert guardian.stdout is not None
        assert guardian.stdout.readline() == b"up\n"
    lock_file(root).write_text("4194305\n")  # above the largest process id: the supervisor is dead

    with hold_root(root):
        assert guardian.wait(170) == 0
    guardian.stdout.close()


def test_it_does_not_wait_for_ever_for_a_guardian_that_hangs(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LEFTOVER_SECONDS", 0.3)
    with hold_root(root):
        lock_file(root).write_text("4194305\n")
        with pytest.raises(Busy), hold_root(root):
            pass
