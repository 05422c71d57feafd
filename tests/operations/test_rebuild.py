"""The ledger is deleted and built anew: the same states, and nothing is sent twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from fiona_dagster import landing
from fiona_dagster.errors import Busy, LedgerLost
from fiona_dagster.landing import import_paths
from fiona_dagster.landing.decisions import Decision
from fiona_dagster.operations.conflicts import decide_conflicts
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.mending import mend
from fiona_dagster.operations.overview import study_detail
from fiona_dagster.operations.rebuild import Rebuilt, rebuild
from fiona_dagster.transfers import delivery, intake
from tests.accounting import assert_all_accounted
from tests.operations.delivered import delete_ledger, delivered, picture, settle, uploads
from tests.running import fiona
from tests.site import PROJECT, STUDY, Site, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def test_a_delivered_study_is_delivered_afterwards_and_nothing_is_sent(site: Site) -> None:
    delivered(site)
    before, sent = picture(site), uploads(site)
    delete_ledger(site)
    result = rebuild(site.root)

    assert (result.studies, result.instances, result.records, result.keys) == (1, 2, 1, 1)
    assert (result.problems, result.packages, result.kept) == ([], 0, "")
    assert picture(site) == before
    assert_all_accounted(site.root)
    assert site.poll().accepted == ()
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent)


def test_links_and_records_come_back_from_the_archive_as_they_were(site: Site) -> None:
    site.receive(1, 2)
    with site.open() as gateway:
        intake.organise(gateway, STUDY)
    before = tree(site)
    assert len([name for name in before if name.startswith("raw/")]) >= 4
    for folder in (site.root.raw, site.root.participants):
        shutil.rmtree(folder)
    delete_ledger(site)
    result = rebuild(site.root)

    assert (result.trees, result.problems) == (1, [])
    assert tree(site) == before

    with site.open() as gateway:  # finished long ago: what is there stays, what is gone comes back
        gateway.ledger.receipts.retire(STUDY, "2026-01-01T00:00:00.000000Z")
    assert rebuild(site.root).trees == 0
    shutil.rmtree(site.root.raw)
    assert rebuild(site.root).trees == 1
    assert tree(site) == before


def tree(site: Site) -> dict[str, str]:
    """Files and links below raw/ and participants/, with text or target."""
    return {
        str(path.relative_to(site.root.site)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for folder in (site.root.raw, site.root.participants)
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_a_package_that_waits_goes_on(site: Site) -> None:
    site.project(targets=["archive", "pacs"])
    site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
    sent = uploads(site)
    delete_ledger(site)
    rebuild(site.root)

    assert site.waiting_targets() == ["pacs"]
    assert_all_accounted(site.root)
    settle(site)
    assert site.transfer().state == "delivered"
    assert uploads(site) == sent
    assert len(site.pacs.sop_instance_uids()) == 2


def test_late_images_that_came_before_the_loss_are_sent(site: Site) -> None:
    delivered(site)
    site.arrive(3)
    delete_ledger(site)
    rebuild(site.root)
    assert_all_accounted(site.root)
    assert study_detail(site.root, STUDY)["states"] == {"received": 1, "delivered": 2}
    settle(site)

    assert site.transfer().state == "delivered"
    assert site.transfer().revision == 2
    assert len(uploads(site)) == 2


def test_packages_alone_are_recognised_when_records_are_lost_too(site: Site) -> None:
    delivered(site)
    sent = uploads(site)
    delete_ledger(site)
    shutil.rmtree(site.root.site / ".ledger")
    result = rebuild(site.root)

    assert (result.records, result.packages, result.problems) == (0, 1, [])
    assert_all_accounted(site.root)
    transfer = site.transfer()
    assert (transfer.state, transfer.request, transfer.participant) == ("delivered", 1, "H001")
    assert site.poll().accepted == ()
    settle(site)
    assert uploads(site) == sent
    assert site.transfer().state == "delivered"
    assert_all_accounted(site.root)


def test_a_package_is_recognised_when_only_its_own_record_is_lost(site: Site) -> None:
    delivered(site)
    site.arrive(5, StudyInstanceUID="1.2.3.99")
    assert site.complete() == ["1.2.3.99"]
    site.register("1.2.3.99")
    delete_ledger(site)
    (site.root.site / ".ledger" / f"{STUDY}.json").unlink()
    result = rebuild(site.root)

    assert (result.records, result.packages, result.problems) == (1, 1, [])
    assert site.transfer().state == "delivered"
    assert result.kept == "", "no empty ledger was made on the way"
    assert_all_accounted(site.root)


def test_another_participant_waits_for_the_removal_also_without_records(site: Site) -> None:
    delivered(site)
    sent = uploads(site)
    delete_ledger(site)
    shutil.rmtree(site.root.site / ".ledger")
    rebuild(site.root)
    settle(site)
    site.ask(participant="H002")
    poll = site.poll()

    assert (poll.accepted, len(poll.refused)) == ((), 1)
    with site.open() as gateway:
        states = {each.participant: (each.state, each.reason) for each in gateway.ledger.transfers.all()}
    assert states["H002"][0] == "refused"
    assert "`fiona removed" in states["H002"][1]
    assert uploads(site) == sent


def test_late_images_are_sent_also_without_records(site: Site) -> None:
    delivered(site)
    site.arrive(3)
    delete_ledger(site)
    shutil.rmtree(site.root.site / ".ledger")
    rebuild(site.root)
    settle(site)

    assert site.transfer().state == "delivered"
    assert len(uploads(site)) == 2


def test_a_waiting_package_without_its_record_is_made_again(site: Site) -> None:
    _, package = site.packaged()
    delete_ledger(site)
    shutil.rmtree(site.root.site / ".ledger")
    rebuild(site.root)
    assert_all_accounted(site.root)
    settle(site)

    assert site.transfer().state == "delivered"
    with site.open() as gateway:
        again = gateway.ledger.transfers.package(site.transfer())
    assert again is not None
    assert again.instances == package.instances
    assert len(uploads(site)) == 1


def test_nothing_but_journals_processes_the_study_again(site: Site) -> None:
    site.receive(1, 2)
    delete_ledger(site)
    shutil.rmtree(site.root.site / ".ledger")
    rebuild(site.root)
    settle(site)
    assert study_detail(site.root, STUDY)["states"] == {"held": 2}
    assert_all_accounted(site.root)


def test_an_empty_ledger_does_not_write_over_the_records(site: Site) -> None:
    delivered(site)
    before = picture(site)
    records = {path: path.read_bytes() for path in (site.root.site / ".ledger").iterdir()}
    delete_ledger(site)

    said: list[str] = []
    gone = "the ledger is gone; run `fiona rebuild`"
    with pytest.raises(LedgerLost, match=gone), site.open():
        pass
    assert {path: path.read_bytes() for path in (site.root.site / ".ledger").iterdir()} == records
    assert mend(site.root, said.append)  # as `fiona up` does
    assert said[-1] == "the ledger knows 1 studies again, 1 by their records"
    assert picture(site) == before
    assert_all_accounted(site.root)


@pytest.mark.parametrize("decision", ["accepted", "rejected"])
def test_a_study_with_a_decided_conflict_keeps_its_record(
    site: Site, tmp_path: Path, decision: Decision
) -> None:
    site.receive(1, 2)
    archived = next(site.root.archive.glob("scp_*/*"))
    other = tmp_path / "other.dcm"
    found = pydicom.dcmread(archived)
    found.SeriesDescription = "another"
    found.save_as(other)
    import_paths(site.root, [other])
    settle(site)
    decide_conflicts(site.root, (), STUDY, decision)
    settle(site)
    site.ask()
    site.poll()
    settle(site)
    before, sent = picture(site), uploads(site)
    assert site.transfer().state == "delivered"
    (site.root.secrets / "tls.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    delete_ledger(site)

    result = rebuild(site.root)
    assert (result.records, result.problems, result.packages) == (1, [], 0)
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent)
    assert_all_accounted(site.root)


def test_a_retired_study_stays_retired(site: Site) -> None:
    delivered(site)
    with site.open() as gateway:
        gateway.ledger.receipts.retire(STUDY, "2026-11-24T10:00:00.000000Z")
    delete_ledger(site)
    rebuild(site.root)
    assert study_detail(site.root, STUDY)["retired"] == "2026-11-24T10:00:00.000000Z"


def test_another_key_is_refused_afterwards(site: Site) -> None:
    delivered(site)
    (site.root.secrets / f"{PROJECT}.key").write_text("ab" * 32)
    delete_ledger(site)
    result = rebuild(site.root)
    assert len(result.problems) == 1
    assert "not the one that was used" in result.problems[0]


def test_a_broken_ledger_is_kept_aside(site: Site) -> None:
    delivered(site)
    before = picture(site)
    for ending in ("-wal", "-shm"):
        Path(f"{site.root.ledger_file}{ending}").unlink(missing_ok=True)
    site.root.ledger_file.write_bytes(b"no database" * 100)
    result = rebuild(site.root)
    assert (site.root.path / result.kept).read_bytes() == b"no database" * 100
    assert picture(site) == before


def test_the_command_refuses_beside_others_and_speaks_json(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(site)
    with hold_root(site.root), pytest.raises(Busy):
        rebuild(site.root)
    monkeypatch.setattr("fiona_dagster.landing.claim._WAIT_SECONDS", 0.0)
    with landing.Use(site.root), pytest.raises(Busy, match="fiona receive"):
        rebuild(site.root)  # what a receiver is just filing would look like an orphan
    done = fiona("rebuild", "--json", data=site.root.path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == set(Rebuilt().to_json())
    assert document["kept"].startswith("ledger/ledger-")
    assert_all_accounted(site.root)
