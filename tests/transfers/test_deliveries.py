"""From a package to the end: proof, DAIC, outcome in REDCap, and what happens with late images."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from fiona_dagster.errors import (
    ContentUnproven,
    DeliveryRefused,
    FionaError,
    PeerUnavailable,
    ProofAwaited,
    TargetDown,
)
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.operations.overview import overview
from fiona_dagster.redcap import SEND_ERROR, TransferRequest
from fiona_dagster.transfers import delivery, outcome
from fiona_dagster.transfers.targets import InstancesMissing, InstancesRefused, Proof
from tests.site import PARTICIPANT, PROJECT, STUDY, Site


def deliver(site: Site, target: str) -> tuple[Proof | None, Package]:
    with site.open() as gateway:
        return delivery.deliver(gateway, site.transfer(), target)


def told(site: Site) -> TransferRequest:
    """What REDCap says after the outcome was written."""
    with site.open() as gateway:
        outcome.write_outcomes(gateway, STUDY, PROJECT)
        return gateway.incoming().requests_of(STUDY)[0]


def instances_of(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist() if n.endswith(".dcm")}


@pytest.mark.parametrize(
    "error",
    [
        InstancesRefused("no", {}),
        ContentUnproven("unproven"),
        ProofAwaited("later"),
        InstancesMissing("lacks", {}),
    ],
)
def test_a_target_that_answers_lets_others_go_on_whatever_it_says_of_one_study(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: FionaError
) -> None:
    site.packaged()
    with site.open() as gateway:
        circuits = gateway.ledger.circuits
        for study in ("1.2.3", "1.2.4", "1.2.3"):
            circuits.failed("archive", study)
        assert circuits.of("archive").open
        monkeypatch.setattr(circuits, "may_probe", lambda _: True)

        def answer(*_: object) -> None:
            raise error

        monkeypatch.setattr(delivery, "_send", answer)
        with pytest.raises(type(error)):
            delivery.deliver(gateway, site.transfer(), "archive")
        assert not circuits.of("archive").open


def test_proven_everywhere_ends_in_daic_and_in_redcap(site: Site) -> None:
    site.project(targets=["archive", "pacs"])
    site.packaged()

    proof, package = deliver(site, "archive")
    assert proof is not None
    assert proof.digests["sha256"] == package.sha256
    assert site.transfer().state == "packaged", "one target of two"
    assert told(site).transfer_date == ""
    proof, _ = deliver(site, "pacs")
    assert proof is not None
    assert proof.counts["instances"] == 2

    transfer = site.transfer()
    assert transfer.state == "delivered"
    (proofs,) = site.root.daic.rglob("*.proofs.json")
    assert {name: said["kind"] for name, said in json.loads(proofs.read_text()).items()} == {
        "archive": "sftp-readback",
        "pacs": "dicom-find",
    }
    assert sorted(p.suffix for p in (site.root.daic / PROJECT).iterdir()) == [
        ".json",
        ".json",
        ".md5",
        ".sha256",
        ".zip",
    ]
    assert [p for p in site.root.outbox.rglob("*") if p.is_file()] == []
    assert list((site.root.projects / PROJECT).iterdir()) == [], "the working copy is gone"
    with site.open() as gateway:
        kept = gateway.ledger.transfers.package(transfer)
        assert kept is not None
        assert (site.root.path / kept.path).is_file()
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["status"]
    said = told(site)
    assert said.transfer_date != ""
    assert (said.errors, said.mapped_uid) == ((), transfer.mapped_uid)
    with site.open() as gateway:
        assert gateway.ledger.work.open(STUDY) == []


def test_what_is_proven_is_not_sent_again(site: Site) -> None:
    site.packaged()
    deliver(site, "archive")
    (there,) = site.sftp["archive"].files.glob("*.zip")
    there.unlink()

    proof, _ = deliver(site, "archive")

    assert proof is None
    assert list(site.sftp["archive"].files.glob("*.zip")) == []
    assert site.transfer().state == "delivered"


def test_a_kill_between_proof_and_end_is_made_good(site: Site) -> None:
    transfer, package = site.packaged()
    with site.open() as gateway:
        gateway.ledger.transfers.record_delivery(transfer, "archive", package.sha256, {"kind": "test"})
    assert site.transfer().state == "packaged"

    with site.open() as gateway:
        assert delivery.settle(gateway).closed == 1
        assert delivery.settle(gateway).closed == 0
    assert site.transfer().state == "delivered"
    assert list(site.root.daic.rglob("*.zip"))


def test_a_dead_target_is_tried_again_and_a_refusal_is_told(site: Site) -> None:
    site.packaged()
    key = f"deliver:{STUDY}:{PROJECT}:archive"
    site.sftp["archive"].close()
    with pytest.raises(PeerUnavailable) as down:
        deliver(site, "archive")
    with site.open() as gateway:
        assert gateway.ledger.circuits.of("archive").failures == 1
        for study in ("1.2", "1.3"):
            gateway.ledger.circuits.failed("archive", study)
        with pytest.raises(TargetDown):
            delivery.deliver(gateway, site.transfer(), "archive")
        gateway.ledger.circuits.probing("archive", key)
        with pytest.raises(PeerUnavailable, match="connecting"):
            delivery.deliver(gateway, site.transfer(), "archive")
        delivery.failed(gateway, site.transfer(), "archive", str(down.value), permanent=False)
        work = gateway.ledger.work.get(key)
        assert work is not None
        assert (work.attempt, work.blocked, site.transfer().state) == (2, False, "packaged")

        delivery.failed(gateway, site.transfer(), "archive", "host key changed", permanent=True)
        work = gateway.ledger.work.get(key)
        assert work is not None
        assert (work.blocked, site.transfer().state) == (True, "failed")
    said = told(site)
    assert (said.errors, said.transfer_date) == ((SEND_ERROR,), "")


def test_a_changed_host_key_sends_nothing_until_a_person_acts(site: Site) -> None:
    """It is refused, shown by ``fiona status``, never tried again by itself, and over with the right key."""
    site.packaged()
    key = f"deliver:{STUDY}:{PROJECT}:archive"
    targets = json.loads(site.root.config_file.read_text())["targets"]
    other = site.sftp["second"].describe()["host_key"]
    site.configure(targets={**targets, "archive": {**targets["archive"], "host_key": other}})
    with site.open() as gateway, pytest.raises(DeliveryRefused, match="host key has changed") as refused:
        delivery.deliver(gateway, site.transfer(), "archive")
    with site.open() as gateway:
        delivery.failed(gateway, site.transfer(), "archive", str(refused.value), permanent=True)
        assert gateway.ledger.work.due("deliver") == []
        (circuit,) = gateway.ledger.circuits.opened()
        assert (circuit.distrusted, circuit.studies) == (True, (STUDY,))
    assert list(site.sftp["archive"].files.iterdir()) == []
    (shown,) = [work for work in overview(site.root)["work"] if work["key"] == key]
    assert shown["blocked"]
    assert "host key has changed" in shown["error"]

    with site.open() as gateway, pytest.raises(TargetDown, match="host key has changed"):
        delivery.deliver(gateway, site.transfer(), "archive")  # told once, not for each study

    site.configure(targets=targets)
    with site.open() as gateway:
        assert gateway.ledger.work.unblock(STUDY) > 0
    assert deliver(site, "archive")[0] is not None
    assert site.transfer().state == "delivered"


def test_other_content_under_our_name_is_never_overwritten(site: Site) -> None:
    _, package = site.packaged()
    name = Path(package.path).name
    (site.sftp["archive"].files / name).write_bytes(b"somebody else's")

    with pytest.raises(DeliveryRefused):
        deliver(site, "archive")
    assert (site.sftp["archive"].files / name).read_bytes() == b"somebody else's"


def again(site: Site) -> tuple[Transfer, Package]:
    """A third image comes late; everything up to the second delivery."""
    site.receive(3)
    assert (site.transfer().state, site.transfer().revision) == ("accepted", 2)
    made = site.make_package()
    deliver(site, "archive")
    return made


def test_late_images_are_transferred_again_with_the_same_identities(site: Site) -> None:
    site.packaged()
    deliver(site, "archive")
    before = site.transfer()
    (first,) = site.root.daic.rglob("*.zip")
    old = instances_of(first)

    transfer, package = again(site)

    assert (transfer.id, transfer.participant) == (before.id, PARTICIPANT)
    assert (transfer.mapped_uid, transfer.generation) == (before.mapped_uid, 0)
    assert package.instances == 3
    assert site.transfer().state == "delivered"
    (second,) = set(site.root.daic.rglob("*.zip")) - {first}
    new = instances_of(second)
    assert len(new) == 3
    assert old < new, "the images that were delivered before are the same to the byte"
    assert sorted(p.name for p in site.sftp["archive"].files.glob("*.zip")) == sorted(
        [first.name, second.name]
    )
    assert told(site).mapped_uid == before.mapped_uid


def test_a_drop_box_ends_as_delivered_unproven_by_agreement(site: Site) -> None:
    document = json.loads(site.root.config_file.read_text())
    document["targets"]["archive"]["proofs"] = ["agreement"]
    site.root.config_file.write_text(json.dumps(document))
    site.packaged()
    proof, _ = deliver(site, "archive")

    assert proof is not None
    assert not proof.proven
    assert site.transfer().state == "delivered"
    (beside,) = site.root.daic.rglob("*.proofs.json")
    assert json.loads(beside.read_text())["archive"]["kind"] == "agreement"
    with site.open() as gateway:
        (sending,) = gateway.ledger.sendings.of(STUDY, PROJECT)
        assert sending.state == "agreed"
        assert any("unproven by agreement" in what for _, what in gateway.ledger.store.history(STUDY))
