"""Evidence on real studies: journals, open associations, performed steps, and what a decision changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fiona_dagster import landing
from fiona_dagster.landing import Caller, Landing, PerformedStep
from fiona_dagster.landing.evidence import StepStatus
from fiona_dagster.ledger import Completion
from fiona_dagster.transfers.completion import describe, find_complete_studies
from fiona_dagster.transfers.context import Gateway
from tests.transfers.conftest import Arrive, Configure


def after(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def performed(gateway: Gateway, status: StepStatus, *instances: str, step: str = "1.9") -> None:
    landing.append_evidence(
        gateway.root,
        PerformedStep(
            datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            step,
            status,
            ("1.2",),
            {"1.2.3": instances} if instances else {},
            "CT1",
            "127.0.0.1",
        ),
    )


def judged(gateway: Gateway) -> Completion:
    found = gateway.ledger.evidence.completion("1.2")
    assert found is not None
    return found


def test_a_quiet_study_is_complete_and_says_why(configure: Configure, arrive: Arrive) -> None:
    gateway = configure()
    arrive("1.2.3.1")

    assert find_complete_studies(gateway) == []
    assert judged(gateway).outcome == "wait"
    assert find_complete_studies(gateway, after(17)) == ["1.2"]
    assert judged(gateway).outcome == "complete"
    assert judged(gateway).reasons == ("quiet for 16 s with no association open",)
    assert find_complete_studies(gateway, after(18)) == []


def test_an_open_association_is_waited_for(configure: Configure, arrive: Arrive) -> None:
    gateway = configure(receiver={"quiet_seconds_open": 100})
    arrive("1.2.3.1")
    with Landing(gateway.root) as door, door.visit(Caller("CT2", "FIONA", "127.0.0.1")) as visit:
        visit._journal("1.2")
        assert find_complete_studies(gateway, after(50)) == []
        assert judged(gateway).reasons == (
            "an association that sent to it is open: waits for 100 s of silence",
        )
        performed(gateway, "COMPLETED", "1.2.3.1")
        assert find_complete_studies(gateway, after(50)) == ["1.2"]  # all that was performed is here


def test_each_sender_may_have_a_quiet_time_of_its_own_and_the_longest_counts(
    configure: Configure, arrive: Arrive
) -> None:
    gateway = configure(receiver={"quiet_by_sender": {"FAST": 2, "SLOW": 60}})
    arrive("1.3.1", study="1.3", sender="FAST")
    arrive("1.4.1", study="1.4", sender="FAST")
    arrive("1.4.2", study="1.4", sender="SLOW")
    arrive("1.5.1", study="1.5", sender="OTHER")

    assert find_complete_studies(gateway, after(3)) == ["1.3"]
    assert find_complete_studies(gateway, after(17)) == ["1.5"]
    assert find_complete_studies(gateway, after(61)) == ["1.4"]


def test_missing_instances_are_waited_for_then_the_study_goes_on_marked(
    configure: Configure, arrive: Arrive
) -> None:
    gateway = configure(completion={"wait_limit_seconds": 600})
    arrive("1.2.3.1")
    performed(gateway, "COMPLETED", "1.2.3.1", "1.2.3.2", "1.2.3.3")

    assert find_complete_studies(gateway, after(599)) == []
    waits = "waits for missing instances: MPPS: 2 of 3 referenced instances are missing"
    assert gateway.ledger.store.history("1.2")[-1][1] == waits
    assert find_complete_studies(gateway, after(598)) == []
    assert [what for _, what in gateway.ledger.store.history("1.2")].count(waits) == 1

    assert find_complete_studies(gateway, after(601)) == ["1.2"]
    assert (judged(gateway).outcome, judged(gateway).received, judged(gateway).missing) == (
        "incomplete",
        1,
        2,
    )
    assert gateway.ledger.receipts.study("1.2").flags == ()  # it can be assigned


def test_what_was_missing_arrives_and_the_study_goes_on_at_once(configure: Configure, arrive: Arrive) -> None:
    gateway = configure()
    arrive("1.2.3.1")
    performed(gateway, "COMPLETED", "1.2.3.1", "1.2.3.2")
    assert find_complete_studies(gateway, after(100)) == []
    arrive("1.2.3.2")

    assert find_complete_studies(gateway, after(17)) == ["1.2"]
    assert judged(gateway).outcome == "complete"


def test_a_step_in_progress_holds_the_study_until_it_is_ended(configure: Configure, arrive: Arrive) -> None:
    gateway = configure()
    performed(gateway, "IN PROGRESS")  # before any image
    performed(gateway, "IN PROGRESS", step="1.8")
    arrive("1.2.3.1")
    assert find_complete_studies(gateway, after(100)) == []

    performed(gateway, "COMPLETED", "1.2.3.1")
    assert find_complete_studies(gateway, after(100)) == []
    performed(gateway, "DISCONTINUED", step="1.8")
    assert find_complete_studies(gateway, after(100)) == ["1.2"]
    assert "MPPS: 1 completed, 1 discontinued; all 1 referenced instances are here" in judged(gateway).reasons


def test_a_late_step_changes_the_judgement_and_has_the_study_processed_again(
    configure: Configure, arrive: Arrive
) -> None:
    gateway = configure()
    ledger = gateway.ledger
    arrive("1.2.3.1")
    find_complete_studies(gateway, after(17))
    ledger.receipts.registered("1.2", 1, [], {"completeness": describe(judged(gateway))})
    assert ledger.work.get("process:1.2") is None

    performed(gateway, "COMPLETED", "1.2.3.1", "1.2.3.2")
    find_complete_studies(gateway, after(3700))
    assert describe(judged(gateway)) == "incomplete: 1 of 2 instances"
    again = ledger.work.get("process:1.2")
    assert again is not None
    assert again.revision == 1  # no new revision: the content is what it was
    assert [study.study for study in ledger.receipts.studies()] == ["1.2"]


def test_late_images_make_a_new_revision_of_the_same_study(configure: Configure, arrive: Arrive) -> None:
    gateway = configure()
    arrive("1.2.3.1", "1.2.3.2")
    find_complete_studies(gateway, after(17))
    arrive("1.2.3.3", series="1.2.4")

    assert find_complete_studies(gateway, after(17)) == ["1.2"]
    (study,) = gateway.ledger.receipts.studies()
    assert (study.revision, study.instances, gateway.ledger.receipts.added("1.2")) == (2, 3, 1)


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        (None, "not judged"),
        (Completion("wait", "", (), None, 1, 0), "not judged"),
        (Completion("complete", "", (), None, 1, 0), "complete"),
        (Completion("incomplete", "", (), 9, 7, 2), "incomplete: 7 of 9 instances"),
        (Completion("incomplete", "", (), None, 7, 0), "incomplete"),
    ],
)
def test_completeness_in_a_few_words(completion: Completion | None, said: str) -> None:
    assert describe(completion) == said
