"""``fiona launch`` without a running service, and what it refuses. With one: tests/end_to_end."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import import_paths
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise
from tests.making import STUDY, write_object
from tests.running import fiona


@pytest.fixture
def held(root: DataRoot, tmp_path: Path) -> DataRoot:
    initialise(root)
    import_paths(root, [write_object(tmp_path, "1.2.3")])
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
        ledger.receipts.close_revision(STUDY)
        ledger.receipts.registered(STUDY, 1, [], {})
    (root.project_files / "P.json").write_text(json.dumps({"name": "P", "targets": ["a"]}))
    return root


def test_a_run_waits_in_the_queue_without_a_service(held: DataRoot) -> None:
    done = fiona("launch", "--study", STUDY, "--json", data=held.path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == {
        "run_id": document["run_id"],
        "job": "process_study",
        "study": STUDY,
        "queued": True,
    }
    with dg.DagsterInstance.from_config(str(held.dagster_home)) as instance:
        run = instance.get_run_by_id(document["run_id"])
        assert run is not None
        assert run.status is dg.DagsterRunStatus.QUEUED
        assert run.tags["dagster/partition"] == STUDY
        assert run.tags["fiona/kind"] == "process"
        assert run.remote_job_origin is not None
        assert run.remote_job_origin.location_name == "fiona_dagster"
        assert instance.has_dynamic_partition("studies", STUDY)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--study", "9.9"), 1, "no study 9.9"),
        (("--study", STUDY, "--project", "NONE"), 2, "NONE"),
        (("--study", STUDY, "--project", "P"), 1, "was requested"),
        ((), 2, "--study"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    held: DataRoot, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = fiona("launch", *arguments, data=held.path)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr


def test_a_flagged_study_is_not_transferred(held: DataRoot) -> None:
    from fiona_dagster.ledger import Request

    with Ledger(held) as ledger:
        ledger.transfers.accept(Request(STUDY, "P", 1, "2026-11-23 10:00", "X1", "E1"), 1)
        ledger.receipts.registered(STUDY, 1, ["two_patients"], {})
    done = fiona("launch", "--study", STUDY, "--project", "P", data=held.path)
    assert done.returncode == 1
    assert "two_patients" in done.stderr
