"""``fiona redcap``: set up, check and test the projects of a REDCap server."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fiona_dagster.errors import ConfigurationError, RedcapRejected

if TYPE_CHECKING:
    from fiona_dagster.config import DataRoot, RedcapSettings
    from fiona_dagster.redcap import RedcapClient

_TOKENS = click.option(
    "--tokens",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON file {"url": ..., "tokens": {project: token}}; without it, as configured, `init` Incoming and '
    "`check` every project with a token.",
)


@click.group("redcap")
def redcap() -> None:
    """Set up, check and test the projects of a REDCap server."""


@redcap.command("init")
@_TOKENS
def init(tokens: Path | None) -> None:
    """Import the dictionaries into empty projects; refuses where records exist.

    A name that is none of Incoming, DataTransferProjects, Routing, CouplingList and AutoID is a research
    project and gets the minimal dictionary. Nothing is changed anywhere unless all projects are empty.
    """
    from fiona_dagster.redcap.projects import install, require_empty, template

    clients = _clients(tokens)
    for name, client in clients.items():
        require_empty(client, name)
    for name, client in clients.items():
        click.echo(f"{name}: {install(client, template(name))} fields")


@redcap.command("check")
@_TOKENS
@click.pass_context
def check(context: click.Context, tokens: Path | None) -> None:
    """Say what the dictionaries of a server lack; exit 1 if anything does."""
    from fiona_dagster.redcap.projects import lacking, template

    faults = 0
    for name, client in _clients(tokens, everything=True).items():
        try:
            problems = lacking(client, template(name))
        except RedcapRejected as error:  # its token or rights: the others are checked all the same
            problems = [str(error)]
        faults += len(problems)
        click.echo(f"{name}: {'complete' if not problems else f'{len(problems)} missing or wrong'}")
        for problem in problems:
            click.echo(f"  {problem}")
    context.exit(1 if faults else 0)


@redcap.command("selftest")
@click.option("--tokens", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--project", required=True, help="Which of the tokens is the scratch project's.")
@click.option(
    "--yes-this-is-a-scratch-project",
    "scratch",
    is_flag=True,
    help="Needed: the project's dictionary is replaced.",
)
@click.pass_context
def selftest_(context: click.Context, tokens: Path, project: str, scratch: bool) -> None:
    """Try everything that FIONA relies on in an empty scratch project; exit 1 if anything differs.

    The project must be classic. Its dictionary is replaced, records are made and deleted again.
    """
    from fiona_dagster.redcap.selftest import selftest

    if not scratch:
        raise click.UsageError(
            "the dictionary of that project will be replaced; say --yes-this-is-a-scratch-project if it may"
        )
    clients = _clients(tokens)
    if project not in clients:
        raise click.UsageError(f"{tokens} has no token of {project}")
    differs = 0
    for finding in selftest(clients[project]):
        differs += bool(finding.problem)
        click.echo(f"{'ok     ' if not finding.problem else 'DIFFERS'} {finding.what}")
        if finding.problem:
            click.echo(f"        {finding.problem}")
    context.exit(1 if differs else 0)


def _clients(tokens: Path | None, *, everything: bool = False) -> dict[str, RedcapClient]:
    """A client for each project of the file, or for what is configured: Incoming, or ``everything``."""
    from fiona_dagster.config import DataRoot, RedcapSettings, load_settings, redcap_token, resolve
    from fiona_dagster.redcap import RedcapClient

    root = DataRoot.from_environment()
    configured = tokens is None or root.config_file.is_file()
    settings = load_settings(root).redcap if configured else RedcapSettings()
    if tokens is None:
        url, found = settings.url, {"Incoming": redcap_token(root, settings)}
        if everything:
            found |= _configured(root, settings)
    else:
        url, found = _read(tokens)
    return {
        name: RedcapClient(
            url,
            token,
            timeout=settings.timeout_seconds,
            calls_per_minute=settings.calls_per_minute,
            ca_file=resolve(root, settings.ca_file) if settings.ca_file else None,
            budget_file=root.redcap_calls_file if configured else None,
        )
        for name, token in found.items()
    }


def _configured(root: DataRoot, settings: RedcapSettings) -> dict[str, str]:
    """The tokens of the tables, and of the projects whose files have one."""
    from fiona_dagster.config import load_project_in_force, project_names, token_of

    found = {
        str(name): token_of(root, source, f"{root.config_file}: redcap.tokens.{name}")
        for name, source in sorted(settings.tokens.items())
    }
    for name in project_names(root):
        source = load_project_in_force(root, name)[0].redcap_token
        if source is not None:
            found[name] = token_of(root, source, f"{root.project_files / name}.json: redcap_token")
    return found


def _read(file: Path) -> tuple[str, dict[str, str]]:
    """Address and tokens of a file that only its owner can read: a token opens all that its project holds."""
    status = file.stat()
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:  # a pipe's mode says nothing
        raise ConfigurationError(
            f"{file}: others may read the tokens; run `chmod 600` on it, and have new tokens made if others "
            "use this machine"
        )
    try:
        document = json.loads(file.read_text("utf-8"))
        url, tokens = document["url"], document["tokens"]
        good = isinstance(url, str) and all(isinstance(token, str) for token in tokens.values()) and tokens
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise ConfigurationError(
            f'{file}: must hold {{"url": "https://…/api/", "tokens": {{"Incoming": "…"}}}}'
        )
    return url, dict(tokens)
