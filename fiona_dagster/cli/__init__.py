"""The command ``fiona``: one module per group of commands, loaded only when called.

Belongs here: arguments, exit codes, tables. Stays out: what the commands do (domain packages).
Exit codes: 0 = success, 1 = ran and found something wrong, 2 = usage or configuration error.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from fiona_dagster.errors import ConfigurationError, FionaError, UsageError

COMMANDS: dict[str, str] = {
    "assign": "assign:assign",
    "classify": "classify:classify",
    "config": "config:config",
    "conflicts": "conflicts:conflicts",
    "deidentify": "deidentify:deidentify",
    "demo": "demo:demo",
    "env": "init:env",
    "import": "imports:import_",
    "init": "init:init",
    "quarantine": "quarantine:quarantine",
    "receive": "receive:receive",
    "reclassify": "assign:reclassify",
    "redcap-sandbox": "redcap:redcap_sandbox",
    "sites": "sites:sites",
    "status": "status:status",
    "up": "service:up",
    "verify": "packages:verify",
}
"""Name of a command -> module of this package and function in it."""


class _LazyGroup(click.Group):
    """Imports the module of a command only when that command is called: dagster costs a second."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fiona-dagster", prog_name="fiona")
def fiona() -> None:
    """FIONA: a DICOM research gateway. FIONA_DATA names the data root (default ./data)."""


def main() -> None:
    """Entry point: runs the command and turns errors into one line and an exit code."""
    os.umask(0o077)
    try:
        result = fiona.main(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        code = exit_.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except (UsageError, ConfigurationError) as error:
        code = _complain(error, 2)
    except FionaError as error:
        code = _complain(error, 1)
    except BrokenPipeError:
        code = 0
    else:
        code = result if isinstance(result, int) else 0
    sys.exit(code)


def _complain(error: FionaError, code: int) -> int:
    click.echo("fiona: " + " ".join(str(error).split()), err=True)
    return code
