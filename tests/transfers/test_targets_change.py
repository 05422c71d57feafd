"""Targets that are added to a project, or taken out, while a package of it waits."""

from __future__ import annotations

import pytest

from fiona_dagster.errors import RequestRefused
from fiona_dagster.ledger import work_key
from fiona_dagster.transfers import delivery
from tests.site import PROJECT, STUDY, Site


def deliver(site: Site, target: str) -> None:
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), target)


def settle(site: Site) -> delivery.Settled:
    with site.open() as gateway:
        return delivery.settle(gateway)


def test_an_added_target_gets_the_package_that_waits(site: Site) -> None:
    site.packaged()
    site.project(targets=["archive", "second"])

    assert settle(site).added == 1
    assert settle(site) == delivery.Settled(), "a second look changes nothing"
    assert site.waiting_targets() == ["archive", "second"]

    deliver(site, "archive")
    assert site.transfer().state == "packaged"
    deliver(site, "second")
    assert site.transfer().state == "delivered"
    assert len(list(site.sftp["second"].files.glob("*.zip"))) == 1


def test_a_target_added_after_the_last_proof_but_before_the_end(site: Site) -> None:
    """Killed between the proof and the closing; meanwhile the project file was edited."""
    transfer, package = site.packaged()
    with site.open() as gateway:
        gateway.ledger.transfers.record_delivery(transfer, "archive", package.sha256, {})
    site.project(targets=["archive", "second"])

    assert (settle(site).closed, site.waiting_targets()) == (0, ["second"])


def test_a_target_that_was_taken_out_holds_nothing_up(site: Site) -> None:
    site.project(targets=["archive", "second"])
    site.packaged()
    deliver(site, "archive")
    site.project(targets=["archive"])

    settled = settle(site)

    assert (settled.forgotten, settled.closed) == (1, 1)
    assert site.transfer().state == "delivered"
    assert site.waiting_targets() == []
    assert list(site.root.daic.rglob("*.zip"))


def test_a_transfer_that_failed_at_a_target_is_closed_without_it(site: Site) -> None:
    site.project(targets=["archive", "second"])
    site.packaged()
    deliver(site, "archive")
    with site.open() as gateway:
        delivery.failed(gateway, site.transfer(), "second", "host key changed", permanent=True)
    assert site.transfer().state == "failed"
    assert settle(site) == delivery.Settled(), "what failed stays failed until somebody acts"
    site.project(targets=["archive"])

    assert settle(site).closed == 1
    assert site.transfer().state == "delivered"
    assert site.waiting_targets() == []


def test_a_delivery_to_a_target_that_was_taken_out_sends_nothing(site: Site) -> None:
    """Its run was queued when the project file was edited."""
    site.project(targets=["archive", "second"])
    site.packaged()
    site.project(targets=["archive"])

    with pytest.raises(RequestRefused, match="not among the targets"):
        deliver(site, "second")
    with site.open() as gateway:
        delivery.failed(gateway, site.transfer(), "second", "not among the targets", permanent=True)
    assert list(site.sftp["second"].files.iterdir()) == []
    assert site.transfer().state == "packaged", "that is no failure of the transfer"


def test_a_project_without_targets_delivers_nothing(site: Site) -> None:
    site.packaged()
    site.project(targets=[])

    settled = settle(site)

    assert (settled.closed, settled.forgotten) == (0, 1)
    assert site.transfer().state == "packaged", "no target is not the same as every target"
    site.project()
    assert settle(site).added == 1


def test_a_project_whose_file_is_gone_holds_up_no_other(site: Site) -> None:
    site.packaged()
    (site.root.project_files / f"{PROJECT}.json").unlink()

    settled = settle(site)

    assert "no project" in settled.problems[0]
    assert site.waiting_targets() == ["archive"], "its work waits for the file"


def test_what_can_not_be_launched_takes_no_place_in_the_queue(site: Site) -> None:
    with site.open() as gateway:
        for number in range(5):
            gateway.ledger.work.need("deliver", f"1.{number}", 1, project="GONE", target="x")
        gateway.ledger.work.need("deliver", STUDY, 1, project=PROJECT, target="archive")

        due = gateway.ledger.work.due("deliver", 2, lambda work: work.project == PROJECT)

        assert [work.key for work in due] == [work_key("deliver", STUDY, PROJECT, "archive")]
