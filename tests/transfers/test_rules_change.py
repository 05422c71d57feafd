"""A project that is ended, or gets other rules, while something of it waits or is sent."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.errors import RequestRefused, Superseded
from fiona_dagster.operations.overview import study_detail
from fiona_dagster.transfers import delivery, execution, packing, resending, rules
from tests.accounting import assert_all_accounted
from tests.sending import exchanging
from tests.site import PROJECT, STUDY, Site


def deliver(site: Site, target: str = "archive") -> None:
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), target)


def settle(site: Site) -> delivery.Settled:
    with site.open() as gateway:
        return delivery.settle(gateway)


def work(site: Site) -> list[str]:
    with site.open() as gateway:
        return [work.kind for work in gateway.ledger.work.open(STUDY)]


def nothing_left(site: Site) -> bool:
    return not list(site.sftp["archive"].files.iterdir()) and not site.pacs.sop_instance_uids()


ENDED: list[dict[str, Any]] = [
    {"active": False},
    {"participant_pattern": "X[0-9]{3}"},
    {"events": ["Year 1"]},
]


@pytest.mark.parametrize("change", ENDED, ids=["inactive", "pattern", "events"])
@pytest.mark.parametrize("target", ["archive", "pacs"])
def test_nothing_is_sent_for_a_project_that_does_not_take_it_any_more(
    site: Site, change: dict[str, Any], target: str
) -> None:
    site.project(targets=[target])
    site.packaged()
    site.project(targets=[target], **change)

    with pytest.raises(RequestRefused, match="any more") as raised:
        deliver(site, target)
    assert "H001" not in str(raised.value)
    with site.open() as gateway:
        delivery.failed(gateway, site.transfer(), target, str(raised.value), permanent=True)
    assert nothing_left(site)
    assert site.transfer().state == "failed"
    assert settle(site).restarted == 0

    site.project(targets=[target])
    deliver(site, target)
    assert site.transfer().state == "delivered"


def test_nothing_is_made_for_a_project_that_was_ended(site: Site) -> None:
    site.receive(1, 2)
    site.ask()
    site.poll()
    site.project(active=False)
    with site.open() as gateway, pytest.raises(RequestRefused, match="not active any more"):
        execution.deidentify(gateway, site.transfer())
    site.project()
    with site.open() as gateway:
        execution.deidentify(gateway, site.transfer())
        execution.verify(gateway, site.transfer())
    site.project(active=False)
    with site.open() as gateway, pytest.raises(RequestRefused, match="not active any more"):
        packing.make_package(gateway, site.transfer())


STRICTER: list[dict[str, Any]] = [{"options": []}, {"allow_kinds": ["ultrasound"]}]


@pytest.mark.parametrize("change", STRICTER, ids=["options", "allow_kinds"])
def test_a_package_of_older_rules_is_made_again(site: Site, change: dict[str, Any]) -> None:
    """By the delivery itself, in case it runs before the sensor looks."""
    old, package = site.packaged()
    site.project(**change)

    with pytest.raises(Superseded, match="rules changed"):
        deliver(site)
    assert nothing_left(site)
    assert work(site) == ["transfer"]

    new, made = site.make_package()
    assert (new.id, new.generation, new.mapped_uid) != (old.id, 0, "")
    assert new.mapped_uid == old.mapped_uid, "the same identities"
    deliver(site)
    (arrived,) = site.sftp["archive"].files.glob("*.zip")
    assert site.transfer().state == "delivered"
    if "options" in change:
        assert made.sha256 != package.sha256
        with zipfile.ZipFile(arrived) as archive:
            assert "113107" not in json.dumps(json.loads(archive.read("report.json")))


def test_the_sensor_starts_them_again_by_itself(site: Site) -> None:
    site.packaged()
    site.project(options=[])

    assert settle(site).restarted == 1
    assert settle(site) == delivery.Settled()
    assert work(site) == ["transfer"]


def test_rules_that_change_between_verification_and_packaging(site: Site) -> None:
    site.receive(1, 2)
    site.ask()
    site.poll()
    with site.open() as gateway:
        transfer = site.transfer()
        execution.deidentify(gateway, transfer)
        execution.verify(gateway, transfer)
        site.project(options=[])
        with pytest.raises(Superseded, match="rules changed"):
            packing.make_package(gateway, transfer)
        execution.failed(gateway, transfer, "rules changed", permanent=False)
    assert work(site) == ["transfer"]
    assert not list(site.root.outbox.rglob("*.zip"))


def test_an_operator_stops_what_is_under_way(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.project(targets=["pacs"])
    site.packaged()

    def end(_: str, send: Callable[[], int]) -> int:
        site.project(targets=["pacs"], active=False)
        return send()

    exchanging(monkeypatch, end)
    with pytest.raises(RequestRefused, match="not active"):
        deliver(site, "pacs")
    assert len(site.pacs.sop_instance_uids()) == 1


def test_other_bytes_of_other_rules_at_a_pacs_are_not_proven(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt broke off under the old rules."""
    from fiona_dagster.errors import ContentUnproven, PeerUnavailable

    site.project(targets=["pacs"])
    site.packaged()
    sent: list[str] = []

    def full(uid: str, send: Callable[[], int]) -> int:
        sent.append(uid)
        return send() if len(sent) == 1 else 0xA700

    exchanging(monkeypatch, full)
    with pytest.raises(PeerUnavailable):
        deliver(site, "pacs")
    (sending,) = study_detail(site.root, STUDY)["transfers"][0]["sendings"]
    assert sending["problems"] == {sent[1]: "A700"}, "the exact instance is named"
    monkeypatch.undo()
    site.project(targets=["pacs"], options=[])
    settle(site)
    site.make_package()

    with pytest.raises(ContentUnproven, match="1 of 2 instances"):
        deliver(site, "pacs")
    sendings = [each for one in study_detail(site.root, STUDY)["transfers"] for each in one["sendings"]]
    assert [each["problems"] for each in sendings if each["state"] == "unproven"] == [
        {sent[0]: "content unproven"}
    ]


def test_what_counts_as_a_rule(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with site.open() as gateway:
        project = gateway.project(PROJECT)
    digest = rules.rules_digest(project)
    assert digest == rules.rules_digest(project.model_copy(update={"description": "x", "targets": ()}))
    assert digest != rules.rules_digest(project.model_copy(update={"options": ()}))
    monkeypatch.setattr(rules, "_code_digest", lambda: "an update of FIONA")
    assert digest != rules.rules_digest(project)


def test_a_copy_by_other_rules_has_a_name_of_its_own(site: Site) -> None:
    """Nothing is overwritten at a target: under the old name the new copy was refused until a person came."""

    def send_again() -> str:
        with site.open() as gateway:
            resending.resend(gateway, [site.transfer()], by="somebody")
        _, package = site.make_package()
        deliver(site)
        assert site.transfer().state == "delivered"
        return Path(package.path).name

    _, package = site.packaged()
    deliver(site)
    first = Path(package.path).name
    assert send_again() == first, "the same rules make the same bytes"
    site.project(options=["retain_long_modified_dates", "retain_device_identity"])
    second = send_again()
    assert second == first.replace("_r1.zip", "_r1-2.zip")
    site.project()
    assert send_again() == first
    there = {path.name for path in site.sftp["archive"].files.glob("*.zip")}
    assert there == {first, second}
    assert_all_accounted(site.root)
