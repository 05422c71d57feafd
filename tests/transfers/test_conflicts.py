"""A study with an open conflict waits for a person; what follows from the decision."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fiona_dagster.errors import RequestRefused
from fiona_dagster.landing.decisions import Decision
from fiona_dagster.operations.conflicts import decide_conflicts, list_conflicts
from fiona_dagster.operations.overview import study_detail
from fiona_dagster.transfers import completion, delivery, execution, intake
from tests.accounting import assert_all_accounted
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site


def process(site: Site) -> tuple[str, ...]:
    """What is due after quiet time; the flags."""
    with site.open() as gateway:
        completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))
        intake.ensure_revision(gateway, STUDY)
        done = intake.register(gateway, STUDY)
        gateway.ledger.work.done(f"process:{STUDY}", done.study.revision)
        return done.flags


def conflicting(site: Site) -> None:
    """Image 1 comes again with another description."""
    site.arrive(1, SeriesDescription="another")
    assert process(site) == ("conflicts",)


def assign(site: Site) -> None:
    from fiona_dagster.transfers.requests import check_assignment

    with site.open() as gateway:
        check_assignment(gateway, gateway.ledger.receipts.study(STUDY), PROJECT, PARTICIPANT, EVENT)


@pytest.mark.parametrize(("decision", "revision"), [("accepted", 3), ("rejected", 2)])
def test_an_open_conflict_bars_assignment_until_it_is_decided(
    site: Site, decision: Decision, revision: int
) -> None:
    site.receive(1, 2)
    conflicting(site)
    with pytest.raises(RequestRefused, match="conflicts"):
        assign(site)
    assert study_detail(site.root, STUDY)["states"] == {"flagged": 2, "conflict": 1}
    (listed,) = list_conflicts(site.root)
    assert listed["differs"] == "(0008,103E)"

    decide_conflicts(site.root, [listed["id"]], None, decision)
    assert process(site) == ()
    assign(site)
    detail = study_detail(site.root, STUDY)
    aside = {"accepted": "superseded", "rejected": "rejected"}[decision]
    assert detail["states"] == {"held": 2, aside: 1}
    assert detail["revision"] == revision
    assert_all_accounted(site.root)


def test_accepted_bytes_of_a_delivered_study_are_delivered_again(site: Site) -> None:
    site.receive(1, 2)
    site.ask()
    site.poll()
    site.make_package()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
    first = site.transfer()
    assert first.state == "delivered"

    conflicting(site)
    decide_conflicts(site.root, [], STUDY, "accepted")
    assert process(site) == ()
    transfer, package = site.make_package()
    with site.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
        assert execution.transfer_of(gateway, STUDY, PROJECT).mapped_uid == first.mapped_uid
    assert package.instances == 2
    assert site.transfer().state == "delivered"
    assert len(list(site.sftp["archive"].files.glob("*.zip"))) == 2
    assert_all_accounted(site.root)
