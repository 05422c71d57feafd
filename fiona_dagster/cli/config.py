"""``fiona config``: what is wrong with the configuration, and what is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from fiona_dagster.config import (
    DataRoot,
    load_project_in_force,
    load_settings_in_force,
    project_names,
)
from fiona_dagster.errors import ConfigurationError


@click.group()
def config() -> None:
    """Checks or shows the configuration."""


@config.command("check")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def check_(context: click.Context, *, as_json: bool) -> None:
    """Names everything that is wrong with config.json, project and rule files; exit code 1 if anything is.

    Folders that are targets are looked at, too: whether they are there and may be written to.
    """
    from fiona_dagster.operations import configuration_problems
    from fiona_dagster.transfers.targets.checking import unusable_targets

    root = DataRoot.from_environment()
    if not root.config.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    problems = [*configuration_problems(root), *unusable_targets(root)]
    if as_json:
        click.echo(
            json.dumps({"data_root": str(root.path), "ok": not problems, "problems": problems}, indent=1)
        )
    else:
        for problem in problems:
            click.echo(problem)
        if not problems:
            click.echo(f"{root.config}: all is well")
    if problems:
        click.echo(f"fiona: {root.config}: {len(problems)} wrong; correct the files that are named", err=True)
        context.exit(1)


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def show(*, as_json: bool) -> None:
    """Shows what is in force, defaults included; names files that were refused on stderr."""
    root = DataRoot.from_environment()
    settings, problem = load_settings_in_force(root)
    refused = [problem] if problem else []
    projects: dict[str, Any] = {}
    for name in project_names(root):
        try:
            project, problem = load_project_in_force(root, name)
        except ConfigurationError as error:
            refused.append(str(error))
            continue
        refused += [problem] if problem else []
        projects[name] = project.model_dump(mode="json")
    document = {"data_root": str(root.path), "config": settings.model_dump(mode="json"), "projects": projects}
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        for line in _lines(document):
            click.echo(line)
    for reason in refused:
        click.echo(f"fiona: {reason}; not in force", err=True)


def _lines(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _lines(inner, f"{name}.{key}" if name else str(key))
    else:
        yield f"{name} = {json.dumps(value)}"
