"""``fiona studies``: every series that is known, filtered, as a table or a file."""

from __future__ import annotations

import json
import textwrap
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from fiona_dagster.cli.private_files import write_private
from fiona_dagster.config import DataRoot, project_names
from fiona_dagster.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from fiona_dagster.operations.series_table import SeriesTable

_DAY, _MINUTE = "%Y-%m-%d", "%Y-%m-%dT%H:%M"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@click.command()
@click.argument("studies", nargs=-1)
@click.option("--project", help="Only studies of this project, with participant, event and new UIDs.")
@click.option("--participant", "participants", multiple=True, help="Only this participant (with --project).")
@click.option("--event", "events", multiple=True, help="Only this event (with --project).")
@click.option("--type", "types", multiple=True, help="Only series with this type; several: with all of them.")
@click.option("--not-type", "without_types", multiple=True, help="Only series without this type.")
@click.option("--untyped", is_flag=True, help="Only series without any type.")
@click.option("--modality", "modalities", multiple=True, help="Only this modality; several: any of them.")
@click.option(
    "--state", "states", multiple=True, help="Only this state of the study; with --project, of its transfer."
)
@click.option("--site", "sites", multiple=True, help="Only this site, as in SITES of config.json; or main.")
@click.option("--ae", "callers", multiple=True, help="Only what this AE title sent.")
@click.option(
    "--from",
    "since",
    type=click.DateTime([_DAY, _MINUTE]),
    help="Arrived on this day or later (site's zone).",
)
@click.option("--until", type=click.DateTime([_DAY, _MINUTE]), help="Arrived on this day or earlier.")
@click.option("--problems", is_flag=True, help="Only series whose instances can't belong together.")
@click.option("--series", "each_series", is_flag=True, help="Show every series, not every study.")
@click.option("--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@click.option(
    "--parquet", "parquet_file", type=click.Path(path_type=Path, dir_okay=False), help="Write a Parquet file."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def studies(
    *,
    studies: tuple[str, ...],
    project: str | None,
    since: datetime | None,
    until: datetime | None,
    each_series: bool,
    csv_file: Path | None,
    parquet_file: Path | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """Lists what was classified, one row a study (all of them, or STUDIES); nothing identifying.

    --series, --csv, --parquet and --json have one row a series. With --project the rows have participant,
    event and the UIDs of the copy in place of the hospital's UIDs and of times of arrival. A file is only
    readable for you and replaces an older one. In CSV, types are separated by "; ".
    """
    from fiona_dagster.operations.series_table import Wanted, series_table
    from fiona_dagster.transfers.context import Gateway

    root = _root()
    if project is not None and project not in project_names(root):
        raise UsageError(
            f"no project {project[:20]!r}; config/projects has: {', '.join(project_names(root)) or 'none'}"
        )
    if project is None and (filters["participants"] or filters["events"]):
        raise UsageError("--participant and --event belong to a project; give --project as well")
    with Gateway(root) as gateway:
        zone = ZoneInfo(gateway.settings.LOCALTIMEZONE)
        wanted = Wanted(
            studies=studies,
            since=since and since.replace(tzinfo=zone),
            until=until and _end(until).replace(tzinfo=zone),
            **filters,
        )
        found = series_table(gateway, project, wanted)
    for sentence in found.unknown:
        click.echo(f"fiona: {sentence}", err=True)
    if csv_file:
        flat = found.rows.map(cell)
        write_private(csv_file, lambda part: flat.to_csv(part, index=False))
    if parquet_file:
        write_private(parquet_file, lambda part: _parquet(found.rows, part))
    if as_json:
        click.echo(json.dumps(_documents(found.rows), indent=2))
    elif not (csv_file or parquet_file):
        _print(found, each_series=each_series)
    if csv_file or parquet_file:
        click.echo(f"{len(found.rows)} series written", err=True)


def _root() -> DataRoot:
    root = DataRoot.from_environment()
    if not root.ledger_file.is_file():
        raise ConfigurationError(
            f"{root.path} has no ledger; set FIONA_DATA to a data root that received something"
        )
    return root


def _end(until: datetime) -> datetime:
    """A day counts to its end, a time to the end of its minute."""
    whole_day = (until.hour, until.minute) == (0, 0)
    return until + (timedelta(days=1) if whole_day else timedelta(minutes=1))


def _parquet(table: pd.DataFrame, path: Path) -> None:
    try:
        table.to_parquet(path, index=False)
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: `make env` brings it, so does pip install 'fiona-dagster[parquet]'"
        ) from None


def _documents(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def cell(value: object) -> object:
    """One cell of a CSV file; a text that a spreadsheet would take for a formula gets a ``'`` first."""
    if isinstance(value, datetime):
        return value.isoformat()
    text = "; ".join(value) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text


def _print(found: SeriesTable, *, each_series: bool) -> None:
    """Some lines a study, so that a UID is never cut and 80 columns are enough."""
    from fiona_dagster.operations.series_table import by_study, study_columns

    rows, names = found.rows, study_columns(found.rows)
    grouped = by_study(rows)
    of_study = dict(list(rows.groupby(names, sort=False))) if each_series else {}
    for study in grouped.to_dict("records"):
        key = tuple(study[name] for name in names)
        click.echo("  ".join(_shown(value) for value in (*key, study["State"]) if value))
        _wrapped("  ", _parts(study, f"{study['Series']} series", "Instances", study["Modalities"]))
        _wrapped("  ", [f"types: {_shown(study['Types']) or 'none'}"])
        for series in of_study[key].to_dict("records") if each_series else ():
            click.echo(f"    {_shown(series['SeriesInstanceUID'])}")
            number = f"number {series['SeriesNumber'] or '-'}"
            _wrapped("      ", _parts(series, number, "NumFiles", [series["Modality"]]))
            _wrapped("      ", [f"types: {_shown(series['ClassifyType']) or 'none'}"])
    instances, size = int(rows["NumFiles"].sum()), int(rows["Bytes"].sum())
    click.echo(f"{len(grouped)} studies, {len(rows)} series, {instances} instances, {size} bytes")


def _parts(row: dict[Any, Any], first: str, instances: str, modalities: list[str]) -> list[str]:
    """What is said in a line: only what says something."""
    said = [first, ", ".join(filter(None, modalities)), f"{row[instances]} instances", _size(row["Bytes"])]
    if row.get("Received") is not None:
        said.append(f"{_shown(row['Received'])} from {_shown(row['CallingAE'])}")
    if row.get("Site", "main") != "main":
        said.append(f"site {_shown(row['Site'])}")
    for name, word in (("Projects", "for"), ("Flags", "flagged:"), ("Problems", "problems:")):
        if row.get(name) and (name == "Problems" or "Series" in row):  # the others are the study's
            said.append(f"{word} {_shown(row[name])}")
    if row.get("HeldBack"):
        said.append(f"{row['HeldBack']} held back")
    return said


def _wrapped(indent: str, parts: list[str]) -> None:
    for line in textwrap.wrap("; ".join(filter(None, parts)), 100 - len(indent)):
        click.echo(indent + line)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"


def _shown(cell: object) -> str:
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M}"
    text = ", ".join(cell) if isinstance(cell, list) else str(cell)
    return "".join(letter if letter.isprintable() else "?" for letter in text)
