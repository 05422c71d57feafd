from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.operations import guardian
from tests.operations.processes import alive, wait_until


def test_groups_that_ended_are_forgotten() -> None:
    assert guardian.watch(["+100\n", "+200\n", "-100\n"]) == {200}


def test_half_a_line_of_a_killed_supervisor_is_no_group() -> None:
    assert guardian.watch(["+100\n", "+\n", "-1"]) == {100}


@given(st.lists(st.text(alphabet="+-0123456789 x\n", max_size=8)))
def test_no_input_ever_names_init_or_our_own_group(lines: list[str]) -> None:
    assert all(group > 1 for group in guardian.watch(lines))


def test_end_of_input_kills_whole_groups_though_terminal_signals_do_not(tmp_path: Path) -> None:
    marker = tmp_path / "grandchild"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"pathlib.Path({str(marker)!r}).write_text(str(child.pid))\n"
        "time.sleep(100)\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    watcher = subprocess.Popen([sys.executable, "-I", guardian.__file__], stdin=subprocess.PIPE)
    assert watcher.stdin is not None
    wait_until(lambda: marker.is_file() and marker.read_text().isdigit())
    watcher.stdin.write(f"+{victim.pid}\n".encode())
    watcher.stdin.flush()
    time.sleep(0.3)
    watcher.send_signal(signal.SIGINT)
    time.sleep(0.2)

    assert watcher.poll() is None

    watcher.stdin.close()

    assert watcher.wait(170) == 0
    assert victim.wait(170) == -signal.SIGKILL
    wait_until(lambda: not alive(int(marker.read_text())))
