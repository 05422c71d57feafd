"""``fiona verify``: checks a package offline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fiona_dagster.errors import UsageError


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def verify(context: click.Context, package: Path, *, as_json: bool) -> None:
    """Checks PACKAGE (a ZIP) offline: manifest, checksums, report; exit code 1 for any changed byte."""
    from fiona_dagster.transfers.verify import read_manifest, verify_package

    if not package.is_file():
        raise UsageError(f"{package}: no such file; name a package (ZIP)")
    problems = verify_package(package)
    files = 0 if problems else len(read_manifest(package)["files"])
    if as_json:
        document = {"package": str(package), "ok": not problems, "files": files, "problems": problems}
        click.echo(json.dumps(document, indent=1))
    elif problems:
        for problem in problems:
            click.echo(f"{package.name}: {problem}")
    else:
        click.echo(f"{package.name}: OK, {files} files as in the manifest")
    if problems:
        if not as_json:
            click.echo(f"fiona: {package}: {len(problems)} problems; get the package again", err=True)
        context.exit(1)
