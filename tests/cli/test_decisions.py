"""``fiona conflicts`` and ``fiona quarantine`` as operators call them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import quarantine_file
from fiona_dagster.ledger import Ledger
from tests.accounting import assert_all_accounted
from tests.landing.test_decisions import SECOND, UID, archived, conflict
from tests.making import STUDY, data_set, part10
from tests.running import fiona


def test_an_accepted_conflict_makes_a_new_revision(root: DataRoot) -> None:
    found = conflict(root)
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.receipts.close_revision(STUDY)
        ledger.receipts.registered(STUDY, 1, ["conflicts"], {})
    (listed,) = json.loads(fiona("conflicts", "list", "--json", data=root.path).stdout)["conflicts"]
    assert listed["id"] == found.id
    assert (listed["study"], listed["calling_ae"], listed["differs"]) == (STUDY, "CT1", "(7FE0,0010)")
    assert found.id in fiona("conflicts", "list", data=root.path).stdout, "whole, in one line"
    folded = fiona(
        "conflicts", "list", environment={**os.environ, "FIONA_DATA": str(root.path), "COLUMNS": "60"}
    ).stdout
    cells = [line.split("│")[1].strip() for line in folded.splitlines() if line.startswith("│")]
    assert "".join(cells) == found.id, "folded, not cut"

    done = fiona("conflicts", "accept", found.id, "--reason", "better", "--json", data=root.path)
    assert json.loads(done.stdout)["conflicts"] == [{"id": found.id, "study": STUDY}]
    assert archived(root) == SECOND
    with Ledger(root) as ledger:
        assert ledger.receipts.study(STUDY).open
        assert ledger.receipts.close_revision(STUDY) == 2
        assert [i.state for i in ledger.accounts.instances(STUDY)] == ["processing", "superseded"]
    assert_all_accounted(root)


def test_a_rejected_conflict_has_the_study_processed_again(root: DataRoot) -> None:
    conflict(root)
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.receipts.close_revision(STUDY)
        ledger.receipts.registered(STUDY, 1, ["conflicts"], {})
        assert ledger.work.open(STUDY) == []
    assert fiona("conflicts", "reject", "--study", STUDY, data=root.path).returncode == 0
    with Ledger(root) as ledger:
        assert [work.key for work in ledger.work.due("process")] == [f"process:{STUDY}"]
        assert not ledger.receipts.study(STUDY).open
        assert [i.state for i in ledger.accounts.instances(STUDY)] == ["flagged", "rejected"]
    assert_all_accounted(root)


def test_decisions_that_make_no_sense_are_usage_errors(root: DataRoot) -> None:
    conflict(root)
    for arguments in (
        ("accept",),
        ("accept", "nothing"),
        ("reject", "--study", "9.9"),
        ("accept", "x", "--study", "1"),
    ):
        done = fiona("conflicts", *arguments, data=root.path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1


def shelve(root: DataRoot, tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "x"
    path.write_bytes(content)
    reason = {"code": "c", "message": "[red]m", "source": "association"}
    return quarantine_file(root, path, reason).stem


def test_quarantine_is_listed_retried_and_discarded(root: DataRoot, tmp_path: Path) -> None:
    good = shelve(root, tmp_path, part10(data_set(UID), UID))
    bad = shelve(root, tmp_path, b"no DICOM")
    listed = json.loads(fiona("quarantine", "list", "--json", data=root.path).stdout)["quarantine"]
    assert [entry["id"] for entry in listed] == sorted([good, bad])
    assert "2 in quarantine" in fiona("quarantine", "list", data=root.path).stdout

    done = fiona("quarantine", "retry", "--all", "--json", data=root.path)
    assert done.returncode == 1
    outcomes = {result["id"]: result["outcome"] for result in json.loads(done.stdout)["results"]}
    assert outcomes == {good: "filed", bad: "refused"}
    assert_all_accounted(root)

    unanswered = fiona("quarantine", "discard", bad, data=root.path)
    assert unanswered.returncode == 2
    assert "--yes discards without asking" in unanswered.stderr
    assert len(list(root.quarantine.glob("*.dcm"))) == 1
    assert fiona("quarantine", "discard", bad, "--yes", data=root.path).returncode == 0
    assert list(root.quarantine.glob("*.dcm")) == []
    assert fiona("quarantine", "discard", bad, "--yes", data=root.path).returncode == 2
    assert_all_accounted(root)
