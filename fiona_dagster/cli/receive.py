"""``fiona receive``."""

from __future__ import annotations

import click

from fiona_dagster.config import DataRoot


@click.command()
def receive() -> int:
    """Receive DICOM: C-ECHO and C-STORE on DICOMIP:DICOMPORT.

    Prints "listening on HOST:PORT" when it answers. SIGTERM lets running transfers finish and exits 0.
    """
    from receiver import run

    return run(DataRoot.from_environment())
