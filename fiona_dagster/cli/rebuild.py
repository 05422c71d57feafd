"""``fiona rebuild``: the ledger anew."""

from __future__ import annotations

import json

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError


@click.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def rebuild(*, as_json: bool) -> int:
    """Builds a lost or broken ledger anew from journals, records, packages and REDCap; keeps the old one.

    Links and series records in site/raw are written again from the archive. Nothing that was proven received
    is sent again. Of a ledger that is sound it refuses while `fiona up`, `fiona receive` or another command
    runs; a lost one is built beside them. Exit code 1 if something could not be taken over; it is named.
    """
    from fiona_dagster.operations.rebuild import rebuild as run

    root = DataRoot.from_environment()
    if not root.config_file.is_file():
        raise ConfigurationError(f"{root.path} is no data root; set FIONA_DATA or run `fiona init`")
    root.make()
    result = run(root)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        click.echo(
            f"{result.studies} studies with {result.instances} instances; {result.records} records and "
            f"{result.packages} packages taken over, keys of {result.keys} projects; "
            f"links and series records of {result.trees} studies written again"
        )
        if result.kept:
            click.echo(f"the old ledger is {result.kept}")
    for problem in result.problems:
        click.echo(f"fiona: {problem}", err=True)
    return 1 if result.problems else 0
