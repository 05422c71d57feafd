"""The original's triples as a delivered format: beside the package, and covered by all that proves it."""

from __future__ import annotations

import json
import subprocess
import zipfile

import pytest

from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers import delivery, withdrawals
from fiona_dagster.transfers.beside import companions_of, folder_of
from fiona_dagster.transfers.targets import Proof, together
from fiona_dagster.transfers.verify import read_manifest, verify_package
from tests.deid import phantoms
from tests.site import PLANTED, PROJECT, STUDY, Site


def test_triples_are_delivered_proven_and_verified(site: Site) -> None:
    site.project(package={"deliver": ["tgz"]})
    transfer, package = site.packaged()
    path = site.root.path / package.path
    folder = folder_of(path)
    (archive,) = folder.glob("*.tgz")
    base = archive.name.removesuffix(".tgz")
    with zipfile.ZipFile(path) as zipped:
        assert not any("/" in name for name in zipped.namelist()), "documents alone"
    kept = archive.read_bytes()
    archive.write_bytes(kept[:-1] + b"X")
    assert verify_package(path) == [f"{archive.name} beside the package: changed (differs from the manifest)"]
    with site.open() as gateway, pytest.raises(NotVerified):
        delivery.deliver(gateway, transfer, "archive")
    there = site.sftp["archive"].files
    assert not any(each.suffix in (".tgz", ".zip") for each in there.iterdir()), "nothing of it has a name"
    transfer, _ = site.make_package()  # nothing goes by what was verified before
    assert archive.read_bytes() == kept
    with site.open() as gateway:
        proof, _ = delivery.deliver(gateway, transfer, "archive")
    assert proof is not None
    assert proof.digests["sha256"] == package.sha256
    sent = sorted(each.name for each in there.iterdir())
    name = path.name
    assert sent == sorted(
        [
            *(f"{base}{ending}" for ending in (".tgz", ".tgz.md5", ".tgz.sha256", ".md5sum", ".json")),
            *(f"{name}{ending}" for ending in ("", ".json", ".md5", ".sha256")),
        ]
    )
    assert proof.counts["files"] == len(sent)
    subprocess.run(["md5sum", "-c", f"{base}.md5sum"], cwd=there, check=True, capture_output=True)
    subprocess.run(["sha256sum", "-c", f"{base}.tgz.sha256"], cwd=there, check=True, capture_output=True)
    assert verify_package(there / name) == []
    (there / f"{base}.json").write_text("{}")
    assert verify_package(there / name) == [
        f"{base}.json beside the package: changed (differs from the manifest)"
    ]
    assert site.transfer().state == "delivered"
    assert [each for each in site.root.outbox.rglob("*") if each.is_file()] == []
    assert sorted(each.name for each in (site.root.daic / PROJECT / folder.name).iterdir()) == sorted(
        f"{base}{ending}" for ending in (".tgz", ".md5sum", ".json")
    )
    listed = str([*sent, read_manifest(there / name)])
    assert not any(who in listed for who in (*PLANTED, phantoms.STUDY))


def test_the_series_records_go_with_every_package(site: Site) -> None:
    transfer, package = site.packaged()
    path = site.root.path / package.path
    record = path.with_name(f"{path.name}.json")
    kept = record.read_bytes()
    assert json.loads(kept)[0]["Modality"]
    record.write_bytes(kept.replace(b"Modality", b"modality"))
    assert verify_package(path) == [f"{record.name} beside the package: changed (differs from the manifest)"]
    with site.open() as gateway, pytest.raises(NotVerified):
        delivery.deliver(gateway, transfer, "archive")
    there = site.sftp["archive"].files
    assert sorted(each.suffix for each in there.iterdir()) == [".md5", ".sha256", ".zip"], "and no proof"
    assert site.transfer().state == "packaged"

    transfer, _ = site.make_package()
    assert record.read_bytes() == kept
    with site.open() as gateway:
        proof, _ = delivery.deliver(gateway, transfer, "archive")
    assert proof is not None
    assert (proof.counts["files"], proof.counts["sent"]) == (4, 1), "the ZIP lay there and is the same"
    assert proof.digests["sha256"] == package.sha256
    assert (there / record.name).read_bytes() == kept
    assert not any(who in kept.decode() for who in (*PLANTED, phantoms.STUDY))
    assert site.transfer().state == "delivered"


def test_another_manifest_than_the_ledger_s_names_nothing_to_be_sent(site: Site) -> None:
    site.project(package={"deliver": ["dicom", "tgz"]})
    _, package = site.packaged()
    path = site.root.path / package.path
    assert len(companions_of(path, package.sha256)) == 3
    with pytest.raises(NotVerified):
        companions_of(path, "0" * 64)
    with site.open() as gateway:
        withdrawals.withdraw(gateway, STUDY, PROJECT, by="a person")
        withdrawals.clean(gateway)
    assert not folder_of(path).exists(), "with the package goes what lies beside it"


def test_what_one_file_did_not_prove_is_not_proven_for_all() -> None:
    proofs = [
        Proof("agreement", "t", "1", {"files": 1, "sent": 1, "flushed": 1}),
        Proof(
            "sftp-readback", "t", "2", {"files": 3, "sent": 0, "flushed": 0}, {"sha256": "a"}, {"x": STUDY}
        ),
    ]
    found = together(proofs)
    assert (found.kind, found.time, found.digests) == ("agreement", "2", {"sha256": "a"})
    assert found.counts == {"files": 4, "sent": 1, "flushed": 0}
    assert together(proofs[1:]) is proofs[1]
