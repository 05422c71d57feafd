"""Partition keys for runs that are launched while no web server runs."""

from __future__ import annotations

import dagster as dg

from fiona_dagster.config import DataRoot


def add_partition(root: DataRoot, partition_set: str, key: str) -> None:
    """Makes sure that a dynamic partition set holds a key."""
    with dg.DagsterInstance.from_config(str(root.dagster_home)) as instance:
        if not instance.has_dynamic_partition(partition_set, key):
            instance.add_dynamic_partitions(partition_set, [key])
