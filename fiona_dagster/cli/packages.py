"""``fiona verify`` checks a package offline."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fiona_dagster.errors import UsageError


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="The sender's public key.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def verify(context: click.Context, package: Path, key_file: Path | None, *, as_json: bool) -> None:
    """Checks PACKAGE (a ZIP) offline: manifest, checksums, report, signature.

    Exit code 1 for any changed byte. With --key it must be signed with that key; without, the signature is
    checked against the key in the package, which proves that nothing was changed, but not who made it.
    """
    from fiona_dagster.transfers.signature import read_public
    from fiona_dagster.transfers.verify import read_manifest, verify_package

    if not package.is_file():
        raise UsageError(f"{package}: no such file; name a package (ZIP)")
    key = None if key_file is None else read_public(key_file)
    problems = verify_package(package, key)
    manifest = {} if problems else read_manifest(package)
    files = len(manifest.get("files", []))
    signed_by = manifest.get("signing_key", "")
    if as_json:
        document = {
            "package": str(package),
            "ok": not problems,
            "format": manifest.get("format", ""),
            "files": files,
            "signed_by": signed_by,
            "origin": "proven" if key is not None and not problems else "not proven",
            "problems": problems,
        }
        click.echo(json.dumps(document, indent=1))
    elif problems:
        for problem in problems:
            click.echo(f"{package.name}: {problem}")
    else:
        click.echo(f"{package.name}: OK, {files} files as in the manifest; {_origin(signed_by, key)}")
    if problems:
        if not as_json:
            click.echo(f"fiona: {package}: {len(problems)} problems; get the package again", err=True)
        context.exit(1)


def _origin(signed_by: str, key: bytes | None) -> str:
    if key is not None:
        return "signed with the given key"
    if signed_by:
        return (
            f"signed with the key that it names itself ({signed_by[:16]}...): nothing was changed, "
            "but only --key proves who made it"
        )
    return "not signed (format 1): whoever rewrites all of it is not found"
