"""``fiona demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--exit", "exit_when_delivered", is_flag=True, help="Stop when all three studies are delivered."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data root to use and keep (default: a temporary one).",
)
def demo(exit_when_delivered: bool, data: Path | None) -> int:
    """Runs everything on loopback with embedded peers: three studies from C-STORE to proven delivery."""
    from fiona_dagster.demo.script import run_demo

    return run_demo(data, exit_when_delivered=exit_when_delivered)
