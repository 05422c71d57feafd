"""One job for each project file, and a sensor that runs all of them once."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg


def _job(project: str) -> dg.JobDefinition:
    @dg.op(name=f"mark_{project}")
    def mark() -> None:
        (Path(os.environ["FIONA_DATA"]) / f"ran-{project}").touch()

    @dg.job(name=f"transfer_{project}")
    def transfer() -> None:
        mark()

    return transfer


@dg.op
def nothing() -> None:
    pass


@dg.job
def idle() -> None:
    nothing()


if (Path(os.environ["FIONA_DATA"]) / "definitions-fail").exists():
    raise ValueError("broken on purpose")

_JOBS = [
    _job(path.stem) for path in sorted((Path(os.environ["FIONA_DATA"]) / "config/projects").glob("*.json"))
]


@dg.sensor(jobs=[*_JOBS, idle], minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def all_projects() -> list[dg.RunRequest]:
    return [dg.RunRequest(run_key=job.name, job_name=job.name) for job in _JOBS]


defs = dg.Definitions(jobs=[*_JOBS, idle], sensors=[all_projects], executor=dg.in_process_executor)
