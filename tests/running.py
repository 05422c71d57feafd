"""Runs ``fiona`` as a user does, in a process of its own, without paying for Python's imports every time.

``python -m tests.running`` imports everything once, then forks for every command that it is told. What the
imports of a command cost, and that they are no more than needed, tests/test_project.py looks at.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

_CHANGES = ("os.remove", "os.rename", "os.rmdir", "shutil.rmtree", "socket.connect", "sqlite3.connect")
"""Audit events (PEP 578) of what changes something; writing to a file is the event ``open``."""
_mutex = threading.Lock()
_server: subprocess.Popen[str] | None = None


def fiona(
    *arguments: str | Path,
    data: Path | None = None,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
    die_at: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Runs one command and returns exit code and outputs; never a traceback.

    Args:
        arguments: of the command line.
        data: FIONA_DATA; unset when absent.
        cwd: folder to run in.
        environment: all variables, in place of this process's own.
        die_at: the process is killed (SIGKILL) when it does so manieth of what changes files or is sent.
    """
    variables = dict(os.environ if environment is None else environment)
    if environment is None:
        variables.pop("FIONA_DATA", None)
    if data is not None:
        variables["FIONA_DATA"] = str(data)
    with tempfile.TemporaryDirectory(prefix="fiona-run-") as folder:
        task: dict[str, Any] = {
            "arguments": [str(argument) for argument in arguments],
            "environment": variables,
            "cwd": str(cwd or Path.cwd()),
            "die_at": die_at,
            "stdout": f"{folder}/stdout",
            "stderr": f"{folder}/stderr",
        }
        code = _ask(task)
        stdout, stderr = (Path(task[name]).read_text() for name in ("stdout", "stderr"))
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(task["arguments"], code, stdout, stderr)


def _ask(task: dict[str, Any]) -> int:
    global _server  # noqa: PLW0603 - one for the whole test process
    with _mutex:
        if _server is None or _server.poll() is not None:
            _server = subprocess.Popen(
                [sys.executable, "-m", "tests.running"],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            atexit.register(_stop, _server)
        assert _server.stdin is not None
        assert _server.stdout is not None
        _server.stdin.write(json.dumps(task) + "\n")
        _server.stdin.flush()
        answer = _server.stdout.readline()
    assert answer, "the process that runs commands has died"
    return int(answer)


def _stop(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    server.stdin.close()
    server.wait(170)


def _import_all() -> None:
    from fiona_dagster.cli import COMMANDS

    for place in COMMANDS.values():
        importlib.import_module(f"fiona_dagster.cli.{place.partition(':')[0]}")
    for name in ("pandas", "pydicom", "pynetdicom", "requests", "rich.console", "fiona_dagster.definitions"):
        importlib.import_module(name)


def _become(task: dict[str, Any]) -> None:
    """Turns a fresh fork into the process of one command."""
    for number, flags, name in (
        (0, os.O_RDONLY, os.devnull),
        (1, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, task["stdout"]),
        (2, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, task["stderr"]),
    ):
        descriptor = os.open(name, flags, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["cwd"])
    sys.argv = ["fiona", *task["arguments"]]
    if task["die_at"]:
        _die_at(task["die_at"])


def _die_at(number: int) -> None:
    done = itertools.count(1)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in _CHANGES) and next(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def _serve() -> dict[str, Any] | None:
    """Forks for every task; returns in the child, with its task."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        task: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return task
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
    return None


def _run() -> int:
    """The command's exit code."""
    from fiona_dagster.cli import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    given = _serve()
    if given is not None:
        _become(given)
        code = _run()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking all those modules apart would take longer than the command
