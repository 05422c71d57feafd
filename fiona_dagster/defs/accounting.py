"""Dagster's share of the account: partition keys that nobody knows, runs that nobody works on."""

from __future__ import annotations

import time

import dagster as dg

from fiona_dagster.config import DataRoot, project_names
from fiona_dagster.defs.housekeeping import UNFINISHED, YOUNG_SECONDS
from fiona_dagster.defs.partitions import STUDIES, project_set
from fiona_dagster.defs.steps import run_is_alive
from fiona_dagster.defs.storage import open_instance
from fiona_dagster.errors import DagsterStorageDamaged
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations.accounting import Account

_RECONCILED = "the job maintenance, within the hour, or the next start of `fiona up`"


def account_for_dagster(root: DataRoot, account: Account) -> None:
    """Compares Dagster's storage with the ledger; needs no running service."""
    try:
        _compare(root, account)
    except DagsterStorageDamaged as error:
        account.add("dagster_damaged", "", "dagster", str(error))


def _compare(root: DataRoot, account: Account) -> None:
    with Ledger(root) as ledger:
        studies = {study.study for study in ledger.receipts.studies()}
        transfers: dict[str, set[str]] = {name: set() for name in project_names(root)}
        for transfer in ledger.transfers.all():
            transfers.setdefault(transfer.project, set()).add(transfer.study)
    with open_instance(root) as instance:
        keys = set(instance.get_dynamic_partitions(STUDIES))
        account.checked["partition keys"] = len(keys)
        for key in sorted(keys - studies):
            account.add(
                "unknown_partition", "", f"{STUDIES}: {key}", "a partition key that the ledger does not know"
            )
        for project, known in sorted(transfers.items()):
            name = project_set(project)
            for key in sorted(set(instance.get_dynamic_partitions(name)) - known):
                account.add(
                    "unknown_partition",
                    "",
                    f"{name}: {key}",
                    "a study that this project was never asked to transfer",
                )
        _ghost_runs(instance, root, account)


def _ghost_runs(instance: dg.DagsterInstance, root: DataRoot, account: Account) -> None:
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED))):
        run = record.dagster_run
        old = time.time() - record.update_timestamp.timestamp() > YOUNG_SECONDS
        if old and not run_is_alive(root, run.run_id):
            account.add(
                "ghost_run",
                run.tags.get("dagster/partition", ""),
                run.run_id,
                "Dagster takes it for running, but no process works on it",
                _RECONCILED,
            )
