"""The receiver needs neither ledger nor REDCap nor Dagster: whatever is wrong with them, it goes on."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise
from tests.accounting import assert_all_accounted
from tests.making import STUDY
from tests.receiver.conftest import Process
from tests.receiver.raw import Raw


@contextmanager
def locked(root: DataRoot) -> Iterator[None]:
    """Somebody holds the ledger exclusively and does not let go."""
    connection = sqlite3.connect(root.ledger_file, isolation_level=None)
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.close()


@contextmanager
def broken(root: DataRoot) -> Iterator[None]:
    """The ledger's file is no database any more."""
    for ending in ("-wal", "-shm"):
        root.ledger_file.with_name(root.ledger_file.name + ending).unlink(missing_ok=True)
    root.ledger_file.write_bytes(b"no database" * 1000)
    yield
    root.ledger_file.unlink()


@contextmanager
def deleted(root: DataRoot) -> Iterator[None]:
    """The ledger's whole folder goes while objects come in, the locks of studies with it."""
    shutil.rmtree(root.ledger_file.parent)
    yield


@contextmanager
def read_only(root: DataRoot) -> Iterator[None]:
    """A folder stands where the ledger's file should."""
    root.ledger_file.unlink()
    root.ledger_file.mkdir()
    yield
    root.ledger_file.rmdir()


@contextmanager
def without_dagster(root: DataRoot) -> Iterator[None]:
    """Dagster's home is gone."""
    shutil.rmtree(root.dagster_home)
    yield
    root.make()


Trouble = Callable[[DataRoot], AbstractContextManager[None]]


@pytest.mark.parametrize("trouble", [locked, broken, deleted, read_only, without_dagster])
def test_reception_goes_on(root: DataRoot, process: Process, trouble: Trouble) -> None:
    initialise(root)
    process.start()
    Ledger(root).close()
    numbers = iter(range(1, 100))

    def send(raw: Raw, count: int) -> None:
        for _ in range(count):
            assert raw.store(f"1.2.3.100.1.{next(numbers)}").status == 0

    with Raw(process.address) as raw:
        raw.associate()
        send(raw, 3)
        with trouble(root):  # in the middle of an association
            send(raw, 3)
            with Raw(process.address) as other:
                other.associate()
                send(other, 3)
                other.release()
        send(raw, 3)
        raw.release()
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        assert ledger.receipts.study(STUDY).instances == 12
    assert_all_accounted(root)
