"""The steps of ``process_study`` by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fiona_dagster.errors import PermanentError, RedcapRejected, RedcapUnavailable, UnknownStudy
from fiona_dagster.transfers import intake
from tests.site import PLANTED, STUDY, Site
from tests.transfers.conftest import Arrive, Configure


def tree(site: Site) -> set[str]:
    return {str(p.relative_to(site.root.site)) for p in site.root.site.rglob("*")}


def test_classification_writes_nothing(site: Site) -> None:
    site.receive(1, 2)
    before = tree(site)
    with site.open() as gateway:
        done = intake.process(gateway, STUDY)

    (record,) = done.records.values()
    assert (record["NumFiles"], done.contents.instance_count, done.flags) == ("2", 2, ())
    assert tree(site) == before


def test_a_registered_study_is_held_and_the_ledger_knows_nothing_of_the_person(site: Site) -> None:
    site.receive(1, 2)
    with site.open() as gateway:
        study = gateway.ledger.receipts.study(STUDY)
        assert (study.state, study.registered, study.instances) == ("held", 1, 2)
        assert gateway.ledger.work.open(STUDY) == []
    content = site.root.ledger_file.read_bytes()
    assert not [word for word in PLANTED if word.encode() in content]


def test_a_registration_that_is_repeated_changes_nothing(site: Site) -> None:
    site.receive(1, 2)
    log = len(site.redcap.log("Incoming"))
    with site.open() as gateway:
        intake.register(gateway, STUDY)

    assert len(site.redcap.log("Incoming")) == log


def test_a_redcap_that_is_down_leaves_the_work_to_be_done(site: Site) -> None:
    site.receive(1)
    site.arrive(2)
    site.complete()
    site.redcap.stop()
    with site.open() as gateway:
        with pytest.raises(RedcapUnavailable):
            intake.register(gateway, STUDY)
        assert gateway.ledger.receipts.study(STUDY).registered == 1
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["process"]


def test_nothing_goes_on_without_an_acknowledged_instance(site: Site) -> None:
    site.receive(1, 2)
    next((site.root.archive / f"scp_{STUDY}").iterdir()).unlink()

    with site.open() as gateway, pytest.raises(PermanentError, match="restore them from the backup"):
        intake.register(gateway, STUDY)


def test_a_study_that_a_person_processes_early_gets_its_first_revision(site: Site) -> None:
    site.arrive(1)
    with site.open() as gateway:
        assert intake.ensure_revision(gateway, STUDY).revision == 1
        assert intake.ensure_revision(gateway, STUDY).revision == 1
        with pytest.raises(UnknownStudy):
            intake.ensure_revision(gateway, "1.2.3")


def test_late_images_are_a_new_revision_and_the_transfer_begins_anew(site: Site) -> None:
    site.receive(1)
    site.ask()
    site.poll()
    site.receive(2)

    with site.open() as gateway:
        assert gateway.ledger.receipts.study(STUDY).revision == 2
        (work,) = gateway.ledger.work.open(STUDY)
    assert (work.kind, work.revision, site.transfer().revision) == ("transfer", 2, 2)


def test_repeats_are_no_new_revision(site: Site) -> None:
    site.receive(1)
    site.arrive(1)
    assert site.complete() == []
    with site.open() as gateway:
        assert gateway.ledger.receipts.study(STUDY).revision == 1


def test_studies_that_are_registered_together_do_not_hold_up_each_other(site: Site) -> None:
    other = f"{STUDY}.7"
    site.arrive(1)
    site.arrive(1, StudyInstanceUID=other)
    assert sorted(site.complete()) == [STUDY, other]
    with site.open() as gateway:
        good, bad = (intake.prepare(gateway, intake.process(gateway, study)) for study in (STUDY, other))
        series = [{**bad.entry.series[0], "series_num_files": "many"}]
        bad = replace(bad, entry=replace(bad.entry, series=series))

        failed = intake.commit(gateway, [bad, good])

        assert list(failed) == [other]
        assert isinstance(failed[other], RedcapRejected)
        states = [gateway.ledger.receipts.study(study).state for study in (STUDY, other)]
        assert states == ["held", "processing"]


def test_what_late_images_overtook_is_processed_again(site: Site) -> None:
    site.receive(1)
    with site.open() as gateway:
        old = intake.prepare(gateway, intake.process(gateway, STUDY))
    site.receive(2)
    with site.open() as gateway:
        assert intake.commit(gateway, [old]) == {}
        assert gateway.ledger.receipts.study(STUDY).registered == 2
        assert [work.kind for work in gateway.ledger.work.open(STUDY)] == ["process"]


def test_each_series_has_the_sender_of_its_own_first_file(arrive: Arrive, configure: Configure) -> None:
    arrive("1.2.3.1", sender="CT1")
    arrive("1.2.4.1", series="1.2.4", sender="WORKSTATION")
    arrive("1.2.3.2", sender="WORKSTATION")
    arrive("1.2.4.1", series="1.2.4", sender="CT1")  # a repeat
    gateway = configure(SITES={})

    def senders() -> dict[str, str]:
        intake.ensure_revision(gateway, "1.2")
        records = intake.process(gateway, "1.2").records
        return {series: record["IncomingConnection"]["AETitleCaller"] for series, record in records.items()}

    assert senders() == {"1.2.3": "CT1", "1.2.4": "WORKSTATION"}
    with gateway.ledger.store.writing() as db:  # journals are read again, in whatever order
        db.execute("DELETE FROM series_senders")
        db.execute("DELETE FROM site_instances")
        db.execute("DELETE FROM journals")
    assert senders() == {"1.2.3": "CT1", "1.2.4": "WORKSTATION"}
