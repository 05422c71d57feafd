"""The third digit of the switch file holds sending, and nothing is lost by it."""

from __future__ import annotations

from typing import Any

import pytest

from fiona_dagster.errors import SendingHeld
from fiona_dagster.operations.overview import overview, study_detail
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.targets import upload
from fiona_dagster.transfers.targets.pipeline import Writing
from tests.site import STUDY, Site


def deliver(site: Site, target: str) -> None:
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), target)


@pytest.mark.parametrize("target", ["archive", "pacs"])
def test_nothing_leaves_while_sending_is_held(site: Site, target: str) -> None:
    site.project(targets=[target])
    site.packaged()
    site.root.enabled_file.write_text("110")

    with pytest.raises(SendingHeld):
        deliver(site, target)

    assert not list(site.sftp["archive"].files.iterdir())
    assert not site.pacs.sop_instance_uids()
    assert site.waiting_targets() == [target]
    assert overview(site.root)["switches"] == {"receiver": True, "pulling": True, "sending": False}
    assert [work["held"] for work in study_detail(site.root, STUDY)["work"]] == [True]

    site.root.enabled_file.write_text("111")
    deliver(site, target)
    assert site.transfer().state == "delivered"
    assert not any(work["held"] for work in overview(site.root)["work"])


def test_what_is_under_way_stops_and_leaves_no_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator switches after the first part has left."""
    site.packaged()
    monkeypatch.setattr(upload, "CHUNK", 1024)
    write, written = Writing.write, 0

    def slow(self: Writing, data: bytes) -> None:
        nonlocal written
        written += 1
        write(self, data)
        if written == 2:
            site.root.enabled_file.write_text("110")

    monkeypatch.setattr(Writing, "write", slow)
    with pytest.raises(SendingHeld):
        deliver(site, "archive")
    assert written == 2
    assert [p.name for p in site.sftp["archive"].files.iterdir() if p.suffix == ".zip"] == []

    site.root.enabled_file.write_text("111")
    deliver(site, "archive")
    assert site.transfer().state == "delivered"


def test_a_pacs_gets_no_further_instance(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.project(targets=["pacs"])
    site.packaged()
    from fiona_dagster.dicom.sender import store_files
    from fiona_dagster.transfers.targets import dicom

    def hold(_: object) -> None:
        site.root.enabled_file.write_text("110")

    def after_the_first(*args: Any, **more: Any) -> Any:
        return store_files(*args, after=hold, **more)

    monkeypatch.setattr(dicom, "store_files", after_the_first)
    with pytest.raises(SendingHeld):
        deliver(site, "pacs")
    assert len(site.pacs.sop_instance_uids()) == 1

    site.root.enabled_file.write_text("111")
    deliver(site, "pacs")
    assert len(site.pacs.sop_instance_uids()) == 2


def test_a_held_delivery_that_a_run_tried_is_tried_again(site: Site) -> None:
    site.packaged()
    site.root.enabled_file.write_text("110")
    with site.open() as gateway:
        with pytest.raises(SendingHeld) as raised:
            delivery.deliver(gateway, site.transfer(), "archive")
        delivery.failed(gateway, site.transfer(), "archive", str(raised.value), permanent=False)
        (work,) = gateway.ledger.work.open()
    assert not work.blocked
    assert site.transfer().state == "packaged"
