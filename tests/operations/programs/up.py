"""``fiona up`` with stand-ins: ``python -m tests.operations.programs.up DATA``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import FionaError
from fiona_dagster.operations import Programs, up

HERE = "tests.operations.programs"

if __name__ == "__main__":
    os.umask(0o077)
    try:
        up(
            DataRoot(Path(sys.argv[1])),
            lambda line: print(line, flush=True),  # noqa: T201
            Programs(f"{HERE}.fake_receiver", f"{HERE}.fake_definitions", f"{HERE}.fake_reconcile"),
        )
    except FionaError as error:
        sys.exit(f"{type(error).__name__}: {error}")
