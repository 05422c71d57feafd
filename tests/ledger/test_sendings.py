"""What was begun to be sent: whom it binds, and which content at a PACS is known to be ours."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import RemovalAwaited, Superseded
from fiona_dagster.ledger import Content, Ledger, Request, Transfer, read_records
from tests.ledger.conftest import Arrive

OLD, NEW = {"u1": "a", "u2": "b"}, {"u1": "a", "u2": "changed"}


def asked(participant: str = "X1", event: str = "E1", instance: int = 1, project: str = "P") -> Request:
    return Request("1.2", project, instance, "2026-11-23 10:00", participant, event)


@pytest.fixture
def transfer(ledger: Ledger) -> Transfer:
    return ledger.transfers.accept(asked(), 1)


def begin(
    ledger: Ledger,
    transfer: Transfer,
    instances: dict[str, str] = OLD,
    listed: set[str] | frozenset[str] | None = frozenset(),
    *,
    counted: int = 0,
    target: str = "pacs",
) -> set[str]:
    content = Content(
        "".join(instances.values()), instances, None if listed is None else frozenset(listed), counted
    )
    return set(ledger.transfers.begin_sending(transfer, target, content).uncertain)


def test_what_was_not_there_before_is_ours(ledger: Ledger, transfer: Transfer) -> None:
    assert begin(ledger, transfer) == set()
    assert begin(ledger, transfer, listed={"u1"}) == set(), "broken off and tried again"
    assert len(ledger.sendings.of("1.2", "P")) == 1


def test_what_was_there_before_is_nobodys(ledger: Ledger, transfer: Transfer) -> None:
    assert begin(ledger, transfer, listed={"u1", "other"}) == {"u1"}
    assert begin(ledger, transfer, listed={"u1", "u2"}) == {"u1"}, "sending it did not make it ours"
    assert begin(ledger, transfer, listed={"u2"}) == set(), "somebody removed it there"
    assert begin(ledger, transfer, listed={"u1", "u2"}) == set(), "then it can only be ours"


def test_other_bytes_under_the_same_uid(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    assert begin(ledger, transfer, NEW, {"u1", "u2"}) == {"u2"}
    assert begin(ledger, transfer, NEW, {"u1", "u2"}) == {"u2"}
    assert begin(ledger, transfer, OLD, {"u1", "u2"}) == {"u2"}, "and back again"


def test_that_nothing_was_listed_does_not_say_that_nothing_was_there(
    ledger: Ledger, transfer: Transfer
) -> None:
    """An index that lags, or a gateway that answers for a server that restarts."""
    begin(ledger, transfer)
    assert begin(ledger, transfer, NEW) == set()
    assert begin(ledger, transfer, NEW, {"u1", "u2"}) == {"u2"}, "it may be the older one"
    newest = ledger.sendings.of("1.2", "P")[-1]
    ledger.sendings.prove(transfer.id, "pacs", newest.sha256, {"kind": "dicom-find"})
    assert begin(ledger, transfer, NEW, {"u1", "u2"}) == {"u2"}, "never by itself what was unsure once"


def test_late_images_leave_the_others_known(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    ledger.transfers.new_revision("1.2", 2)
    later = ledger.transfers.current("1.2", "P")
    assert later is not None
    assert begin(ledger, later, {**OLD, "u3": "c"}, {"u1", "u2"}) == set()
    assert begin(ledger, later, {**OLD, "u3": "c"}, {"u1", "u2", "u3"}) == set()


def test_targets_know_nothing_of_each_other(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    assert begin(ledger, transfer, listed={"u1"}, target="second") == {"u1"}


def test_a_pacs_that_can_only_count(ledger: Ledger, transfer: Transfer) -> None:
    assert begin(ledger, transfer, listed=None) == set()
    assert begin(ledger, transfer, listed=None, counted=2) == set()
    assert begin(ledger, transfer, listed=None, counted=3) == set(), "more than ours, but these are ours"
    more = {**OLD, "u3": "c"}
    assert begin(ledger, transfer, more, None, counted=3) == {"u3"}


def test_a_removal_forgets_what_was_known(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    ledger.transfers.record_delivery(transfer, "pacs", "ab", {"kind": "dicom-find"})
    ledger.sendings.confirm_removed(ledger.sendings.at("1.2", "P"), "Jo")

    assert ledger.transfers.deliveries(transfer) == {}
    assert begin(ledger, transfer, listed={"u1"}) == {"u1"}, "it was not removed after all"


def test_another_assignment_waits_for_every_target(ledger: Ledger, transfer: Transfer) -> None:
    for target in ("one", "two"):
        begin(ledger, transfer, target=target)
    for request in (asked("X2"), asked(event="E2")):
        with pytest.raises(RemovalAwaited, match="one, two"):
            ledger.transfers.accept(request, 1)
    ledger.sendings.confirm_removed(ledger.sendings.at("1.2", "P", "one"), "Jo")
    with pytest.raises(RemovalAwaited, match="targets: two"):
        ledger.transfers.accept(asked("X2"), 1)
    assert ledger.transfers.accept(asked("X2", project="Q"), 1).generation == 0, "another project is free"


def test_generations(ledger: Ledger, transfer: Transfer) -> None:
    """Each change of the assignment after a sending gets UIDs that were never used."""

    def sent_and_removed(participant: str) -> int:
        taken = ledger.transfers.accept(asked(participant), 1)
        begin(ledger, taken)
        ledger.sendings.confirm_removed(ledger.sendings.at("1.2", "P"), "Jo")
        return taken.generation

    assert [sent_and_removed(name) for name in ("X1", "X1", "X2", "X2", "X1", "X3")] == [0, 0, 1, 1, 2, 3]


def test_what_was_never_sent_raises_no_generation(ledger: Ledger, transfer: Transfer) -> None:
    assert ledger.transfers.accept(asked("X2"), 1).generation == 0


def test_an_edited_request_is_new_in_every_state(ledger: Ledger, transfer: Transfer) -> None:
    assert ledger.transfers.handled(asked())
    assert not ledger.transfers.handled(asked("X2"))
    assert not ledger.transfers.handled(asked(event="E2"))
    ledger.transfers.accept(asked("X2"), 1)
    assert not ledger.transfers.handled(asked()), "put back"


def test_a_refusal_that_awaits_a_removal(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    ledger.transfers.refuse(asked("X2"), "awaits", awaits_removal=True)

    assert ledger.transfers.handled(asked("X2"))
    assert ledger.transfers.current("1.2", "P") is None
    stopped = ledger.transfers.stopped("1.2", "P")
    assert stopped is not None
    assert stopped.id == transfer.id
    with pytest.raises(Superseded):
        begin(ledger, transfer)
    ledger.sendings.confirm_removed(ledger.sendings.at("1.2", "P"), "Jo")
    assert not ledger.transfers.handled(asked("X2"))


def test_accepting_and_beginning_never_both_win(root: DataRoot) -> None:
    """The sensor accepts a correction at the very moment in which a run begins to send."""
    for number in range(12):
        study = f"1.2.{number}"
        first = Request(study, "P", 1, "2026-11-23 10:00", "X1", "E1")
        with Ledger(root) as ledger:
            transfer = ledger.transfers.accept(first, 1)
        outcomes: list[str] = []
        barrier = threading.Barrier(2)

        def correct(
            study: str = study, outcomes: list[str] = outcomes, barrier: threading.Barrier = barrier
        ) -> None:
            with Ledger(root) as ledger:
                barrier.wait()
                try:
                    ledger.transfers.accept(Request(study, "P", 1, "2026-11-23 10:00", "X2", "E1"), 1)
                    outcomes.append("accepted")
                except RemovalAwaited:
                    outcomes.append("awaits")

        def send(
            transfer: Transfer = transfer,
            outcomes: list[str] = outcomes,
            barrier: threading.Barrier = barrier,
        ) -> None:
            with Ledger(root) as ledger:
                barrier.wait()
                try:
                    begin(ledger, transfer)
                    outcomes.append("begun")
                except Superseded:
                    outcomes.append("superseded")

        threads = [threading.Thread(target=work) for work in (correct, send)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) in (["accepted", "superseded"], ["awaits", "begun"])


def test_a_sending_is_on_disk_before_the_first_byte(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        begin(ledger, ledger.transfers.accept(asked(), 1))
        with Ledger(root) as another:
            assert [sending.state for sending in another.sendings.of("1.2", "P")] == ["begun"]


def test_a_proof_that_comes_too_late_is_kept_but_does_not_count(ledger: Ledger, transfer: Transfer) -> None:
    begin(ledger, transfer)
    ledger.transfers.refuse(asked("X2"), "awaits", awaits_removal=True)
    with pytest.raises(Superseded):
        ledger.transfers.record_delivery(transfer, "pacs", "ab", {"kind": "dicom-find"})

    assert ledger.transfers.deliveries(transfer) == {}
    assert [sending.state for sending in ledger.sendings.of("1.2", "P")] == ["proven"]


def test_a_record_beside_the_archive_has_it_before_the_ledger(ledger: Ledger, arrive: Arrive) -> None:
    """A ledger that is rebuilt from records still knows what was begun."""
    arrive()
    transfer = ledger.transfers.accept(asked(), 1)
    begin(ledger, transfer)
    ((_, record),) = read_records(ledger.root)
    assert record is not None
    assert [(row["target"], row["state"]) for row in record["sendings"]] == [("pacs", "begun")]

    ledger.sendings.confirm_removed(ledger.sendings.at("1.2", "P"), "Jo")
    ((_, record),) = read_records(ledger.root)
    assert record is not None
    assert [row["removed_by"] for row in record["sendings"]] == ["Jo"]


@pytest.mark.parametrize("date", ["2026-11-23 10:00", "2027-01-01 10:00"], ids=["same", "later"])
def test_a_request_that_names_another_project_leaves_the_first(
    ledger: Ledger, transfer: Transfer, date: str
) -> None:
    ledger.transfers.accept(replace(asked(project="Q"), requested_date=date), 1)
    states = [(one.project, one.state) for one in ledger.transfers.all("1.2")]
    assert states == [("P", "stopped"), ("Q", "accepted")]
    assert not ledger.transfers.handled(asked()), "and it may come back"
    assert [work.project for work in ledger.work.open("1.2")] == ["Q"]
    with pytest.raises(Superseded):
        begin(ledger, transfer)


def test_two_requests_for_two_projects_are_two_transfers(ledger: Ledger, transfer: Transfer) -> None:
    ledger.transfers.accept(asked(project="Q", instance=2), 1)
    assert [(one.project, one.state) for one in ledger.transfers.all("1.2")] == [
        ("P", "accepted"),
        ("Q", "accepted"),
    ]
