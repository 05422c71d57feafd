"""``fiona project``: key, effective profile and schema of research projects."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fiona_dagster.config import PROJECT_NAME, DataRoot, has_project, load_project_in_force
from fiona_dagster.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fiona_dagster.deid import ProjectKey
    from fiona_dagster.deid.explain import Row

_COLUMNS = ("tag", "name", "action", "meaning", "reason")


@click.group()
def project() -> None:
    """Research projects of this gateway."""


def _key(root: DataRoot, name: str, *, make: bool) -> ProjectKey:
    from fiona_dagster.deid import project_key
    from fiona_dagster.ledger import Ledger

    with Ledger(root) as ledger:
        return project_key(root, name, ledger.key_fingerprint, ledger.record_key_fingerprint, make=make)


@project.command()
@click.argument("name")
def init(name: str) -> None:
    """Makes the key of project NAME, and its file from the template if there is none.

    A key that is there stays; one that was used before and is missing is refused, never replaced.
    """
    root = DataRoot.from_environment()
    if not PROJECT_NAME.fullmatch(name):
        raise UsageError("NAME: must be 1 to 20 letters, digits or _")
    root.make()
    path = root.project_files / f"{name}.json"
    if not has_project(root, name):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            json.dump({"name": name, "active": False, "options": [], "targets": []}, file, indent=2)
            file.write("\n")
        click.echo(f"{path}: made, not active yet; see docs/researchers/projects.md for its keys")
    load_project_in_force(root, name)
    found = _key(root, name, make=True)
    click.echo(f"{name}: key {found.fingerprint}; back up {root.secrets} with the ledger")


@project.command()
@click.argument("name")
@click.option("--public", is_flag=True, help="Print the public key (PEM), the only half that is given out.")
def key(name: str, *, public: bool) -> None:
    """Checks the key of project NAME against the ledger and prints its fingerprint.

    With --public: the key for `fiona verify PACKAGE.zip --key FILE`. It identifies nobody. Hand it to those
    who get packages, on another way than the packages.
    """
    from fiona_dagster.transfers.signature import SigningKey, public_pem

    root = DataRoot.from_environment()
    load_project_in_force(root, name)
    found = _key(root, name, make=public)
    if public:
        click.echo(public_pem(SigningKey(found.secret).public), nl=False)
    else:
        click.echo(f"{name}: key {found.fingerprint}, the one that the ledger knows")


@project.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="The table as CSV on stdout.")
def profile(name: str, *, as_json: bool, as_csv: bool) -> None:
    """Prints the effective profile of project NAME as a table, for an ethics board.

    Every row of PS3.15 table E.1-1 as it is carried out, private attributes that stay, own rules, and what
    is done with kinds of objects.
    """
    from fiona_dagster.deid import Assignment, Profile
    from fiona_dagster.deid.explain import profile_rows

    root = DataRoot.from_environment()
    settings, _ = load_project_in_force(root, name)
    effective = Profile.of(settings, {"project": name})
    assigned = Assignment(name, "x", "x").values().keys() | {0x00080050}
    rows = list(profile_rows(effective, assigned - effective.kept_of_assigned))
    head: dict[str, Any] = {
        "project": name,
        "profile": [f"{meaning} ({code})" for code, meaning in effective.codes],
        "dates": effective.dates,
        "siemens_csa": settings.siemens_csa,
        "kinds_passed_on": sorted(settings.passing_kinds),
        "kinds_dropped": sorted(settings.dropped_kinds),
        "compatibility": settings.compatibility is not None,
        "rules_digest": effective.digest,
    }
    if as_json:
        click.echo(json.dumps({**head, "rows": [row.to_json() for row in rows]}, indent=1))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([getattr(row, column) for column in _COLUMNS] for row in rows)
    else:
        for key_, value in head.items():
            shown = "; ".join(value) or "none" if isinstance(value, list) else value
            click.echo(f"{key_.replace('_', ' ')}: {shown}")
        click.echo()
        show(rows)


def show(rows: Iterable[Row], *, counts: bool = False) -> None:
    """Prints an explanation as a table."""
    columns = (*_COLUMNS, "count") if counts else _COLUMNS
    lines = [columns, *(tuple(str(getattr(row, column)) for column in columns) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


@project.command()
@click.option("--output", type=click.Path(path_type=Path), help="Write it to this file.")
def schema(output: Path | None) -> None:
    """Prints the JSON schema of project files."""
    from fiona_dagster.config.load import json_schema

    text = json.dumps(json_schema()["projects/<PROJECT>.json"], indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
