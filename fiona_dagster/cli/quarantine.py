"""``fiona quarantine``: what could not be filed, and what to do about it."""

from __future__ import annotations

import json
from typing import Any

import click

from fiona_dagster.config import DataRoot, load_settings_in_force
from fiona_dagster.errors import ConfigurationError, UsageError
from fiona_dagster.landing import Quarantined, discard, find_entries, quarantined, retry


@click.group()
def quarantine() -> None:
    """Lists, retries or discards what could not be filed."""


def _root() -> DataRoot:
    root = DataRoot.from_environment()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root here; run `fiona init` or set FIONA_DATA")
    return root


@quarantine.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_(*, as_json: bool) -> None:
    """Everything in quarantine with the reason, oldest first."""
    entries = quarantined(_root())
    if as_json:
        click.echo(json.dumps({"quarantine": [_picture(entry) for entry in entries]}, indent=2))
        return
    from rich.table import Table

    from fiona_dagster.cli.screen import Screen

    table = Table(
        "id", "code", "message", "bytes", "source", "retries", title=f"{len(entries)} in quarantine"
    )
    for entry in entries:
        shown = _picture(entry)
        message = shown["message"] or ("" if entry.has_reason else "no reason file")
        if not entry.has_bytes:
            message = f"bytes are missing; {message}"
        source = " ".join(part for part in (shown["source"], shown["calling_ae"], shown["caller_ip"]) if part)
        row = (_printable(entry.id), shown["code"], message, str(entry.size), source, str(entry.retries))
        table.add_row(*row)
    Screen().print(table)


def _picture(entry: Quarantined) -> dict[str, Any]:
    keys = ("time", "code", "message", "element", "status", "source", "calling_ae", "called_ae", "caller_ip")
    return {
        "id": _printable(entry.id),
        **{key: entry.text(key) for key in keys},
        "StudyInstanceUID": entry.study,
        "SOPInstanceUID": entry.sop_instance,
        "size": entry.size,
        "retries": entry.retries,
        "retried": entry.text("retried"),
        "acknowledged": entry.acknowledged,
        "has_bytes": entry.has_bytes,
        "has_reason": entry.has_reason,
    }


def _printable(text: str) -> str:
    """Names on disk may be anything, also what is no UTF-8."""
    return "".join(c if c.isprintable() else "?" for c in text.encode("utf-8", "replace").decode())


@quarantine.command("retry")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything in quarantine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def retry_(ids: tuple[str, ...], *, everything: bool, as_json: bool) -> int:
    """Sends objects through the door again, as from their first sender.

    What is filed now leaves the quarantine; the rest stays, with today's reason. Exit code 1 if any stays.
    """
    root = _root()
    if bool(ids) == everything:
        raise UsageError("name ids as `fiona quarantine list` shows them, or give --all")
    entries = quarantined(root) if everything else find_entries(root, ids)
    root.make()
    reserve = load_settings_in_force(root)[0].receiver.reserve_mb if root.config_file.exists() else 0
    results = retry(root, entries, reserve_mb=reserve)
    refused = sum(result.outcome == "refused" for result in results)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "results": [
                        {**vars(result), "id": _printable(result.id), "studies": list(result.studies)}
                        for result in results
                    ]
                },
                indent=2,
            )
        )
    else:
        for result in results:
            click.echo(
                f"{_printable(result.id)}: {result.outcome}"
                + (f": {result.message}" if result.message else "")
            )
        click.echo(f"{len(results) - refused} filed, {refused} stay in quarantine")
    return 1 if refused else 0


def _agreed(number: int) -> bool:
    try:
        return click.confirm(f"Delete {number} objects for good?", err=True)
    except click.Abort:  # Ctrl-C, or nobody is there to answer
        click.echo(err=True)
        return False


@quarantine.command("discard")
@click.argument("ids", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--acknowledged", is_flag=True, help="Also what a sender may have been told Success for.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def discard_(ids: tuple[str, ...], *, yes: bool, acknowledged: bool, as_json: bool) -> None:
    """Deletes objects from quarantine for good; who did it is kept in quarantine/.log.jsonl."""
    root = _root()
    entries = find_entries(root, ids)
    if not yes and not _agreed(len(entries)):
        raise UsageError("nothing was discarded; --yes discards without asking")
    gone = discard(root, entries, acknowledged=acknowledged)
    if as_json:
        click.echo(json.dumps({"discarded": [_printable(name) for name in gone]}))
    else:
        click.echo(f"{len(gone)} discarded; quarantine/.log.jsonl says so")
