"""Dagster's storage is damaged: it is said, put aside, and begun anew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs import reconcile
from fiona_dagster.defs.accounting import account_for_dagster
from fiona_dagster.defs.partitions import STUDIES
from fiona_dagster.defs.storage import damaged, open_instance
from fiona_dagster.landing import import_paths
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise
from fiona_dagster.operations.accounting import account_for
from tests.deid import phantoms
from tests.running import fiona


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataRoot:
    """A site with one study, whose Dagster has run."""
    made = DataRoot(tmp_path / "data")
    initialise(made)
    phantoms.write(phantoms.image(1), tmp_path / "one.dcm")
    assert import_paths(made, [tmp_path / "one.dcm"]).stored == 1
    with Ledger(made) as ledger:
        ledger.receipts.read_journals()
        (study,) = ledger.receipts.studies()
    with open_instance(made) as instance:
        instance.add_dynamic_partitions(STUDIES, [study.study])
    monkeypatch.setenv("FIONA_DATA", str(made.path))
    return made


def spoil(path: Path) -> None:
    for name in (f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
    path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("name", ["history/runs.db", "schedules/schedules.db"])
def test_a_damaged_storage_is_put_aside_and_its_partitions_come_back(
    root: DataRoot, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.dagster_home / name
    spoil(file)

    account = account_for(root)
    account_for_dagster(root, account)
    assert [finding.code for finding in account.unaccounted] == ["dagster_damaged"]
    done = fiona("status", data=root.path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Dagster's storage is damaged" in done.stderr
    assert "1 received" in done.stdout, "the ledger still says where everything stands"

    assert reconcile.main() == 0

    assert "begun anew" in capsys.readouterr().out
    (kept,) = root.dagster_home.glob("damaged-*")
    assert (kept / name).read_bytes().startswith(b"no database")
    assert damaged(root.dagster_home) == []
    account = account_for(root)
    account_for_dagster(root, account)
    assert account.unaccounted == []


def test_what_is_not_the_storages_fault_puts_nothing_aside(
    root: DataRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(reconcile, "close_ghost_runs", locked)

    with pytest.raises(sqlite3.OperationalError):
        reconcile.main()

    assert list(root.dagster_home.glob("damaged-*")) == []
