"""One state for every accepted instance."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.ledger import Ledger, Package, Request
from fiona_dagster.ledger import states as module
from fiona_dagster.ledger.states import ORDER, InstanceState, StudyFacts, TransferFacts, instance_state
from tests.ledger.conftest import Arrive

REGISTERED = StudyFacts(registered=2, flagged=False)


def state(
    *transfers: tuple[str, str, bool],
    study: StudyFacts = REGISTERED,
    revision: int = 1,
    altered: bool = False,
    held: tuple[str, ...] = (),
) -> str:
    facts = [TransferFacts(project, name, 2, verified) for project, name, verified in transfers]
    return instance_state(study, revision, altered=altered, transfers=facts, held_back_by=frozenset(held))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (state(revision=0), "received"),
        (state(revision=3), "processing"),
        (state(), "held"),
        (state(study=StudyFacts(2, flagged=True)), "flagged"),
        (state(("P", "delivered", True), study=StudyFacts(2, flagged=True)), "flagged"),
        (state(altered=True, revision=0), "altered"),
        (state(("P", "accepted", False)), "requested"),
        (state(("P", "accepted", True)), "verified"),
        (state(("P", "packaged", True)), "packaged"),
        (state(("P", "delivered", True)), "delivered"),
        (state(("P", "failed", False)), "failed"),
        (state(("P", "refused", False)), "held"),
        (state(("P", "superseded", True)), "held"),
        (state(("P", "delivered", True), held=("P",)), "filtered"),
        (state(("P", "delivered", True), ("Q", "delivered", True), held=("P",)), "delivered"),
        (state(("P", "delivered", True), ("Q", "accepted", False)), "requested"),
        (state(("P", "delivered", True), ("Q", "failed", False)), "failed"),
    ],
)
def test_states(found: str, expected: str) -> None:
    assert found == expected


def test_an_instance_is_in_no_transfer_of_an_older_revision() -> None:
    facts = [TransferFacts("P", "delivered", 1, verified=True)]
    assert instance_state(REGISTERED, 2, altered=False, transfers=facts) == "held"


TRANSFERS = st.builds(
    TransferFacts,
    project=st.sampled_from("PQR"),
    state=st.sampled_from(["accepted", "packaged", "delivered", "refused", "failed", "superseded"]),
    revision=st.integers(1, 4),
    verified=st.booleans(),
)


@given(
    st.builds(StudyFacts, registered=st.integers(0, 4), flagged=st.booleans()),
    st.integers(0, 4),
    st.booleans(),
    st.lists(TRANSFERS, max_size=4),
    st.frozensets(st.sampled_from("PQR")),
)
def test_every_combination_has_one_documented_state(
    study: StudyFacts, revision: int, altered: bool, transfers: list[TransferFacts], held: frozenset[str]
) -> None:
    found = instance_state(study, revision, altered=altered, transfers=transfers, held_back_by=held)
    assert found in get_args(InstanceState)
    if found == "delivered":  # nothing is called delivered while some project waits for it
        assert not altered
        assert not study.flagged
        assert all(
            t.state in ("delivered", "refused", "superseded") or t.revision < revision or t.project in held
            for t in transfers
        )


def test_the_page_of_states_names_all_of_them() -> None:
    assert module.__doc__ is not None
    for name in get_args(InstanceState):
        assert f"\n{name} " in module.__doc__
    assert set(ORDER) < set(get_args(InstanceState))


def walk(ledger: Ledger) -> dict[str, int]:
    counts = ledger.accounts.counts()["1.2"]
    listed: dict[str, int] = {}
    for instance in ledger.accounts.instances("1.2"):
        listed[instance.state] = listed.get(instance.state, 0) + 1
    assert listed == counts  # both ways of reading say the same
    return counts


def test_the_way_of_three_instances(ledger: Ledger, arrive: Arrive) -> None:
    for number in (1, 2, 3):
        arrive(sop=f"1.2.3.{number}")
    assert walk(ledger) == {"received": 3}
    ledger.receipts.close_revision("1.2")
    assert walk(ledger) == {"processing": 3}
    ledger.receipts.registered("1.2", 1, [], {})
    assert walk(ledger) == {"held": 3}
    transfer = ledger.transfers.accept(Request("1.2", "P", 1, "2026-11-23 10:00", "X1", "E1"), 1)
    ledger.transfers.record_held_back(transfer, {"1.2.3.3": "ultrasound"})
    assert walk(ledger) == {"requested": 2, "filtered": 1}
    ledger.transfers.record_verification(transfer, passed=True, files={}, report={}, mapped_uid="2.25.1")
    assert walk(ledger) == {"verified": 2, "filtered": 1}
    ledger.transfers.record_package(transfer, Package("outbox/P/x.zip", 1, "m", "s", 1, ""), ("a",))
    assert walk(ledger) == {"packaged": 2, "filtered": 1}
    ledger.transfers.set_state(transfer, "delivered")
    assert walk(ledger) == {"delivered": 2, "filtered": 1}

    arrive(sop="1.2.3.4")
    assert walk(ledger) == {"received": 1, "delivered": 2, "filtered": 1}
    arrive(kind="conflict", path="site/conflicts/1.2/CT.1.2.3.1.0123456789abcdef.dcm")
    assert walk(ledger) == {"received": 1, "delivered": 2, "filtered": 1, "conflict": 1}
    ledger.receipts.close_revision("1.2")
    ledger.receipts.registered("1.2", 2, ["conflicts"], {})
    assert walk(ledger) == {"flagged": 4, "conflict": 1}


@pytest.mark.parametrize("first", ["stored", "decided"])
def test_decisions_are_booked_in_any_order(ledger: Ledger, arrive: Arrive, first: str) -> None:
    name = "site/conflicts/1.2/CT.1.2.3.1.0123456789abcdef.dcm"
    old = "site/conflicts/superseded/1.2/CT.1.2.3.1.fedcba9876543210.dcm"
    lines: list[dict[str, Any]] = [
        {"kind": "stored"},
        {"kind": "conflict", "path": name, "time": "2026-11-23T11:00:00.000000Z", "size": 20},
    ]
    decisions: list[dict[str, Any]] = [
        {"kind": "superseded", "path": old, "time": "2026-11-23T12:00:00.000000Z"},
        {"kind": "accepted", "path": name, "time": "2026-11-23T12:00:00.000000Z", "size": 20},
    ]
    for line in [*lines, *decisions] if first == "stored" else [*decisions, *lines]:
        arrive(**line)

    (row,) = ledger.receipts.instances("1.2")
    assert (row["path"], row["size"], row["conflicts"]) == ("site/archive/scp_1.2/CT.1.2.3.1", 20, 1)
    assert row["received"] == "2026-11-23T10:00:00.000000Z"
    assert [i.state for i in ledger.accounts.instances("1.2")] == ["received", "superseded"]
    assert ledger.receipts.study("1.2").first_arrival == "2026-11-23T10:00:00.000000Z"
