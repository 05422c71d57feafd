"""``fiona init`` and ``fiona env``: a data root, and how to name it to other programs."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fiona_dagster.config import DataRoot


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), help="DICOMPORT to listen on (0: chosen freely).")
@click.option("--open", "open_", is_flag=True, help="Accept senders with unknown AE titles.")
def init(folder: Path | None, *, port: int | None, open_: bool) -> None:
    """Makes a data root with an explained example configuration; adds what an existing one lacks."""
    from fiona_dagster.operations.initialise import initialise

    root = DataRoot(folder.absolute()) if folder else DataRoot.from_environment()
    added = initialise(root, port, open_=open_)
    for name in added:
        click.echo(f"added {name}")
    click.echo(f"data root {root.path}" + ("" if added else ": nothing was missing"))


@click.command()
def env() -> None:
    """Prints shell lines that export FIONA_DATA and DAGSTER_HOME: eval "$(fiona env)"."""
    root = DataRoot.from_environment()
    click.echo(f"export FIONA_DATA={shlex.quote(str(root.path))}")
    click.echo(f"export DAGSTER_HOME={shlex.quote(str(root.dagster_home))}")
    if not (root.dagster_home / "dagster.yaml").is_file():
        click.echo(f"fiona: {root.path} is no data root yet; run `fiona init`", err=True)
