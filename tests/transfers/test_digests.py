"""Archived bytes are compared with what was received before anything leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from fiona_dagster import landing
from fiona_dagster.errors import PermanentError, RequestRefused
from fiona_dagster.ledger import ALTERED
from fiona_dagster.operations.overview import study_detail
from fiona_dagster.transfers import execution, intake
from fiona_dagster.transfers.digests import take_digests
from tests.accounting import assert_all_accounted
from tests.site import PROJECT, STUDY, Site


def archived(site: Site) -> list[Path]:
    return sorted((site.root.archive / f"scp_{STUDY}").iterdir())


def flip(path: Path) -> bytes:
    """Changes one bit of the last byte; gives what stood there."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def requested(site: Site) -> None:
    site.receive(1, 2)
    with site.open() as gateway:
        assert take_digests(gateway, STUDY) == 2
    site.ask()
    assert len(site.poll().accepted) == 1


def test_digests_are_taken_once_and_shown(site: Site) -> None:
    requested(site)
    detail = study_detail(site.root, STUDY)
    assert detail["digests"] == 2
    assert [entry["digest"] for entry in detail["instance_states"]] == [
        landing.digest_of(path) for path in archived(site)
    ]
    assert_all_accounted(site.root)


def test_a_changed_bit_stops_the_transfer_and_flags_the_study(site: Site) -> None:
    requested(site)
    before = flip(archived(site)[0])
    with site.open() as gateway:
        transfer = execution.transfer_of(gateway, STUDY, PROJECT)
        with pytest.raises(PermanentError, match="not what was received"):
            execution.deidentify(gateway, transfer)
        assert not execution.working_copy(gateway, transfer).exists()
        assert gateway.ledger.receipts.study(STUDY).flags == (ALTERED,)
        with pytest.raises(RequestRefused, match="flagged"):
            execution.deidentify(gateway, transfer)
        assert ALTERED in intake.process(gateway, STUDY).flags
    states = study_detail(site.root, STUDY)["states"]
    assert states == {"flagged": 1, "altered": 1}

    archived(site)[0].write_bytes(before)  # restored from the backup, processed again
    with site.open() as gateway:
        take_digests(gateway, STUDY)
        assert intake.register(gateway, STUDY).flags == ()
        gateway.ledger.work.unblock(STUDY)
        execution.deidentify(gateway, execution.transfer_of(gateway, STUDY, PROJECT))


def test_a_file_that_was_cut_before_its_digest_was_taken_is_altered(site: Site) -> None:
    site.receive(1, 2)
    path = archived(site)[0]
    path.write_bytes(path.read_bytes()[:-2])
    with site.open() as gateway:
        assert take_digests(gateway, STUDY) == 1
        assert gateway.ledger.receipts.study(STUDY).flags == (ALTERED,)


def test_what_is_held_back_by_kind_is_filtered(site: Site) -> None:
    site.receive(1, 2)
    site.arrive(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")
    with site.open() as gateway:
        gateway.ledger.receipts.read_journals()
        gateway.ledger.receipts.close_revision(STUDY)
        done = intake.register(gateway, STUDY)
        gateway.ledger.work.done(f"process:{STUDY}", done.study.revision)
    site.ask()
    site.poll()
    site.make_package()
    detail = study_detail(site.root, STUDY)
    assert detail["states"] == {"packaged": 2, "filtered": 1}
    assert {tuple(entry["projects"].items()) for entry in detail["instance_states"]} == {
        ((PROJECT, "packaged"),),
        ((PROJECT, "filtered"),),
    }
    assert_all_accounted(site.root)
