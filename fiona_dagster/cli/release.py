"""``fiona release``: a person lets a verified copy go, or rejects it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from fiona_dagster.ledger import Review


@click.command()
@click.argument("study", required=False)
@click.option("--project", help="Whose copy; needed if several projects' copies of the study wait.")
@click.option("--reject", is_flag=True, help="Nothing of it is sent; the transfer fails, REDCap is told why.")
@click.option("--reason", default="", help="What was looked at; nothing that identifies a person.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def release(study: str | None, *, project: str | None, reject: bool, reason: str, as_json: bool) -> int:
    """Releases the verified copy of STUDY (StudyInstanceUID as received); without STUDY lists what waits.

    A copy waits when its project reviews every study or the first ones, or when the residual search had weak
    hits. Look at it with `fiona review` first. The decision holds for these very bytes; --reject needs a
    --reason.
    """
    from fiona_dagster import landing
    from fiona_dagster.transfers.context import Gateway
    from fiona_dagster.transfers.release import decide

    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    if study is None:
        if reject or reason:
            raise UsageError("--reject and --reason go with a STUDY; without one this lists what waits")
        return _list(root, project, as_json=as_json)
    text = " ".join(reason.split())
    if (reject and not text) or len(text) > 200 or not text.isprintable():
        raise UsageError("--reason must be 1 to 200 printable characters (it may be left out of a release)")
    with Gateway(root) as gateway:
        decided = decide(
            gateway, study, project, release=not reject, by=landing.operator(), reason=text or "looked at"
        )
    if as_json:
        click.echo(json.dumps(_entry(decided), indent=1))
    elif reject:
        click.echo(f"study {study}: its copy for project {decided.transfer.project} is rejected")
    else:
        click.echo(
            f"study {study}: its copy for project {decided.transfer.project} is released and packed next"
        )
    return 0


def _list(root: DataRoot, project: str | None, *, as_json: bool) -> int:
    from fiona_dagster.ledger import Ledger

    with Ledger(root) as ledger:
        waiting = ledger.releases.waiting(project)
    if as_json:
        click.echo(json.dumps({"waiting": [_entry(review) for review in waiting]}, indent=1))
    else:
        _print(waiting)
    return 0


def _entry(review: Review) -> dict[str, Any]:
    return {
        "study": review.transfer.study,
        "project": review.transfer.project,
        "transfer": review.transfer.id,
        "revision": review.transfer.revision,
        "files": review.files,
        "reasons": review.reasons,
        "decision": review.decision,
        "by": review.by,
        "time": review.time,
    }


def _print(waiting: list[Review]) -> None:
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen
    from fiona_dagster.ledger import describe_review

    table = Table("StudyInstanceUID", "project", "files", "since", "why", title=f"{len(waiting)} copies wait")
    for review in waiting:
        table.add_row(
            review.transfer.study,
            review.transfer.project,
            str(review.files),
            review.time,
            describe_review(review.reasons),
        )
    Screen().print(table)
