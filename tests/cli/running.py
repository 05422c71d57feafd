"""Runs ``fiona`` as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def fiona(
    *arguments: str, data: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs one command and returns exit code and outputs; never a traceback.

    Args:
        arguments: of the command line.
        data: FIONA_DATA; unset when absent.
        cwd: folder to run in.
    """
    environment = {name: value for name, value in os.environ.items() if name != "FIONA_DATA"}
    if data is not None:
        environment["FIONA_DATA"] = str(data)
    command = [sys.executable, "-m", "fiona_dagster.cli", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done
