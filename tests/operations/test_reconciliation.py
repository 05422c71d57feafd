"""REDCap, ledger, disk and research PACS against each other: each kind of gap is found, and only that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from fiona_dagster.defs.reconciliation import CHECK, reconciliation_defs
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.operations.reconciliation import Reconciliation, reconcile
from fiona_dagster.transfers import delivery, outcome
from tests.peers_fixtures import free_port
from tests.running import fiona
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        running.project(targets=["archive", "pacs"])
        yield running


def compare(site: Site, *, days: float = 0) -> Reconciliation:
    with site.open() as gateway:
        return reconcile(gateway, datetime.now(UTC) + timedelta(days=days))


def codes(found: Reconciliation) -> list[tuple[str, str]]:
    return [(gap.project, gap.code) for gap in found.gaps]


def deliver(site: Site, *, tell: bool = True) -> None:
    with site.open() as gateway:
        for target in ("archive", "pacs"):
            delivery.deliver(gateway, site.transfer(), target)
        if tell:
            outcome.write_outcomes(gateway, STUDY, PROJECT)


def test_from_arrival_to_delivery_every_gap_has_its_name(site: Site) -> None:
    site.receive(1, 2)
    assert codes(compare(site)) == [("", "received_not_requested")]
    assert compare(site, days=400).too_old() == []  # listed only

    site.ask()
    site.poll()
    found = compare(site, days=1)
    assert codes(found) == [(PROJECT, "requested_not_delivered")]
    assert found.too_old() == []
    assert [gap.code for gap in compare(site, days=4).too_old()] == ["requested_not_delivered"]

    site.make_package()
    deliver(site, tell=False)
    assert codes(compare(site)) == [(PROJECT, "delivered_not_recorded")]
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
    assert codes(compare(site)) == []


def test_what_is_lost_afterwards_is_found(site: Site) -> None:
    transfer, package = site.packaged()
    deliver(site)
    lost = sorted(site.pacs.sop_instance_uids())[0]
    site.pacs._known.pop(lost)
    (found,) = compare(site).gaps
    assert (found.code, found.study) == ("fewer_at_target", STUDY)
    assert "pacs lists 1 instances, 2 were proven there" in found.reason

    site.pacs._known[lost] = (transfer.mapped_uid, "1.2", lost)
    site.pacs._known["1.2.99"] = (transfer.mapped_uid, "1.2", "1.2.99")
    assert codes(compare(site)) == [(PROJECT, "more_at_target")]
    assert compare(site, days=9).too_old() == []
    del site.pacs._known["1.2.99"]

    (site.root.daic / PROJECT / Path(package.path).name).unlink()
    next(site.root.archive.glob("scp_*/*")).unlink()
    assert sorted(code for _, code in codes(compare(site))) == ["fewer_in_archive", "package_missing"]


def test_requests_for_what_never_came_and_records_that_went(site: Site) -> None:
    site.receive(1)
    site.fill(
        1,
        study="9.9.9",
        transfer_requested_date="2026-01-01 10:00",
        transfer_project_name=PROJECT,
        transfer_name=PARTICIPANT,
        transfer_event_name=EVENT,
    )
    found = compare(site)
    assert sorted(codes(found)) == [("", "received_not_requested"), (PROJECT, "requested_not_received")]
    assert [gap.study for gap in found.too_old()] == ["9.9.9"]
    site.fill(
        1,
        transfer_requested_date="2026-01-01 10:00",
        transfer_project_name=PROJECT,
        transfer_date="2026-01-01 11:00",
    )
    assert (PROJECT, "recorded_not_delivered") in codes(compare(site))
    with site.open() as gateway:
        gateway.incoming().client.delete_records([STUDY])
    assert ("", "not_registered") in codes(compare(site))


def test_a_request_that_nothing_counts_of_says_why(site: Site) -> None:
    site.receive(1, 2)
    site.fill(1, transfer_requested_date="2026-01-01 10:00", transfer_project_name=PROJECT)
    site.poll()
    (half,) = compare(site).gaps
    assert (half.code, "not filled in" in half.reason) == ("requested_not_delivered", True)
    assert compare(site).too_old() == [half]
    site.fill(1, transfer_name="X1", transfer_event_name=EVENT)
    (waits,) = compare(site).gaps
    assert "not taken up yet" in waits.reason
    site.poll()
    assert compare(site).gaps == [], "refused, and its record says so"

    site.fill(1, transfer_requested_date="2026-01-01 11:00", transfer_name=PARTICIPANT)
    site.poll()
    site.make_package()
    deliver(site)
    site.fill(1, transfer_name="H002")
    site.poll()
    (awaits,) = [gap for gap in compare(site).gaps if gap.code == "recorded_not_delivered"]
    assert "have that copy removed" in awaits.reason
    assert "H002" not in awaits.reason


def test_what_can_not_be_asked_is_said_and_fails_the_check(site: Site) -> None:
    site.packaged()
    deliver(site)
    document = json.loads(site.root.config_file.read_text())
    document["targets"]["pacs"]["port"] = free_port()
    site.configure(targets=document["targets"])
    site.redcap.faults.fail(50, 503)
    found = compare(site)
    assert sorted(problem.split(":")[0] for problem in found.problems) == [
        "REDCap was not compared",
        "target pacs was not asked",
    ]


def test_dagster_shows_a_table_for_each_project_and_nothing_identifying(site: Site) -> None:
    site.packaged()
    asset, _, schedule = reconciliation_defs("02:40", "Europe/Oslo")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("40 2 * * *", "Europe/Oslo")
    resources = {"gateway": GatewayResource(data_root=str(site.root.path))}
    result = dg.materialize([asset], resources=resources)
    (event,) = result.asset_materializations_for_node("reconciliation")
    table = event.metadata[f"gaps: {PROJECT}"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["gap"] for record in table.records] == ["requested not delivered"]
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (CHECK, True)
    shown = str(result.all_events)
    assert not any(planted in shown for planted in (*PLANTED, PARTICIPANT, site.transfer().mapped_uid))


def test_the_command_lists_gaps_and_says_by_its_exit_code(site: Site) -> None:
    site.packaged()
    done = fiona("reconcile", data=site.root.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 gaps, 0 too old" in done.stdout
    assert STUDY[:12] in done.stdout
    assert not any(planted in done.stdout for planted in (*PLANTED, PARTICIPANT))
