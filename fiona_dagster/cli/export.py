"""``fiona export``: packages of a whole project, for the researchers or for moving house."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from fiona_dagster import landing
from fiona_dagster.config import DataRoot

if TYPE_CHECKING:
    from fiona_dagster.transfers.export import Format


@click.command()
@click.argument("project")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--participants", multiple=True, metavar="ID[,ID...]", help="Only these; may be repeated. Default: all."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["zip", "tgz", "nifti"]),
    help="May be repeated. Default: package.formats of the project.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; progress on stderr.")
def export(
    project: str, out: Path, participants: tuple[str, ...], formats: tuple[str, ...], *, as_json: bool
) -> int:
    """Packs every packaged or delivered study of PROJECT once more, into the folder OUT.

    Each is de-identified again from its originals, searched again, and must have exactly the bytes that were
    verified before; otherwise it is refused and named, and the exit code is 1. So are series that can't be
    converted wholly to NIfTI. Nothing is sent anywhere.

    What stands in the headers, dates and descriptions too, is as the project's rules say: an export changes
    nothing of it. Other rules are a matter of the project's file.
    """
    from fiona_dagster.transfers import export as exporting
    from fiona_dagster.transfers.context import Gateway

    chosen = [part.strip() for text in participants for part in text.split(",") if part.strip()]
    done = []
    with Gateway(DataRoot.from_environment()) as gateway:
        transfers = exporting.transfers_to_export(gateway, project, chosen)
        wanted = cast("tuple[Format, ...]", formats)
        for result in exporting.export(gateway, transfers, out, wanted, by=landing.operator()):
            done.append(result)
            what = result.problem or f"{len(result.files)} files"
            if result.partial:
                what += " - PARTIAL: " + "; ".join(f"series {s.number}: {s.reason}" for s in result.partial)
            click.echo(f"{len(done)} of {len(transfers)}: study {result.study}: {what}", err=True)
    refused = [result for result in done if result.problem]
    partial = [result for result in done if result.partial]
    if as_json:
        document = {
            "project": project,
            "out": str(out),
            "exported": [
                {"study": result.study, "files": [str(path.relative_to(out)) for path in result.files]}
                for result in done
                if not result.problem
            ],
            "refused": [{"study": result.study, "reason": result.problem} for result in refused],
            "partial": [
                {
                    "study": result.study,
                    "SeriesInstanceUID": s.series,
                    "SeriesNumber": s.number,
                    "reason": s.reason,
                }
                for result in partial
                for s in result.partial
            ],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"{len(done) - len(refused)} of {len(transfers)} studies exported to {out}")
    if refused:
        click.echo(f"fiona: {len(refused)} studies of project {project} were refused, see above", err=True)
    if partial:
        click.echo(
            f"fiona: {len(partial)} studies of project {project} are partial as NIfTI, see above", err=True
        )
    return 1 if refused or partial else 0
