"""Counts from Dagster's storage for ``fiona status``."""

from __future__ import annotations

import dagster as dg

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.storage import open_instance


def run_counts(root: DataRoot) -> dict[str, int]:
    """Number of runs by status.

    Raises:
        DagsterStorageDamaged: nobody can tell.
    """
    with open_instance(root) as instance:
        counts = {
            status.value: instance.get_runs_count(dg.RunsFilter(statuses=[status]))
            for status in dg.DagsterRunStatus
        }
    return {name: count for name, count in counts.items() if count}
