"""A ledger that is lost in another way than by being deleted, and a new one that can't be finished."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy, LedgerLost, PermanentError, StorageFull
from fiona_dagster.ledger.holding import nobody_else
from fiona_dagster.ledger.records import aside_of, records_folder
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.mending import mend
from fiona_dagster.operations.rebuild import rebuild
from tests.accounting import assert_all_accounted
from tests.disks import small_disk
from tests.operations.delivered import delete_ledger, delivered, picture, settle, uploads
from tests.running import fiona
from tests.site import PROJECT, STUDY, Site, running_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as running:
        yield running


def without_log(root: DataRoot) -> Path:
    for ending in ("-wal", "-shm"):
        Path(f"{root.ledger_file}{ending}").unlink(missing_ok=True)
    return root.ledger_file


def test_an_empty_file_is_no_ledger(site: Site) -> None:
    delivered(site)
    before, sent = picture(site), uploads(site)
    record = records_folder(site.root) / f"{STUDY}.json"
    told = record.read_bytes()
    without_log(site.root).write_bytes(b"")

    with pytest.raises(LedgerLost, match=r"the ledger is empty, and was not; .*`fiona rebuild`"):
        site.poll()
    assert record.read_bytes() == told
    assert mend(site.root, print)
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent)
    assert_all_accounted(site.root)


def test_yesterdays_backup_does_not_write_over_what_was_sent_since(site: Site) -> None:
    """It knows the study, held; the request, the delivery and its proof came later."""
    site.receive(1, 2)
    with (
        closing(sqlite3.connect(site.root.ledger_file)) as now,
        closing(sqlite3.connect(site.folder / "backup")) as copy,
    ):
        now.backup(copy)
    site.ask()
    site.poll()
    settle(site)
    before, sent = picture(site), uploads(site)
    shutil.copy(site.folder / "backup", without_log(site.root))

    with pytest.raises(LedgerLost, match=r"is older than the records in site/.ledger .*`fiona rebuild`"):
        site.poll()
    assert mend(site.root, print)
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent)
    assert_all_accounted(site.root)


SPOILS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a key of the study": lambda document: document["row"].pop("retired"),
    "all about the study": lambda document: document.pop("row"),
    "flags": lambda document: document["row"].update(flags="{"),
    "a column": lambda document: document["transfers"][0].pop("participant"),
    "a value": lambda document: document["transfers"][0].update(study=None),
    "a kind": lambda document: document.update(sendings=[7]),
    "half a digest": lambda document: document.update(digests=[["1.2.3"]]),
    "nobody's sending": lambda document: document["sendings"][0].update(transfer=99),
    "an empty row": lambda document: document["deliveries"].append({}),
}


def test_a_record_that_is_not_sound_is_named_and_the_others_are_taken_over(site: Site) -> None:
    delivered(site)
    site.arrive(5, StudyInstanceUID="1.2.3.99")
    assert site.complete() == ["1.2.3.99"]
    site.register("1.2.3.99")
    record = records_folder(site.root) / f"{STUDY}.json"
    sound = record.read_bytes()
    for missing, spoil in SPOILS.items():
        delete_ledger(site)
        document = json.loads(sound)
        spoil(document)
        record.write_text(json.dumps(document))
        result = rebuild(site.root, trees=False)
        assert result.problems == [
            f"site/.ledger/{STUDY}.json is not sound (a key is missing or a value of the wrong kind); "
            f"kept as unsound-{STUDY}.json; restore site/ from the backup"
        ], missing
        assert json.loads(aside_of(site.root, STUDY).read_bytes()) == document
        assert (result.records, result.packages) == (1, 1), "the other study's, and what lies in DAIC/"
        assert site.transfer().state == "delivered"


def test_consents_that_cannot_be_read_stop_it(site: Site) -> None:
    site.receive(1)
    with site.open() as gateway:
        gateway.ledger.withdrawals.withdraw_consent(PROJECT, "H009", "me")
    consents = records_folder(site.root) / "consents.json"
    told = consents.read_bytes()
    consents.write_bytes(told[:-5])
    delete_ledger(site)

    with pytest.raises(PermanentError, match="nobody knows who withdrew the consent"):
        rebuild(site.root)
    assert not site.root.ledger_file.exists()
    consents.write_bytes(told)
    rebuild(site.root)
    with site.open() as gateway:
        assert gateway.ledger.withdrawals.consent_withdrawn(PROJECT, "H009")


def test_two_records_that_claim_the_same_numbers_are_both_taken_over(site: Site) -> None:
    """A record is written before the commit; if that failed, another transfer got the number."""
    delivered(site)
    before = picture(site)
    other = "1.2.3.99"
    site.arrive(5, StudyInstanceUID=other)
    assert site.complete() == [other]
    site.register(other)
    folder = records_folder(site.root)
    document = json.loads((folder / f"{STUDY}.json").read_bytes())
    row = json.loads((folder / f"{other}.json").read_bytes())["row"]
    for table in ("transfers", "sendings", "revisions", "history", "completion"):
        for entry in document[table]:
            entry["study"] = other
    document["transfers"][0]["participant"] = "H007"
    document.update(study=other, row=row, digests=[], work=[])
    (folder / f"{other}.json").write_text(json.dumps(document))
    delete_ledger(site)
    result = rebuild(site.root, trees=False)

    assert (result.records, result.problems) == (2, [])
    with site.open() as gateway:
        transfers = {each.study: each for each in gateway.ledger.transfers.all()}
        assert (transfers[STUDY].participant, transfers[other].participant) == ("H001", "H007")
        assert transfers[STUDY].id != transfers[other].id
        for study in (STUDY, other):
            assert list(gateway.ledger.transfers.deliveries(transfers[study])) == ["archive"]
            assert len(gateway.ledger.sendings.of(study, PROJECT)) == 1
    after = picture(site)["study"]
    for document in (before["study"], after):
        document["transfers"][0].pop("id")
    assert after == before["study"]


def test_a_rebuild_of_a_lost_ledger_needs_no_end_of_the_reception(site: Site) -> None:
    """Of one that is there it does: what is booked meanwhile would be lost."""
    delivered(site)
    before = picture(site)
    with hold_root(site.root), landing.Use(site.root):  # as `fiona up` and a receiver do
        with pytest.raises(Busy, match="`fiona up` already runs"):
            rebuild(site.root)
        delete_ledger(site)
        assert rebuild(site.root).records == 1
    assert picture(site) == before


def test_nobody_opens_a_ledger_that_is_being_built_or_builds_one_that_is_open(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered(site)
    monkeypatch.setattr("fiona_dagster.ledger.holding._WAIT_SECONDS", 0.0)
    with nobody_else(site.root), pytest.raises(Busy, match="is being built anew; try again"), site.open():
        pass
    with site.open() as gateway:
        without_log(site.root).unlink()
        with pytest.raises(Busy, match="another command has it open"):
            rebuild(site.root)
        gateway.ledger.receipts.studies()
    assert mend(site.root, print)
    with site.open():
        assert mend(site.root, print), "a sound one is left alone"


@pytest.fixture
def small(site: Site) -> Iterator[Path]:
    """The ledger's folder becomes a disk of its own of 2 MiB, with the ledger on it."""
    delivered(site)
    without_log(site.root)
    folder = site.root.ledger_file.parent
    kept = site.folder / "ledger"
    shutil.move(folder, kept)
    folder.mkdir()
    with small_disk(folder, "size=2m"):
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield folder


def test_on_a_full_disk_the_old_ledger_stays(site: Site, small: Path) -> None:
    """However much room there is: it is refused, or the new ledger is whole."""
    old, before, refused = site.root.ledger_file.read_bytes(), picture(site), 0
    without_log(site.root)
    filler = small / "filler"
    for room in range(0, 2_000_000, 48_000):
        filler.unlink(missing_ok=True)
        free = os.statvfs(small)
        filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room)))
        try:
            result = rebuild(site.root, trees=False)
        except StorageFull:
            refused += 1
            assert site.root.ledger_file.read_bytes() == old
            assert not [*small.glob(".ledger*"), *small.glob("ledger-*")]
        else:
            break
    filler.unlink()
    assert (result.problems, result.records) == ([], 1)
    assert refused > 5
    assert picture(site) == before
    assert_all_accounted(site.root)


STEP = 1 if os.environ.get("FIONA_TEST_FULL") else 3


def test_a_rebuild_that_is_killed_at_any_moment_loses_nothing(site: Site) -> None:
    """Whatever it leaves: the next one, of `fiona up` or by hand, comes to the same."""
    delivered(site)
    before, sent = picture(site), uploads(site)
    without_log(site.root)
    whole = site.root.ledger_file.read_bytes()
    for loss in (b"", b"no database" * 100, whole):
        for at in range(1, 1000, STEP):
            without_log(site.root).write_bytes(loss)
            if fiona("rebuild", data=site.root.path, die_at=at).returncode != -signal.SIGKILL:
                break
            assert mend(site.root, print)
            assert picture(site) == before, (at, len(loss))
        assert at > 10
        for kept in site.root.ledger_file.parent.glob("ledger-*.sqlite*"):
            kept.unlink()
    settle(site)
    assert (picture(site), uploads(site)) == (before, sent)
    assert_all_accounted(site.root)
