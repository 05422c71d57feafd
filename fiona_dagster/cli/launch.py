"""``fiona launch``: starts the job for one study."""

from __future__ import annotations

import json

import click

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError


@click.command()
@click.option("--study", required=True, help="StudyInstanceUID.")
@click.option("--project", help="Launch transfer_<PROJECT> in place of process_study.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def launch(*, study: str, project: str | None, as_json: bool) -> None:
    """Starts process_study, or transfer_<PROJECT>, for one study and prints the run's id.

    Goes through the web server of a running `fiona up`; without one the run waits in Dagster's queue until
    `fiona up` runs.
    """
    from fiona_dagster.operations.launching import launch_by_command, launch_by_web, plan, web_url

    root = DataRoot.from_environment()
    if not (root.dagster_home / "dagster.yaml").is_file() or not root.config_file.is_file():
        raise ConfigurationError(f"{root.path} is no data root; set FIONA_DATA or run `fiona init`")
    wanted = plan(root, study, project)
    url = web_url(root)
    if url:
        run_id = launch_by_web(url, wanted)
    else:
        from fiona_dagster.defs.launching import add_partition

        add_partition(root, wanted.partition_set, wanted.study)
        run_id = launch_by_command(root, wanted)
    if as_json:
        document = {"run_id": run_id, "job": wanted.job, "study": wanted.study, "queued": not url}
        click.echo(json.dumps(document))
    else:
        where = f"{url}/runs/{run_id}" if url else "waits in the queue until `fiona up` runs"
        click.echo(f"{wanted.job}: run {run_id}; {where}")
