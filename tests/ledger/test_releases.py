"""The second half of the gate: what a person has to look at leaves only when that person released it."""

from __future__ import annotations

import pytest

from fiona_dagster.errors import ReleaseAwaited
from fiona_dagster.ledger import Ledger, Request, Transfer
from fiona_dagster.ledger.releases import Decision

FILES = {"2.25.1.dcm": "aa", "2.25.2.dcm": "bb"}


def verified(
    ledger: Ledger, study: str = "1.2", review: dict[str, int] | None = None, files: dict[str, str] = FILES
) -> Transfer:
    transfer = ledger.transfers.current(study, "P") or ledger.transfers.accept(
        Request(study, "P", 1, "2026-11-23 10:00", "X1", "E1"), 1
    )
    ledger.transfers.record_verification(
        transfer, passed=True, files=files, report={}, mapped_uid="2.25.1", review=review
    )
    return transfer


def release(ledger: Ledger, transfer: Transfer, decision: Decision = "released") -> None:
    files = ledger.transfers.files_to_review(transfer)
    ledger.releases.decide(transfer, files, decision, by="anna", reason="looked at all of it")


def test_what_nobody_has_to_look_at_may_leave(ledger: Ledger) -> None:
    assert ledger.transfers.verified_files(verified(ledger)) == FILES
    assert ledger.releases.waiting() == []


@pytest.mark.parametrize("reason", ["project", "weak_hits", "first_studies"])
def test_the_gate_is_shut_until_a_person_opens_it(ledger: Ledger, reason: str) -> None:
    transfer = verified(ledger, review={reason: 3})
    with pytest.raises(ReleaseAwaited, match="fiona release"):
        ledger.transfers.verified_files(transfer)
    assert [review.reasons for review in ledger.releases.waiting("P")] == [{reason: 3}]
    assert ledger.releases.waiting("OTHER") == []

    release(ledger, transfer)

    assert ledger.transfers.verified_files(transfer) == FILES
    assert ledger.releases.waiting() == []


def test_a_release_holds_for_these_bytes_and_no_others(ledger: Ledger) -> None:
    transfer = verified(ledger, review={"project": 1})
    release(ledger, transfer)
    again = ledger.transfers.start_over(transfer, "another rule")
    ledger.transfers.record_verification(
        again, passed=True, files=FILES, report={}, mapped_uid="2.25.1", review={"project": 1}
    )
    assert ledger.transfers.verified_files(again) == FILES

    verified(ledger, review={"project": 1}, files={"2.25.1.dcm": "cc"})

    with pytest.raises(ReleaseAwaited):
        ledger.transfers.verified_files(again)


def test_what_was_rejected_stays_until_it_is_released_after_all(ledger: Ledger) -> None:
    transfer = verified(ledger)
    release(ledger, transfer, "rejected")
    with pytest.raises(ReleaseAwaited, match="rejected"):
        ledger.transfers.verified_files(transfer)

    release(ledger, transfer)

    assert ledger.transfers.verified_files(transfer) == FILES


def test_the_first_studies_wait_until_so_many_were_released(ledger: Ledger) -> None:
    transfers = [verified(ledger, f"1.{n}", {"first_studies": 2}) for n in range(4)]
    release(ledger, transfers[0])
    assert len(ledger.releases.waiting()) == 3

    release(ledger, transfers[3])

    assert ledger.releases.waiting() == []
    assert ledger.transfers.verified_files(transfers[1]) == FILES
    assert ledger.releases.released_studies("P") == 2
