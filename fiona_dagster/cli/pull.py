"""``fiona pull``: has a PACS send a study."""

from __future__ import annotations

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import UsageError


@click.command()
@click.argument("study")
@click.option("--from", "source", required=True, help="Source, as in `sources` of config.json.")
def pull(study: str, source: str) -> None:
    """Asks a source to send STUDY (StudyInstanceUID) to the running receiver, by C-MOVE."""
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.fetching import pull as ask

    if not is_uid(study):
        raise UsageError("STUDY is no StudyInstanceUID; give digits joined by points")
    with Gateway(DataRoot.from_environment()) as gateway:
        click.echo(f"{source}: {ask(gateway, study, source)}")
