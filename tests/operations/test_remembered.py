"""What a ledger that was built anew must not have forgotten, beside what was delivered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiona_dagster.errors import ReleaseAwaited
from fiona_dagster.ledger.records import common_file, records_folder
from fiona_dagster.operations.rebuild import rebuild
from fiona_dagster.transfers import adoption, execution, packing, release
from tests.accounting import assert_all_accounted
from tests.operations.delivered import delete_ledger, delivered, picture, settle, uploads
from tests.site import EVENT, PARTICIPANT, PROJECT, STUDY, Site, running_site

OTHER = "1.2.3.99"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def test_what_waits_for_a_person_waits_again(site: Site) -> None:
    site.project(release="review")
    site.receive(1, 2)
    site.ask()
    site.poll()

    def verify_and_wait() -> None:
        with site.open() as gateway:
            execution.deidentify(gateway, site.transfer())
            execution.verify(gateway, site.transfer())
            with pytest.raises(ReleaseAwaited):
                packing.make_package(gateway, site.transfer())
            release.wait(gateway, site.transfer(), "waits")

    verify_and_wait()
    delete_ledger(site)
    rebuild(site.root)

    with site.open() as gateway:
        assert [work.kind for work in gateway.ledger.work.due("transfer")] == ["transfer"]
    verify_and_wait()
    with site.open() as gateway:
        (listed,) = gateway.ledger.releases.waiting()
        assert listed.transfer.study == STUDY
        release.decide(gateway, STUDY, None, release=True, by="anna", reason="all values seen")
    delete_ledger(site)
    rebuild(site.root)
    site.make_package()  # the decision is about the bytes, which are the same again
    assert site.transfer().state == "packaged"


def test_what_another_system_sent_of_studies_that_are_not_here(site: Site) -> None:
    site.fill(
        1,
        OTHER,
        transfer_requested_date="2025-03-01 10:00",
        transfer_project_name=PROJECT,
        transfer_name=PARTICIPANT,
        transfer_event_name=EVENT,
        transfer_date="2025-03-01 10:07",
    )
    delivered_before = adopted(site)
    delete_ledger(site)
    assert rebuild(site.root).problems == []
    assert sent(site) == delivered_before
    assert not site.poll().report_only

    site.arrive(5, StudyInstanceUID=OTHER)
    assert site.complete() == [OTHER]
    site.register(OTHER)
    for _ in range(2):  # its own record says it now, and the file of what is elsewhere still does
        delete_ledger(site)
        assert rebuild(site.root).problems == []
        assert sent(site) == delivered_before
    site.fill(1, OTHER, transfer_requested_date="2026-03-01 10:00", transfer_name="H002")
    poll = site.poll()
    assert (poll.accepted, len(poll.refused)) == ((), 1), "the other copy must be removed first"


def adopted(site: Site) -> list[tuple[str, str, str]]:
    with site.open() as gateway:
        assert adoption.adopt(gateway).adopted == 1
    return sent(site)


def sent(site: Site) -> list[tuple[str, str, str]]:
    with site.open() as gateway:
        return [
            (transfer.study, transfer.state, sending.target)
            for transfer in gateway.ledger.transfers.all()
            for sending in gateway.ledger.sendings.of(transfer.study, PROJECT)
        ]


def test_the_key_of_a_project_that_transferred_nothing(site: Site) -> None:
    """`fiona deidentify` alone used it: another key would split its participants as well."""
    key = site.root.secrets / "LUNG.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    with site.open() as gateway:
        gateway.ledger.record_key_fingerprint("LUNG", "0123456789abcdef")
    delete_ledger(site)
    (problem,) = rebuild(site.root).problems
    assert problem.startswith("project LUNG: the key is missing or not the one that was used")


def test_records_of_a_restored_site_are_brought_up_to_date(site: Site) -> None:
    """`site/` comes from yesterday's backup, the ledger is of today; a week later that is lost."""
    site.receive(1, 2)
    yesterday = site.folder / "yesterday"
    shutil.copytree(records_folder(site.root), yesterday)
    site.ask()
    site.poll()
    settle(site)
    before, sent_files = picture(site), uploads(site)
    shutil.rmtree(records_folder(site.root))
    shutil.copytree(yesterday, records_folder(site.root))

    with site.open() as gateway:
        gateway.ledger.store.note(OTHER, "anything")  # the count on disk may be brought up to date first
        gateway.ledger.withdrawals.withdraw_consent("LUNG", "L1", "me")
    with site.open() as gateway:
        assert gateway.ledger.write_missing_records() == 1
        assert gateway.ledger.write_missing_records() == 0
    delete_ledger(site)
    rebuild(site.root)
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent_files)
    assert_all_accounted(site.root)

    for path in yesterday.iterdir():
        shutil.copy(path, records_folder(site.root))
    assert rebuild(site.root).problems == [], "by hand, before the maintenance came by"
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent_files)


def test_what_belongs_to_no_study_is_written_again_where_it_is_missing(site: Site) -> None:
    delivered(site)
    with site.open() as gateway:
        gateway.ledger.withdrawals.withdraw_consent(PROJECT, "H009", "me")
        told = common_file(site.root).read_bytes()
        common_file(site.root).unlink()
        gateway.ledger.write_missing_records()
    assert common_file(site.root).read_bytes() == told


def test_what_was_sent_of_a_study_that_is_lost_itself(site: Site) -> None:
    """Its journals and images are gone; it comes again, and somebody asks for it as another person's."""
    delivered(site)
    sent_files = uploads(site)
    delete_ledger(site)
    shutil.rmtree(site.root.archive / f"scp_{STUDY}")
    for path in site.root.arrived.glob(f"*{STUDY}*"):
        path.unlink()
    for _ in range(2):  # what no study's record tells holds it, too
        (problem,) = rebuild(site.root).problems
        assert f"{STUDY}.json is of a study that no journal tells of; what was sent of it is rem" in problem
        with site.open() as gateway:
            (transfer,) = gateway.ledger.transfers.all()
            assert (transfer.state, transfer.participant) == ("delivered", "H001")
        delete_ledger(site)
    rebuild(site.root)

    site.arrive(1, 2)
    assert site.complete() == [STUDY]
    site.register(STUDY)
    assert site.poll().accepted == (), "the same request asks for nothing new"
    site.ask(participant="H002")
    poll = site.poll()
    assert (poll.accepted, len(poll.refused)) == ((), 1)
    assert "`fiona removed" in poll.refused[0].reason
    assert uploads(site) == sent_files


def test_yesterdays_backup_of_everything_sends_nothing_twice(site: Site) -> None:
    """Ledger and `site/` are of the same moment: what was delivered since is known to nobody here."""
    site.packaged()
    yesterday = site.folder / "yesterday"
    shutil.copytree(site.root.path, yesterday, symlinks=True)
    settle(site)
    sent_files, told = uploads(site), outcome_in_redcap(site)
    assert told[0]
    shutil.rmtree(site.root.path)
    shutil.copytree(yesterday, site.root.path, symlinks=True)

    with site.open() as gateway:
        gateway.ledger.work.release(STUDY, PROJECT)
    settle(site)
    assert site.transfer().state == "delivered"
    assert uploads(site) == sent_files
    again = outcome_in_redcap(site)
    assert again[0] >= told[0]
    assert again[1:] == told[1:]
    assert_all_accounted(site.root)


def outcome_in_redcap(site: Site) -> tuple[str, str, str]:
    with site.open() as gateway:
        (request,) = gateway.incoming().requests()
    return request.transfer_date, request.mapped_uid, str(request.errors)
