"""Dagster's storage names nothing that recipients hold but the digests of a proof, which operators need."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import dagster as dg
import pytest

from fiona_dagster.defs.build import build_defs
from fiona_dagster.ledger import Delivery
from fiona_dagster.transfers.verify import read_manifest
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, STUDY, Site

TARGETS = ["archive", "pacs"]


@pytest.fixture
def storage(site: Site, tmp_path: Path) -> Path:
    """A DAGSTER_HOME in which one study went the whole way, and was delivered twice."""
    site.project(targets=TARGETS)
    site.receive(1, 2)
    site.ask()
    site.poll()
    home = tmp_path / "dagster-home"
    home.mkdir()
    repository = build_defs(site.root).get_repository_def()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        for name in ("studies", f"studies_{PROJECT}"):
            instance.add_dynamic_partitions(name, [STUDY])
        for job in ("process_study", f"transfer_{PROJECT}", f"deliver_{PROJECT}", f"deliver_{PROJECT}"):
            done = repository.get_job(job).execute_in_process(instance=instance, partition_key=STUDY)
            assert done.success
    assert site.transfer().state == "delivered"
    return home


def content(home: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def test_no_name_that_recipients_know(site: Site, storage: Path) -> None:
    transfer = site.transfer()
    with site.open() as gateway:
        package = gateway.ledger.transfers.package(transfer)
        deliveries: dict[str, Delivery] = gateway.ledger.transfers.deliveries(transfer)
    assert package is not None
    assert sorted(deliveries) == TARGETS
    path = site.root.path / package.path
    files = read_manifest(path)["files"]
    uids = set(re.findall(r"2\.25\.\d+", str([delivery.proof for delivery in deliveries.values()])))
    uids |= site.pacs.sop_instance_uids() | {transfer.mapped_uid}
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dcm")]
    known = {
        path.name,
        *(file["sha256"] for file in files),
        *uids,
        *names,
        PARTICIPANT,
        EVENT,
        *PLANTED,
    }
    assert len(known) > 15
    stored = content(storage)

    assert [text for text in sorted(known) if text.encode() in stored] == []
    assert STUDY.encode() in stored, "the search finds what is there"
    assert f"transfer-{transfer.id}-r1".encode() in stored


def test_the_operator_finds_the_digests_of_each_proof(site: Site, storage: Path) -> None:
    from fiona_dagster.operations.overview import study_detail

    (transfer,) = study_detail(site.root, STUDY)["transfers"]
    assert len(transfer["package"]["sha256"]) == 64
    stored = content(storage)
    for delivery in transfer["deliveries"]:
        assert delivery["proof"]["digests"]
        for name, digest in delivery["proof"]["digests"].items():
            assert f"{name} {digest}".encode() in stored
    proofs = {delivery["target"]: delivery["proof"] for delivery in transfer["deliveries"]}
    assert proofs["archive"]["digests"]["sha256"] == transfer["package"]["sha256"]
