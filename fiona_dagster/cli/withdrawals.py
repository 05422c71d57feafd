"""``fiona withdraw`` and ``fiona withdrawals``: requests that are taken back, and what became of them."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from fiona_dagster.cli.who import who
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import UsageError


@click.command()
@click.argument("study", required=False)
@click.option("--project", required=True, help="Project that the study was requested for.")
@click.option("--participant", help="Withdrawal of consent: all studies of this participant of the project.")
@click.option("--given-again", is_flag=True, help="With --participant: the consent was given again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def withdraw(
    study: str | None, project: str, participant: str | None, *, given_again: bool, as_json: bool
) -> None:
    """Takes back what was requested of STUDY (StudyInstanceUID), or everything of a participant.

    Nothing more is sent, what runs stops at its next step, working copies and undelivered packages go.
    Where something was delivered already is shown; `fiona withdrawals` lists it until `fiona removed`.
    """
    from fiona_dagster.transfers import withdrawals
    from fiona_dagster.transfers.context import Gateway

    if bool(study) == bool(participant) or (given_again and not participant):
        raise UsageError("name a study, or --participant for a withdrawn consent (--given-again undoes it)")
    with Gateway(DataRoot.from_environment()) as gateway:
        gateway.project(project)
        if given_again and participant:
            known = gateway.ledger.withdrawals.give_consent_again(project, participant)
            stopped = []
        elif participant:
            known = True
            stopped = withdrawals.withdraw_consent(gateway, project, participant, by=who())
        else:
            known = True
            stopped = withdrawals.withdraw(gateway, str(study), project, by=who())
        studies = sorted({transfer.study for transfer in stopped})
        places = withdrawals.follow_up(gateway)
    mine = [place for place in places if place["study"] in studies and place["project"] == project]
    if as_json:
        click.echo(json.dumps({"project": project, "studies": studies, "follow_up": mine, "known": known}))
    elif given_again:
        word = "new requests are accepted again" if known else "no withdrawn consent was known"
        click.echo(f"project {project}: {word}; what was withdrawn needs a new request")
    else:
        click.echo(f"{len(studies)} studies withdrawn from project {project}; nothing more of them is sent")
        _print_places(mine)


@click.command()
@click.argument("study", required=False)
@click.option("--confirm", is_flag=True, help="They were withdrawn: carry it out.")
@click.option("--reject", is_flag=True, help="They stand: sending goes on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def withdrawals(study: str | None, *, confirm: bool, reject: bool, as_json: bool) -> int:
    """Lists requests that were withdrawn, wait for a decision, or are missing; and where copies still lie.

    With --confirm or --reject somebody decides about those that wait, of STUDY or of all. Without, the exit
    code is 1 if anything waits for a person.
    """
    from fiona_dagster.transfers import withdrawals as domain
    from fiona_dagster.transfers.context import Gateway

    if confirm and reject:
        raise UsageError("give --confirm or --reject, not both")
    with Gateway(DataRoot.from_environment()) as gateway:
        if confirm or reject:
            decided = domain.decide(gateway, study, confirm=confirm, by=who())
            if not as_json:
                word = "withdrawn" if confirm else "left as requested"
                click.echo(f"{len(decided)} requests {word}")
        found = [each for each in gateway.ledger.withdrawals.all() if study in (None, each.study)]
        places = [place for place in domain.follow_up(gateway) if study in (None, place["study"])]
    waiting = [each for each in found if each.state == "asked"]
    if as_json:
        click.echo(json.dumps({"withdrawals": [asdict(each) for each in found], "follow_up": places}))
    else:
        for each in found:
            state = {
                "seen": f"missing in {each.exports} complete lists; not confirmed, nothing follows",
                "asked": "waits for a decision; nothing is sent",
                "carried": "withdrawn",
                "rejected": f"stands, says {each.decided_by}",
            }[each.state]
            click.echo(f"{each.study}  {each.project}  request {each.request}: {each.kind}, {state}")
        _print_places(places)
        if not found:
            click.echo("no request was withdrawn")
    return 1 if (waiting or places) and not (confirm or reject) else 0


def _print_places(places: list[dict[str, str]]) -> None:
    for place in places:
        study, project = place["study"], place["project"]
        click.echo(
            f"{study}  {project}: something lies at {place['target']} since {place['began']}; "
            f"have it removed, then `fiona removed {study} --project {project}`"
        )
