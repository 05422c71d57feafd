"""Dagster's share of `fiona status --unaccounted`."""

from __future__ import annotations

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs import accounting
from fiona_dagster.defs.accounting import account_for_dagster
from fiona_dagster.landing import Landing
from fiona_dagster.landing.receipt import IMPORTER
from fiona_dagster.ledger import Ledger, Request
from fiona_dagster.operations import initialise
from fiona_dagster.operations.accounting import Account
from tests.landing.test_door import file_one
from tests.making import STUDY


@pytest.fixture
def requested(root: DataRoot) -> DataRoot:
    """One study that project P asked for."""
    initialise(root)
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        file_one(landing, visit, "1.2.3")
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.transfers.accept(Request(STUDY, "P", 1, "2026-11-23 10:00", "X1", "E1"), 1)
    return root


def look(root: DataRoot) -> tuple[list[tuple[str, str]], list[str]]:
    account = Account()
    account_for_dagster(root, account)
    return [(f.code, f.path) for f in account.unaccounted], [f.code for f in account.pending]


def add(root: DataRoot, name: str, key: str) -> None:
    with dg.DagsterInstance.from_config(str(root.dagster_home)) as instance:
        instance.add_dynamic_partitions(name, [key])


def test_keys_that_the_ledger_knows_are_no_finding(requested: DataRoot) -> None:
    add(requested, "studies", STUDY)
    add(requested, "studies_P", STUDY)
    assert look(requested) == ([], [])


def test_keys_that_nobody_knows_are_named(requested: DataRoot) -> None:
    add(requested, "studies", "9.9")
    add(requested, "studies_P", "9.9")
    assert look(requested)[0] == [
        ("unknown_partition", "studies: 9.9"),
        ("unknown_partition", "studies_P: 9.9"),
    ]


def test_a_run_that_nobody_works_on_is_closed_by_itself(
    requested: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(requested.dagster_home)) as instance:
        run = dg.DagsterRun(job_name="process_study", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
    assert look(requested) == ([], []), "it has just begun"
    monkeypatch.setattr(accounting, "YOUNG_SECONDS", -1.0)
    assert look(requested) == ([], ["ghost_run"])
