"""Everything that stands on disk or in the ledger has a known state, and what has none is named."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Landing, adopt_orphans
from fiona_dagster.landing.receipt import IMPORTER, decode_line
from fiona_dagster.ledger import Ledger, Package, Request
from fiona_dagster.operations.accounting import account_for
from tests.accounting import assert_all_accounted
from tests.landing.test_door import file_one
from tests.making import STUDY, data_set, part10

ONE, TWO = "1.2.3.100.1.1", "1.2.3.100.1.2"


@pytest.fixture
def filed(root: DataRoot) -> DataRoot:
    """Two instances of one study, registered."""
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        file_one(landing, visit, ONE)
        file_one(landing, visit, TWO)
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.receipts.close_revision(STUDY)
        ledger.receipts.registered(STUDY, 1, [], {})
    assert_all_accounted(root)
    return root


def archived(root: DataRoot, instance: str = ONE) -> Path:
    return root.archive / f"scp_{STUDY}" / f"CT.{instance}"


def journal(root: DataRoot) -> Path:
    (path,) = (path for path in root.arrived.iterdir() if not path.name.startswith("."))
    return path


def old(path: Path, seconds: float = 7200.0) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def execute(root: DataRoot, sql: str, *values: object) -> None:
    with Ledger(root) as ledger, ledger.store.writing() as db:
        db.execute(sql, values)


def write_project(root: DataRoot, name: str = "P") -> None:
    (root.project_files / f"{name}.json").write_text(json.dumps({"name": name, "targets": ["a"]}))


def codes(root: DataRoot) -> tuple[list[str], list[str]]:
    account = account_for(root)
    return [f.code for f in account.unaccounted], [f.code for f in account.pending]


def lose_file(root: DataRoot) -> None:
    archived(root).unlink()


def cut_file(root: DataRoot) -> None:
    archived(root).write_bytes(b"short")


def lose_journal(root: DataRoot) -> None:
    journal(root).unlink()


def rot_line_and_lose_file(root: DataRoot) -> None:
    lines = journal(root).read_bytes().splitlines(keepends=True)
    journal(root).write_bytes(lines[0].replace(b"stored", b"st0red") + lines[1])
    archived(root).unlink()


def forget_row(root: DataRoot) -> None:
    execute(root, "DELETE FROM site_instances WHERE sop_instance = ?", ONE)


def mark_altered(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        ledger.receipts.mark_altered(STUDY, [ONE])


def put_foreign_folder(root: DataRoot) -> None:
    (root.archive / "lost+found").mkdir()


def put_bytes_without_reason(root: DataRoot) -> None:
    (root.quarantine / "2026-x.dcm").write_bytes(b"?")


def need_lost_work(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        ledger.work.need("deliver", STUDY, 1, project="P", target="gone")


def need_unknown_study(root: DataRoot) -> None:
    with Ledger(root) as ledger:
        ledger.work.need("process", "9.9", 1)


def lose_process_work(root: DataRoot) -> None:
    execute(root, "UPDATE studies SET revision = 2")


def accept(root: DataRoot, *, with_project: bool = True) -> None:
    if with_project:
        write_project(root)
    with Ledger(root) as ledger:
        ledger.transfers.accept(Request(STUDY, "P", 1, "2026-11-23 10:00", "X1", "E1"), 1)


def lose_transfer_work(root: DataRoot) -> None:
    accept(root)
    execute(root, "DELETE FROM work")


def lose_project(root: DataRoot) -> None:
    accept(root, with_project=False)


def pack(root: DataRoot, state: str = "packaged") -> Path:
    accept(root)
    path = root.outbox / "P" / "x.zip"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"package")
    with Ledger(root) as ledger:
        transfer = ledger.transfers.all()[0]
        ledger.transfers.record_package(transfer, Package("outbox/P/x.zip", 7, "m", "s", 2, ""), ("a",))
        if state == "delivered":
            ledger.transfers.record_delivery(transfer, "a", "s", {})
            ledger.transfers.set_state(transfer, "delivered")
    assert_all_accounted(root)
    return path


def lose_package(root: DataRoot) -> None:
    pack(root, "delivered").unlink()


def cut_package(root: DataRoot) -> None:
    pack(root).write_bytes(b"pack")


def lose_delivery_work(root: DataRoot) -> None:
    pack(root)
    execute(root, "DELETE FROM work")


def forget_package(root: DataRoot) -> None:
    pack(root, "delivered")
    for table in ("packages", "deliveries", "verifications", "transfers", "work"):
        execute(root, f"DELETE FROM {table}")  # noqa: S608 - names from above


def prove_another(root: DataRoot) -> None:
    pack(root, "delivered")
    execute(root, "UPDATE deliveries SET sha256 = 'other'")


DAMAGE: list[tuple[Callable[[DataRoot], None], list[str]]] = [
    (lose_file, ["lost_file"]),
    (cut_file, ["size_differs"]),
    (lose_journal, ["no_receipt", "no_receipt"]),
    (rot_line_and_lose_file, ["damaged_line", "no_receipt"]),
    (forget_row, ["not_in_ledger"]),
    (mark_altered, ["altered"]),
    (put_foreign_folder, ["foreign"]),
    (put_bytes_without_reason, ["no_reason"]),
    (need_lost_work, ["orphan_work"]),
    (need_unknown_study, ["orphan_work"]),
    (lose_process_work, ["stuck_study"]),
    (lose_transfer_work, ["stuck_transfer"]),
    (lose_project, ["no_project"]),
    (lose_package, ["lost_package"]),
    (cut_package, ["size_differs"]),
    (forget_package, ["unknown_package"]),
    (prove_another, ["other_package"]),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_what_has_no_known_state_is_named(
    filed: DataRoot, damage: Callable[[DataRoot], None], expected: list[str]
) -> None:
    damage(filed)
    assert sorted(codes(filed)[0]) == expected


def test_a_delivery_without_work_is_taken_up_by_the_sensor(filed: DataRoot) -> None:
    lose_delivery_work(filed)
    assert codes(filed) == ([], ["not_sent"])


def test_an_open_association_is_no_finding(root: DataRoot) -> None:
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        file_one(landing, visit, ONE)
        archived(root, TWO).write_bytes(b"placed, its line is about to be written")
        assert codes(root) == ([], [])
    assert codes(root) == ([], ["no_journal_line"])


def test_a_file_without_a_line_is_adopted_by_the_next_start(filed: DataRoot) -> None:
    lines = journal(filed).read_bytes().splitlines(keepends=True)
    journal(filed).write_bytes(lines[1])
    execute(filed, "DELETE FROM site_instances")
    execute(filed, "DELETE FROM journals")
    assert codes(filed) == ([], ["no_journal_line"])

    adopt_orphans(filed)
    assert codes(filed) == ([], [])


def without_line(root: DataRoot) -> None:
    """One file as a process leaves it that was killed between its name and its line."""
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        file_one(landing, visit, ONE)
    journal(root).unlink()


def test_what_was_sent_again_after_a_kill_before_its_line_is_accounted_for(root: DataRoot) -> None:
    without_line(root)
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        assert file_one(landing, visit, ONE).kind == "repeat"
    assert codes(root) == ([], [])
    with Ledger(root) as ledger:
        (row,) = ledger.receipts.instances(STUDY)
    assert root.path / row["path"] == archived(root)


def test_a_conflict_with_a_file_without_a_line_waits_for_its_adoption(root: DataRoot) -> None:
    without_line(root)
    with Landing(root) as landing, landing.visit(IMPORTER) as visit:
        other = part10(data_set(ONE, pixels=b"other"), ONE)
        assert file_one(landing, visit, ONE, other).kind == "conflict"
    assert codes(root)[1] == ["no_journal_line"]
    assert "no_receipt" not in codes(root)[0]

    adopt_orphans(root)
    assert codes(root) == ([], [])


def test_a_lost_journal_is_told_once(filed: DataRoot) -> None:
    journal(filed).unlink()
    assert codes(filed) == (["no_receipt", "no_receipt"], [])


def test_a_file_in_a_folder_with_old_times_is_left_to_the_thorough_pass(filed: DataRoot) -> None:
    adopt_orphans(filed)
    archived(filed, "1.2.3.100.1.3").write_bytes(b"put there by hand")
    old(archived(filed).parent)
    assert codes(filed) == ([], ["no_journal_line"])
    assert adopt_orphans(filed, thorough=True).quarantined == 1
    assert codes(filed) == ([], [])


def test_a_torn_line_was_never_acknowledged(filed: DataRoot) -> None:
    with journal(filed).open("ab") as file:
        file.write(b'0123abcd {"time":"2026-11-23T10:00')
    assert codes(filed) == ([], [])
    with journal(filed).open("ab") as file:
        file.write(b"\n")
    assert codes(filed) == ([], [])


def test_a_rotten_line_is_made_good_by_adoption(filed: DataRoot) -> None:
    lines = journal(filed).read_bytes().splitlines(keepends=True)
    assert decode_line(lines[0].rstrip(b"\n")) is not None
    journal(filed).write_bytes(lines[0].replace(b"stored", b"st0red") + lines[1])
    assert codes(filed) == (["no_receipt"], [])

    adopt_orphans(filed, everything=True)
    assert codes(filed) == ([], [])


def test_leftovers_of_dead_processes_are_told_apart(filed: DataRoot) -> None:
    workshop = filed.archive / ".incoming" / "1-dead"
    workshop.mkdir(parents=True)
    (workshop / "1.part").write_bytes(b"half")
    for path in (filed.quarantine / ".x.json.1.part", filed.quarantine / "y.json"):
        path.write_bytes(b"{}")
        old(path)
    assert codes(filed)[0] == []
    assert sorted(codes(filed)[1]) == ["no_bytes", "unfinished", "unfinished"]

    adopt_orphans(filed)
    assert codes(filed) == ([], [])


def test_young_part_files_belong_to_somebody(filed: DataRoot) -> None:
    (filed.quarantine / ".x.json.1.part").write_bytes(b"{}")
    (filed.quarantine / "y.json").write_bytes(b"{}")
    assert codes(filed) == ([], [])


def test_changed_bytes_of_the_same_size_are_found_by_their_digest(filed: DataRoot) -> None:
    from fiona_dagster.landing import digest_of

    with Ledger(filed) as ledger:
        ledger.receipts.record_digests(STUDY, {ONE: digest_of(archived(filed))})
    content = bytearray(archived(filed).read_bytes())
    content[-1] ^= 1
    archived(filed).write_bytes(content)
    assert codes(filed)[0] == []

    assert [f.code for f in account_for(filed, verify=True).unaccounted] == ["altered"]
    with Ledger(filed) as ledger:
        assert ledger.receipts.study(STUDY).flags == ("altered_instances",)


def test_changed_bytes_of_a_package_are_found_when_it_is_read(filed: DataRoot) -> None:
    path = pack(filed, "delivered")
    execute(filed, "UPDATE packages SET sha256 = ?", hashlib.sha256(b"package").hexdigest())
    execute(filed, "UPDATE deliveries SET sha256 = ?", hashlib.sha256(b"package").hexdigest())
    assert account_for(filed, verify=True).unaccounted == []

    path.write_bytes(b"PACKAGE")
    assert codes(filed) == ([], [])
    account = account_for(filed, verify=True)
    assert [(f.code, f.path) for f in account.unaccounted] == [("altered_package", "outbox/P/x.zip")]
    assert account.checked["packages read"] == 1

    path.unlink()
    assert [f.code for f in account_for(filed, verify=True).unaccounted] == ["lost_package"]


def test_a_whole_root_that_was_never_used_is_accounted_for(root: DataRoot) -> None:
    assert_all_accounted(root)
