"""Which rows an erasure takes, and which it leaves: of what others have nothing goes."""

from __future__ import annotations

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Content, Ledger, Request, Transfer, erasing, restore_common
from tests.ledger.conftest import Arrive

STUDY = "1.2"


def asked(participant: str, *, project: str = "P", study: str = STUDY, instance: int = 1) -> Request:
    return Request(study, project, instance, "2026-11-23 10:00", participant, "E1")


def erase(ledger: Ledger, participant: str, project: str = "P") -> None:
    root = ledger.root
    link = erasing.read_link(root, project, participant)
    erasing.erase_rows(root, link, erasing.counts_of(root, link))


def sent(ledger: Ledger, transfer: Transfer, *, removed: bool = False) -> None:
    ledger.transfers.begin_sending(transfer, "pacs", Content("digest"))
    if removed:
        ledger.sendings.confirm_removed(ledger.sendings.at(transfer.study, transfer.project), "Jo")


@pytest.fixture
def study(root: DataRoot, ledger: Ledger, arrive: Arrive) -> str:
    arrive(STUDY, "1.2.3")
    ledger.receipts.read_journals()
    ledger.receipts.close_revision(STUDY)
    return STUDY


def test_what_was_sent_before_an_erasure_never_shares_its_uids(ledger: Ledger, study: str) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1))
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X1"), 1).generation == 1
    assert ledger.transfers.accept(asked("X1", project="Q"), 1).generation == 0, "another project is free"


def test_nor_does_another_participant_of_a_shared_study(ledger: Ledger, study: str) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1), removed=True)
    ledger.transfers.accept(asked("Y1", project="Q", instance=9), 1)  # needs the originals
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X2", instance=2), 1).generation == 1
    assert ledger.transfers.accept(asked("Y1", project="Q", instance=9), 1).generation == 0


def test_what_was_never_sent_uses_up_nothing(ledger: Ledger, study: str) -> None:
    ledger.transfers.accept(asked("X1"), 1)
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X1"), 1).generation == 0


def test_a_new_ledger_knows_what_erasures_used_up_and_how_much_went(
    root: DataRoot, ledger: Ledger, study: str
) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1))
    erase(ledger, "X1")
    with Ledger(root, root.ledger_file.with_name("new.sqlite")) as rebuilt:
        with rebuilt.store.restoring() as db:
            assert restore_common(db, root)
        assert rebuilt.sendings.generation_for(study, "P", "X1", "E1") == 1
        assert rebuilt.store.rows("SELECT studies FROM erasures")[0]["studies"] == 1
