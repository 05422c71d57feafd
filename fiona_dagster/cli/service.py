"""``fiona up``: the whole gateway, supervised."""

from __future__ import annotations

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError


@click.command()
def up() -> None:
    """Runs receiver, Dagster webserver and daemon until Ctrl-C or SIGTERM; restarts what crashes."""
    from fiona_dagster.operations import restore_dagster_home
    from fiona_dagster.operations import up as run

    root = DataRoot.from_environment()
    if not root.config_file.is_file():
        raise ConfigurationError(f"{root.path} is no data root; set FIONA_DATA or run `fiona init`")
    if restore_dagster_home(root):
        click.echo(
            f"{root.dagster_home} was gone and is new: its history of runs is lost, nothing is sent again"
        )
    run(root, click.echo)
