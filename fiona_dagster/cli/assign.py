"""``fiona assign``, ``fiona removed`` and ``fiona reclassify``: what a person orders or confirms."""

from __future__ import annotations

import json

import click

from fiona_dagster.cli.who import who
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError


@click.command()
@click.argument("study")
@click.option("--project", required=True, help="Project that shall get the study.")
@click.option("--participant", required=True, help="Participant id in that project.")
@click.option("--event", required=True, help="Event of that project.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def assign(study: str, project: str, participant: str, event: str, as_json: bool) -> None:
    """Writes a transfer request for STUDY (StudyInstanceUID) to REDCap."""
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.requests import assign as write_request

    with Gateway(DataRoot.from_environment()) as gateway:
        instance = write_request(gateway, study, project, participant, event)
    if as_json:
        click.echo(json.dumps({"study": study, "project": project, "request": instance}))
    else:
        click.echo(f"request {instance} of study {study} for project {project} is in REDCap")


@click.command()
@click.argument("study")
@click.option("--project", required=True, help="Project that the copies were sent for.")
@click.option("--target", "targets", multiple=True, help="Only this target (may be repeated); default: all.")
@click.option("--unasked", is_flag=True, help="Don't ask research PACS whether they still list the study.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def removed(study: str, project: str, targets: tuple[str, ...], unasked: bool, as_json: bool) -> None:
    """Confirms that the copies of STUDY (StudyInstanceUID) were removed at their targets.

    Your login name and the time are recorded. A request with another participant or event is then accepted.
    """
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.removal import confirm_removed

    with Gateway(DataRoot.from_environment()) as gateway:
        names = confirm_removed(gateway, study, project, targets, by=who(), ask=not unasked)
    if as_json:
        click.echo(json.dumps({"study": study, "project": project, "targets": names}))
    else:
        click.echo(
            f"recorded: nothing of study {study} for project {project} is at {', '.join(names)} any more"
        )


@click.command()
@click.argument("studies", nargs=-1)
@click.option(
    "--stale", is_flag=True, help="All studies that were classified by other rules than those in force."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def reclassify(studies: tuple[str, ...], stale: bool, as_json: bool) -> None:
    """Has studies classified again and their records in REDCap renewed.

    Starts one backfill of exactly these studies, as the job `reclassify_stale` does; Dagster shows it under
    Runs, Backfills. If no `fiona up` runs it begins with the next one, and this command says so.
    """
    from fiona_dagster.operations import is_up
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.intake import to_reclassify

    if bool(studies) == stale:
        raise UsageError("name studies, or give --stale for all that a rule change affects")
    root = DataRoot.from_environment()
    with Gateway(root) as gateway:
        asked = [study.study for study in to_reclassify(gateway, None if stale else list(studies))]
    backfill, started = "", list[str]()
    if asked:
        from fiona_dagster.defs.reclassify import reclassify_by_command

        backfill, started = reclassify_by_command(root, asked)
    running = is_up(root)
    if as_json:
        document = {"studies": asked, "started": started, "backfill": backfill, "service_running": running}
        click.echo(json.dumps(document))
    else:
        click.echo(
            f"{len(asked)} studies will be classified again"
            + (f", backfill {backfill}" if backfill else "")
            + (f"; {len(asked) - len(started)} of them wait already" if len(started) < len(asked) else "")
        )
    if asked and not running:
        click.echo("fiona: `fiona up` does not run here; the runs start when it does", err=True)
