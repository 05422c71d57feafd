"""``fiona receive``."""

from __future__ import annotations

import os
import sys

import click


@click.command()
def receive() -> int:
    """Receive DICOM: C-ECHO and C-STORE on DICOMIP:DICOMPORT.

    Prints "listening on HOST:PORT" when it answers. SIGTERM lets running transfers finish and exits 0.
    """
    # In place of this process, so that the receiver does not carry the command line's weight for weeks.
    os.execv(sys.executable, [sys.executable, "-m", "receiver"])  # noqa: S606 - no shell is wanted
