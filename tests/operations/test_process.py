from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fiona_dagster.operations.process import Process, rotate
from tests.operations.processes import alive, wait_until

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print("child", child.pid, "umask", oct(os.umask(0)), "home", os.environ.get("HOME"), flush=True)
time.sleep(100)
"""


def _start(log: Path, code: str = PARENT) -> Process:
    return Process((sys.executable, "-c", code), {"PATH": os.environ["PATH"], "FIONA": "1"}, log)


def _child(process: Process) -> int:
    wait_until(lambda: "child" in process.output())
    return int(process.output().split()[1])


def test_killing_the_group_leaves_no_grandchild(tmp_path: Path) -> None:
    process = _start(tmp_path / "log")
    child = _child(process)

    assert process.kill_group() == -signal.SIGKILL
    wait_until(lambda: not alive(child))


def test_a_grandchild_outlives_its_killed_parent_until_the_group_is_cleared(tmp_path: Path) -> None:
    process = _start(tmp_path / "log")
    child = _child(process)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(process.ended)

    assert alive(child)
    process.kill_group()
    wait_until(lambda: not alive(child))


def test_only_the_given_environment_and_a_private_umask(tmp_path: Path) -> None:
    process = _start(tmp_path / "log")
    _child(process)
    process.kill_group()

    assert process.output().split()[2:] == ["umask", "0o77", "home", "None"]


def test_output_starts_where_this_run_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("listening on old:1\n")
    process = _start(log, "print('new')")
    wait_until(process.ended)
    process.kill_group()

    assert process.output() == "new\n"
    assert log.read_text() == "listening on old:1\nnew\n"


def test_command_lines_cover_the_group_alone(tmp_path: Path) -> None:
    process = _start(tmp_path / "log")
    _child(process)
    lines = process.command_lines()
    process.kill_group()

    assert len(lines) == 2
    assert sum(b"time.sleep(100)" in line for line in lines) == 2


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from fiona_dagster.operations.process import Process\n"
        "sleep = (sys.executable, '-c', 'import time; time.sleep(100)')\n"
        "p = Process(sleep, {}, pathlib.Path(sys.argv[1]))\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    time.sleep(0.2)
    assert alive(pid)
    supervisor.kill()
    supervisor.communicate()
    wait_until(lambda: not alive(pid))


@pytest.mark.parametrize(("size", "moved"), [(100, False), (101, True)])
def test_a_log_is_rotated_above_its_limit(tmp_path: Path, size: int, moved: bool) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a" * size)

    assert rotate(log, limit=100) is moved
    assert log.stat().st_size == (0 if moved else size)
    assert (tmp_path / "x.log.1").exists() is moved


def test_without_room_for_the_copy_nothing_is_rotated(tmp_path: Path) -> None:
    log, older = tmp_path / "x.log", tmp_path / "x.log.1"
    log.write_bytes(b"new")
    older.write_bytes(b"old")
    (tmp_path / "away").mkdir()
    (tmp_path / ".x.log.part").symlink_to(tmp_path / "away")

    assert not rotate(log, limit=1)
    assert (log.read_bytes(), older.read_bytes()) == (b"new", b"old")


def test_rotation_keeps_three_generations_and_the_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    with log.open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(f"{number}".encode() * 10)
            assert rotate(log, limit=5)
        writer.write(b"after")

    assert log.read_bytes() == b"after"
    assert [(tmp_path / f"x.log.{n}").read_bytes()[:1] for n in (1, 2, 3)] == [b"4", b"3", b"2"]
    assert len(list(tmp_path.iterdir())) == 4


def test_a_log_that_somebody_took_away_is_no_fault_of_the_program(tmp_path: Path) -> None:
    process = _start(tmp_path / "log")
    _child(process)
    (tmp_path / "log").unlink()
    assert process.output() == ""
    process.kill_group()
