"""Evidence of completion: performed steps, counts of sources, decisions, commitments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fiona_dagster import landing
from fiona_dagster.landing import Commitment, PerformedStep
from fiona_dagster.landing.evidence import evidence_folder
from fiona_dagster.ledger import Ledger
from tests.ledger.conftest import Arrive

TIME = "2026-11-23T10:00:00.000000Z"


def step(
    status: str = "COMPLETED",
    series: Mapping[str, tuple[str, ...]] | None = None,
    instance: str = "1.9",
    studies: tuple[str, ...] = ("1.2",),
) -> PerformedStep:
    return PerformedStep(TIME, instance, status, studies, series or {}, "CT1", "127.0.0.1")  # type: ignore[arg-type]


def tell(ledger: Ledger, *found: PerformedStep | Commitment) -> int:
    for each in found:
        landing.append_evidence(ledger.root, each)
    return ledger.evidence.read_journals()


def journal(ledger: Ledger) -> Path:
    (path,) = evidence_folder(ledger.root).iterdir()
    return path


def test_a_journal_that_was_written_anew_loses_nothing(ledger: Ledger) -> None:
    """Lines that are added below the place up to which it was read before."""
    tell(ledger, *(Commitment(TIME, f"1.7.{n}", {"1.2.3": f"1.2.{n}"}, "CT") for n in range(3)))
    later = journal(ledger).with_name("2999-01-01")
    later.write_bytes(journal(ledger).read_bytes())
    assert ledger.evidence.read_journals() == 3
    (first, _) = sorted(evidence_folder(ledger.root).iterdir())
    first.write_bytes(b"")
    assert tell(ledger, Commitment(TIME, "1.7.9", {"1.2.3": "1.2.9"}, "CT")) == 4
    assert ledger.evidence.committed("1.2.9") == {"1.2.3"}
    assert ledger.evidence.read_journals() == 0


def test_a_study_without_steps_has_none(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    assert ledger.evidence.steps("1.2") is None


def test_the_newest_state_of_each_step_counts_and_several_add_up(ledger: Ledger, arrive: Arrive) -> None:
    arrive(sop="1.2.3.1")
    tell(ledger, step("IN PROGRESS"), step("IN PROGRESS", instance="1.8"))
    found = ledger.evidence.steps("1.2")
    assert found is not None
    assert (found.in_progress, found.expected) == (2, 0)

    tell(
        ledger,
        step("COMPLETED", {"1.2.3": ("1.2.3.1", "1.2.3.2")}),
        step("DISCONTINUED", {"1.2.3": ("1.2.3.2", "1.2.3.3"), "1.2.4": ("1.2.4.1",)}, instance="1.8"),
    )
    found = ledger.evidence.steps("1.2")
    assert found is not None
    assert (found.in_progress, found.completed, found.discontinued) == (0, 1, 1)
    assert found.expected == 4
    assert found.missing == {"1.2.3": ("1.2.3.2", "1.2.3.3"), "1.2.4": ("1.2.4.1",)}


def test_what_a_step_in_progress_references_is_not_expected_yet(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    tell(ledger, step("IN PROGRESS", {"1.2.3": ("1.2.3.7",)}))

    found = ledger.evidence.steps("1.2")
    assert found is not None
    assert (found.expected, found.missing) == (0, {})


def test_a_step_for_several_studies_counts_only_in_series_that_are_here(
    ledger: Ledger, arrive: Arrive
) -> None:
    arrive(study="1.2", sop="1.2.3.1")  # series 1.2.3
    arrive(study="1.5", sop="1.5.3.1")
    tell(ledger, step(series={"1.2.3": ("1.2.3.1", "1.2.3.2"), "1.6": ("1.6.1",)}, studies=("1.2", "1.5")))

    found = ledger.evidence.steps("1.2")
    assert found is not None
    assert found.missing == {"1.2.3": ("1.2.3.2",)}


def test_a_late_step_has_the_study_looked_at_again(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    ledger.receipts.close_revision("1.2")
    assert tell(ledger, step("DISCONTINUED")) == 1

    assert ledger.receipts.study("1.2").open
    assert ledger.store.history("1.2")[-1][1] == "MPPS of CT1: discontinued"


def test_journals_are_read_exactly_once_and_a_torn_or_damaged_line_harms_no_other(
    ledger: Ledger, arrive: Arrive
) -> None:
    arrive()
    assert tell(ledger, step(instance="1.7")) == 1
    assert ledger.evidence.read_journals() == 0

    with journal(ledger).open("ab") as file:
        file.write(b'\n0badc0de {"kind":"mpps"}\n\n12345678 {"kind":"mp')
    assert ledger.evidence.read_journals() == 0
    assert tell(ledger, step(instance="1.8")) == 1
    found = ledger.evidence.steps("1.2")
    assert found is not None
    assert found.completed == 2


@pytest.mark.parametrize(
    "bad",
    [
        step("ENDED"),
        step(instance="../1"),
        step(studies=("1.2", "x")),
        step(series={"1.2.3": ("nonsense",)}),
        Commitment(TIME, "1.1", {"1.2.3.1": "../2"}, "CT1"),
    ],
)
def test_a_line_with_unsound_values_is_not_believed(ledger: Ledger, bad: PerformedStep | Commitment) -> None:
    assert tell(ledger, bad) == 0


def test_a_deleted_ledger_reads_everything_again(ledger: Ledger, arrive: Arrive) -> None:
    arrive()
    tell(ledger, step(), Commitment(TIME, "1.1", {"1.2.3.1": "1.2"}, "CT1"))
    with ledger.store.writing() as db:
        db.execute("DELETE FROM journals")
        db.execute("DELETE FROM performed_steps")
        db.execute("DELETE FROM committed")

    assert ledger.evidence.read_journals() == 2
    assert ledger.evidence.steps("1.2") is not None
    assert ledger.evidence.committed("1.2") == {"1.2.3.1"}


def test_senders_and_series_come_from_the_receipts(ledger: Ledger, arrive: Arrive) -> None:
    arrive(sop="1.2.3.1")
    arrive(sop="1.2.3.2")

    assert ledger.evidence.senders("1.2") == {"CT1"}
    assert ledger.evidence.received("1.2") == {"1.2.3": 2}


def test_a_source_is_asked_once_for_each_last_arrival(ledger: Ledger) -> None:
    book = ledger.evidence
    book.ask("1.2", "pacs", "t1")
    (question,) = book.questions("pacs")
    book.answer(question, instances=7, series={"1.2.3": 7})
    book.ask("1.2", "pacs", "t1")
    assert book.questions("pacs") == []
    (count,) = book.counts("1.2")
    assert (count.state, count.instances, count.series) == ("counted", 7, {"1.2.3": 7})

    book.ask("1.2", "pacs", "t2")
    (count,) = book.counts("1.2")
    assert (count.state, count.instances) == ("open", 0)
    book.answer(question, instances=9)  # the answer to what was asked before
    assert book.counts("1.2")[0].state == "open"
    book.answer(count, why="does not know the study")
    assert book.counts("1.2")[0].state == "silent"


def test_a_decision_is_stored_when_it_says_something_new(ledger: Ledger) -> None:
    document = {"reasons": ["why"], "expected": 9, "received": 7, "missing": 2}

    assert ledger.evidence.decide("1.2", "wait", document)
    assert not ledger.evidence.decide("1.2", "wait", document)
    assert ledger.evidence.decide("1.2", "incomplete", document)
    stored = ledger.evidence.completion("1.2")
    assert stored is not None
    assert (stored.outcome, stored.reasons, stored.expected, stored.received, stored.missing) == (
        "incomplete",
        ("why",),
        9,
        7,
        2,
    )


def test_each_revision_says_what_it_added(ledger: Ledger, arrive: Arrive) -> None:
    for number in range(3):
        arrive(sop=f"1.2.3.{number}")
    ledger.receipts.close_revision("1.2")
    assert ledger.receipts.added("1.2") == 3
    arrive(sop="1.2.3.9")
    ledger.receipts.close_revision("1.2")

    assert ledger.receipts.added("1.2") == 1
    assert [what for _, what in ledger.store.history("1.2")] == [
        "complete, revision 1: 3 instances added",
        "complete, revision 2: 1 instances added",
    ]
