"""What every test of reception, import and the whole way asserts at its end: everything is accounted for."""

from __future__ import annotations

from fiona_dagster.config import DataRoot
from fiona_dagster.operations.accounting import account_for


def assert_all_accounted(root: DataRoot) -> None:
    """Nothing is unaccounted for, in files and in the ledger; also after kills.

    Dagster's storage is looked at too if Dagster ran there.
    """
    account = account_for(root)
    if (root.dagster_home / "history").is_dir():
        from fiona_dagster.defs.accounting import account_for_dagster

        account_for_dagster(root, account)
    assert account.unaccounted == [], account.unaccounted
