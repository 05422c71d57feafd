"""Counts from Dagster's storage for ``fiona status``."""

from __future__ import annotations

import dagster as dg

from fiona_dagster.config import DataRoot


def run_counts(root: DataRoot) -> dict[str, int]:
    """Number of runs by status."""
    with dg.DagsterInstance.from_config(str(root.dagster_home)) as instance:
        counts = {
            status.value: instance.get_runs_count(dg.RunsFilter(statuses=[status]))
            for status in dg.DagsterRunStatus
        }
    return {name: count for name, count in counts.items() if count}
