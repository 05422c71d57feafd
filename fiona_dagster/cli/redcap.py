"""``fiona redcap-sandbox``: a REDCap server to try things on."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click


@click.command("redcap-sandbox")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1; 0: a free one.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder that keeps everything, tokens included; without it all is forgotten at the end.",
)
@click.option("--hostile", type=int, default=None, metavar="SEED", help="Misbehave at random, repeatably.")
def redcap_sandbox(port: int, data: Path | None, hostile: int | None) -> None:
    """Serve REDCap projects (Incoming, DataTransferProjects, ...) on loopback until stopped.

    The first line of stdout says where: {"url": ..., "tokens": {project: token}}.
    """
    from fiona_dagster.redcap.sandbox import Sandbox, serve

    def announce(sandbox: Sandbox) -> None:
        click.echo(json.dumps({"url": sandbox.url, "tokens": sandbox.tokens}))  # click.echo flushes

    with ExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fiona-redcap-")))
        serve(folder, port, announce, hostile=hostile)
