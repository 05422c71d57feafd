"""``fiona pull``: has a PACS send a study."""

from __future__ import annotations

import json

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import UsageError


@click.command()
@click.argument("study")
@click.option("--from", "source", required=True, help="Source, as in `sources` of config.json.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def pull(study: str, source: str, as_json: bool) -> int:
    """Asks a source to send STUDY (StudyInstanceUID) to the running receiver, by C-MOVE.

    Exit code 1 if the source says that it did not send all of it.
    """
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.fetching import pull as ask

    if not is_uid(study):
        raise UsageError("STUDY is no StudyInstanceUID; give digits joined by points")
    with Gateway(DataRoot.from_environment()) as gateway:
        moved = ask(gateway, study, source)
    if as_json:
        document = {"source": source, "study": study, "status": f"{moved.status:04X}"}
        click.echo(json.dumps({**document, "completed": moved.completed, "failed": moved.failed}))
    else:
        click.echo(f"{source}: {moved}")
    return 1 if moved.status or moved.failed else 0
