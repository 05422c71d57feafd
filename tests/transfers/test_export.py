"""Exports: verified studies only, the very bytes that were verified, in both formats."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fiona_dagster.cli.export import export as command
from fiona_dagster.errors import UsageError
from fiona_dagster.transfers import delivery, execution
from fiona_dagster.transfers.leftovers import remove_leftovers
from fiona_dagster.transfers.verify import verify_package
from tests.deid import phantoms
from tests.site import PARTICIPANT, PLANTED, PROJECT, STUDY, Site


@pytest.fixture
def run(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("FIONA_DATA", str(site.root.path))
    return site


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [PROJECT, *map(str, arguments)], standalone_mode=False)


def test_an_export_is_the_delivered_package_again(run: Site, tmp_path: Path) -> None:
    transfer, package = run.packaged()
    with run.open() as gateway:
        delivery.deliver(gateway, transfer, "archive")
    (sent,) = run.root.daic.rglob("*.zip")

    done = call(tmp_path / "out", "--json", "--participants", PARTICIPANT)

    assert done.return_value == 0, done.output
    assert json.loads(done.stdout)["exported"] == [{"study": STUDY, "files": [sent.name]}]
    there = {path.name for path in sent.parent.iterdir() if not path.name.endswith(".proofs.json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == there
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (sent.parent / path.name).read_bytes(), path.suffix
    assert run.transfer().state == "delivered"
    assert list((run.root.projects / PROJECT).iterdir()) == [], "nothing of it is left"
    with run.open() as gateway:
        assert any("exported by" in what for _, what in gateway.ledger.store.history(STUDY))
        booked = gateway.ledger.transfers.package(transfer)
        assert booked is not None
        assert booked.sha256 == package.sha256


def test_the_original_s_triple(run: Site, tmp_path: Path) -> None:
    run.packaged()
    for name in ("a", "b"):
        assert call(tmp_path / name, "--format", "tgz").return_value == 0
    (folder,) = (tmp_path / "a").iterdir()
    (archive,) = folder.glob("*.tgz")
    base = archive.name.removesuffix(".tgz")
    study, _, series = base.partition("_")

    assert sorted(path.name for path in folder.iterdir()) == [f"{base}.json", f"{base}.md5sum", f"{base}.tgz"]
    subprocess.run(["md5sum", "-c", f"{base}.md5sum"], cwd=folder, check=True, capture_output=True)
    subprocess.run(["gzip", "-t", archive], check=True)
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        files = [tar.extractfile(member) for member in tar.getmembers()]
        content = [file.read() for file in files if file is not None]
        assert len(content) == len(names)
    assert names[0] == f"{study}/{series}.json"
    assert all(name.startswith(f"{study}/{series}/") for name in names[1:])
    assert content[0] == (folder / f"{base}.json").read_bytes()
    assert json.loads(content[0])["NumFiles"] == "2" == str(len(names) - 1)
    with run.open() as gateway:
        verified = gateway.ledger.transfers.verified_files(run.transfer())
    assert {hashlib.sha256(data).hexdigest() for data in content[1:]} == set(verified.values())
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / folder.name / path.name).read_bytes()
    whole = gzip.decompress(archive.read_bytes()) + "".join(names).encode() + content[0]
    assert not any(planted.encode() in whole for planted in (*PLANTED, phantoms.STUDY))


def test_what_is_not_verified_is_refused(run: Site, tmp_path: Path) -> None:
    run.receive(1, 2)
    run.ask()
    run.poll()
    with run.open() as gateway:
        execution.deidentify(gateway, run.transfer())

    done = call(tmp_path / "out")

    assert done.return_value == 1
    assert "no passed verification" in done.output
    assert list((tmp_path / "out").iterdir()) == []


def test_a_withdrawal_stops_an_export_also_while_a_person_is_asked(run: Site, tmp_path: Path) -> None:
    transfer, _ = run.packaged()
    with run.open() as gateway:
        gateway.ledger.withdrawals.book(transfer, "missing", "asked")
    done = call(tmp_path / "out", "--json")
    assert (done.return_value, list((tmp_path / "out").iterdir())) == (1, [])


def test_an_export_asks_redcap_once_more(run: Site, tmp_path: Path) -> None:
    run.packaged()
    run.fill(1, transfer_withdrawn="1")  # after the last poll
    done = call(tmp_path / "out", "--json")
    assert (done.return_value, list((tmp_path / "out").iterdir())) == (1, [])


def test_a_copy_with_other_bytes_than_the_verified_ones_is_refused(run: Site, tmp_path: Path) -> None:
    transfer, _ = run.packaged()
    with run.open() as gateway:
        verified = gateway.ledger.transfers.verified_files(transfer)
        name = min(verified)
        changed = json.dumps({**verified, name: "0" * 64})
        with gateway.ledger.store.writing() as db:
            db.execute("UPDATE verifications SET files = ?", (changed,))

    for format_ in ("zip", "tgz", "nifti"):
        done = call(tmp_path / "out", "--format", format_)
        assert done.return_value == 1, done.output
        assert "verification record" in done.output
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_changed_rules_and_ended_projects_stop_an_export(run: Site, tmp_path: Path) -> None:
    run.packaged()
    run.project(options=[])
    assert "the rules changed" in call(tmp_path / "out").output
    run.project(active=False)
    assert "not active" in call(tmp_path / "out").output
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_export_left_goes_and_what_a_living_one_uses_stays(run: Site) -> None:
    folder = run.root.projects / PROJECT
    for name in ("dead", "young", "held"):
        (folder / f".export-{name}" / "copy").mkdir(parents=True)
    for name in ("dead", "held"):
        os.utime(folder / f".export-{name}", (0, 0))
    held = os.open(folder / ".export-held", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with run.open() as gateway:
            assert remove_leftovers(gateway) == 1
    finally:
        os.close(held)
    assert sorted(path.name for path in folder.iterdir()) == [".export-held", ".export-young"]


def test_usage(run: Site, tmp_path: Path) -> None:
    run.packaged()
    for arguments in ((run.root.path / "outbox",), (tmp_path, "--participants", "H999")):
        done = call(*arguments)
        assert isinstance(done.exception, UsageError)
    project = run.root.project_files / f"{PROJECT}.json"
    project.write_text(
        json.dumps({**json.loads(project.read_text()), "package": {"formats": ["zip", "tgz"]}})
    )
    assert call(tmp_path / "out").return_value == 0
    (package,) = (tmp_path / "out").glob("*.zip")
    assert verify_package(package) == []
    assert len(list((tmp_path / "out").rglob("*.tgz"))) == 1
