"""Start-up reconciliation, run by the supervisor as a process of its own before the daemon starts.

After a crash of the machine runs stay STARTED for ever unless somebody closes them
(`python -m fiona_dagster.defs.reconcile`; exit 0 when done).
"""

from __future__ import annotations

import sys

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.housekeeping import close_ghost_runs, forget_run_marks, restore_partitions
from fiona_dagster.defs.storage import open_instance, set_aside
from fiona_dagster.errors import DagsterStorageDamaged
from fiona_dagster.operations.reconciler import SET_ASIDE
from fiona_dagster.transfers.context import Gateway


def main() -> int:
    """Closes ghost runs and restores partition keys that Dagster lost; puts a damaged storage aside."""
    root = DataRoot.from_environment()
    try:
        _reconcile(root)
    except DagsterStorageDamaged:
        kept = set_aside(root.dagster_home)
        sys.stdout.write(
            f"{SET_ASIDE}; it is kept as dagster/{kept.name}, nothing of it is needed or sent again\n"
        )
        _reconcile(root)
    return 0


def _reconcile(root: DataRoot) -> None:
    with open_instance(root) as instance, Gateway(root) as gateway:
        gateway.ledger.receipts.read_journals()
        closed = close_ghost_runs(instance, root, at_start=True)
        forget_run_marks(root)
        restored = restore_partitions(instance, gateway)
    sys.stdout.write(f"reconciled: {closed} ghost runs closed, {restored} partition keys restored\n")


if __name__ == "__main__":
    sys.exit(main())
