"""``fiona erase``: the link between a person and de-identified data goes; counts stay."""

from __future__ import annotations

import json

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError


@click.command()
@click.option("--project", help="Project whose participant it is.")
@click.option("--participant", help="Participant id.")
@click.option("--yes", is_flag=True, help="Do it; without, it is only said what would happen.")
@click.option("--resume", "again", is_flag=True, help="Finish an erasure that was cut short.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def erase(project: str | None, participant: str | None, *, yes: bool, again: bool, as_json: bool) -> int:
    """Erases what links a participant of a project to de-identified data, for good.

    Original and mapped UIDs, participant, archived originals, journals, packages and reports go here, in
    REDCap and in Dagster; the project's key stays, and counts. `fiona up` must not run. Exit code 1 if
    something is left to a person.
    """
    from fiona_dagster.operations import erasure

    root = DataRoot.from_environment()
    if again == bool(project and participant):
        raise UsageError("give --project and --participant, or --resume alone")
    if again:
        done = erasure.resume(root)
    elif yes:
        done = erasure.erase(root, str(project), str(participant))
    else:
        planned = erasure.plan(root, str(project), str(participant))
        if as_json:
            click.echo(json.dumps({"erased": False, "counts": planned.counts, "places": planned.places}))
        else:
            for line in erasure.describe(planned):
                click.echo(line)
            click.echo("nothing was erased; --yes does it, and nothing brings it back")
        return 0
    if as_json:
        click.echo(json.dumps({"erased": True, "counts": done.counts, "problems": done.problems}))
    else:
        click.echo("erased: " + ", ".join(f"{number} {name}" for name, number in done.counts.items()))
        for problem in done.problems:
            click.echo(f"left to you: {problem}")
    return 1 if done.problems else 0
