"""The command ``fiona``: one module per group of commands, loaded only when called.

Belongs here: arguments, exit codes, tables. Stays out: what the commands do (domain packages).
Exit codes: 0 = success, 1 = ran and found something wrong, 2 = usage or configuration error.
"""

from __future__ import annotations

import errno
import importlib
import os
import sqlite3
import sys
import traceback

import click

from fiona_dagster.errors import ConfigurationError, FionaError, UsageError

TRACEBACK = "FIONA_TRACEBACK"
"""Environment variable that lets unforeseen errors through as they are, for developers."""

COMMANDS: dict[str, str] = {
    "adopt": "takeover:adopt",
    "assign": "assign:assign",
    "classify": "classify:classify",
    "config": "config:config",
    "conflicts": "conflicts:conflicts",
    "couple": "takeover:couple",
    "deidentify": "deidentify:deidentify",
    "demo": "demo:demo",
    "env": "init:env",
    "erase": "erase:erase",
    "export": "export:export",
    "flags": "flags:flags",
    "import": "imports:import_",
    "init": "init:init",
    "launch": "launch:launch",
    "project": "projects:project",
    "pull": "pull:pull",
    "quarantine": "quarantine:quarantine",
    "rebuild": "rebuild:rebuild",
    "receive": "receive:receive",
    "reclassify": "assign:reclassify",
    "reconcile": "reconcile:reconcile",
    "release": "release:release",
    "removed": "assign:removed",
    "redcap": "redcap_setup:redcap",
    "redcap-sandbox": "redcap:redcap_sandbox",
    "review": "review:review",
    "resend": "takeover:resend",
    "sites": "sites:sites",
    "status": "status:status",
    "studies": "studies:studies",
    "transfers": "transfers:transfers",
    "up": "service:up",
    "verify": "packages:verify",
    "withdraw": "withdrawals:withdraw",
    "withdrawals": "withdrawals:withdrawals",
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
        code = _run()
    except BrokenPipeError:
        code = 0
    except OSError as error:
        code = _complain(_describe_disk(error), 1)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        code = _complain(_describe(error), 1)
    sys.exit(code)


def _run() -> int:
    try:
        result = fiona.main(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "fiona"
        return _complain(f"{error.format_message().rstrip('.')}; see `{where} --help`", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except (UsageError, ConfigurationError) as error:
        return _complain(error, 2)
    except FionaError as error:
        return _complain(error, 1)
    return result if isinstance(result, int) else 0


def _describe_disk(error: OSError) -> str:
    """Where and why; what to do where it is not plain."""
    from fiona_dagster.config import DataRoot

    to_do = {errno.ENOSPC: "; make room", errno.EDQUOT: "; make room", errno.EROFS: "; mount it writable"}
    where = error.filename or DataRoot.from_environment().path
    return f"{where}: {error.strerror or type(error).__name__}{to_do.get(error.errno or 0, '')}"


def _describe(error: Exception) -> str:
    """Type and place of an error that nobody foresaw; its text may quote patient data."""
    if isinstance(error, sqlite3.Error):
        from fiona_dagster.config import DataRoot
        from fiona_dagster.ledger.store import unusable

        plain = unusable(DataRoot.from_environment().ledger_file, error)
        if plain:
            return str(plain)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "fiona_dagster" in frame.filename] or list(frames)
    place = f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else "an unknown place"
    return (
        f"unexpected {type(error).__name__} at {place}: a defect of FIONA, please report it; its text is "
        f"withheld since it may quote patient data, {TRACEBACK}=1 shows it"
    )


def _complain(error: FionaError | str, code: int) -> int:
    click.echo("fiona: " + " ".join(str(error).split()), err=True)
    return code
