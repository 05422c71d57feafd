"""Requests, the gate, packages and proofs."""

from __future__ import annotations

import pytest

from fiona_dagster.errors import NotVerified
from fiona_dagster.ledger import Ledger, Package, Request, Transfer


def accept(ledger: Ledger, request: int = 1, date: str = "2026-11-23 10:00", revision: int = 1) -> Transfer:
    return ledger.transfers.accept(Request("1.2", "P", request, date, "X1", "E1"), revision)


def test_a_request_is_handled_once_and_again_means_another_date(ledger: Ledger) -> None:
    accept(ledger)

    assert ledger.transfers.handled(Request("1.2", "P", 1, "2026-11-23 10:00", "X1", "E1"))
    assert not ledger.transfers.handled(Request("1.2", "P", 1, "2026-11-23 10:01", "X1", "E1"))


def test_a_corrected_refusal_is_looked_at_again(ledger: Ledger) -> None:
    wrong = Request("1.2", "P", 1, "2026-11-23 10:00", "wrong", "E1")
    ledger.transfers.refuse(wrong, "pattern")

    assert ledger.transfers.handled(wrong)
    assert not ledger.transfers.handled(Request("1.2", "P", 1, "2026-11-23 10:00", "X1", "E1"))
    assert ledger.transfers.current("1.2", "P") is None


def test_the_newest_request_counts(ledger: Ledger) -> None:
    first = accept(ledger)
    second = accept(ledger, request=2)
    current = ledger.transfers.current("1.2", "P")

    assert current is not None
    assert current.id == second.id
    assert [t.state for t in ledger.transfers.all("1.2") if t.id == first.id] == ["superseded"]


def test_nothing_passes_the_gate_without_a_record(ledger: Ledger) -> None:
    transfer = accept(ledger)
    with pytest.raises(NotVerified):
        ledger.transfers.verified_files(transfer)


def test_nothing_passes_the_gate_with_a_failed_record(ledger: Ledger) -> None:
    transfer = accept(ledger)
    ledger.transfers.record_verification(
        transfer, passed=False, files={"a": "0"}, report={}, mapped_uid="2.25.1"
    )
    with pytest.raises(NotVerified):
        ledger.transfers.verified_files(transfer)


def test_a_record_of_another_revision_does_not_open_the_gate(ledger: Ledger) -> None:
    transfer = accept(ledger)
    ledger.transfers.record_verification(
        transfer, passed=True, files={"a": "0"}, report={}, mapped_uid="2.25.1"
    )
    assert ledger.transfers.verified_files(transfer) == {"a": "0"}

    ledger.transfers.new_revision("1.2", 2)
    later = ledger.transfers.current("1.2", "P")
    assert later is not None
    assert later.revision == 2
    with pytest.raises(NotVerified):
        ledger.transfers.verified_files(later)


def test_a_package_makes_its_deliveries_due_and_proofs_end_them(ledger: Ledger) -> None:
    transfer = accept(ledger)
    package = Package("outbox/P/x.zip", 1, "m", "s", 1, "")
    ledger.transfers.record_package(transfer, package, ("a", "b"))
    assert ledger.work.due("transfer") == []
    assert [work.target for work in ledger.work.due("deliver")] == ["a", "b"]

    ledger.transfers.record_delivery(transfer, "a", "s", {"kind": "readback"})
    assert [work.target for work in ledger.work.due("deliver")] == ["b"]
    assert list(ledger.transfers.deliveries(transfer)) == ["a"]


def test_a_delivered_transfer_starts_again_with_late_images_and_the_same_assignment(ledger: Ledger) -> None:
    transfer = accept(ledger)
    ledger.transfers.set_state(transfer, "delivered")
    ledger.work.drop("1.2", "P")
    ledger.transfers.new_revision("1.2", 2)
    current = ledger.transfers.current("1.2", "P")

    assert current is not None
    assert (current.id, current.state, current.participant) == (transfer.id, "accepted", "X1")
    assert [work.revision for work in ledger.work.due("transfer")] == [2]


def test_a_project_key_fingerprint_is_never_replaced(ledger: Ledger) -> None:
    assert ledger.key_fingerprint("P") is None
    ledger.record_key_fingerprint("P", "aa")
    ledger.record_key_fingerprint("P", "bb")

    assert ledger.key_fingerprint("P") == "aa"
