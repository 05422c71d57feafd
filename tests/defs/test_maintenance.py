"""The job ``maintenance``: ghosts, lost work, and partition sets that stay true and bounded."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs import housekeeping, steps
from fiona_dagster.defs.build import build_defs
from fiona_dagster.transfers import delivery, intake, outcome
from tests.site import PROJECT, STUDY, Site

SETS = ("studies", f"studies_{PROJECT}")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@dg.job
def nothing() -> None: ...


def started(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, work: str = "") -> dg.DagsterRun:
    tags = {"fiona/work": work} if work else None
    return instance.create_run_for_job(nothing, status=status, tags=tags)


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def keys(instance: dg.DagsterInstance) -> list[list[str]]:
    return [list(instance.get_dynamic_partitions(name)) for name in SETS]


def delivered(site: Site) -> None:
    site.packaged()
    with site.open() as gateway:
        delivery.deliver(gateway, site.transfer(), "archive")
        outcome.write_outcomes(gateway, STUDY, PROJECT)


def retire(site: Site, instance: dg.DagsterInstance) -> int:
    with site.open() as gateway:
        return housekeeping.retire_studies(instance, gateway, [PROJECT])


def restore(site: Site, instance: dg.DagsterInstance) -> int:
    with site.open() as gateway:
        return housekeeping.restore_partitions(instance, gateway)


# -- ghosts -------------------------------------------------------------------------------------


def test_a_run_without_a_process_is_closed_and_a_living_one_is_not(
    root: DataRoot, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "YOUNG_SECONDS", -1.0)
    ghost = started(instance, dg.DagsterRunStatus.STARTED)
    cancelling = started(instance, dg.DagsterRunStatus.CANCELING)
    living = started(instance, dg.DagsterRunStatus.STARTED)
    waiting = started(instance, dg.DagsterRunStatus.NOT_STARTED)
    steps.hold_run(root, living.run_id)

    assert housekeeping.close_ghost_runs(instance, root, at_start=False) == 2

    assert status(instance, ghost) == status(instance, cancelling) == dg.DagsterRunStatus.FAILURE
    assert status(instance, living) == dg.DagsterRunStatus.STARTED
    assert status(instance, waiting) == dg.DagsterRunStatus.NOT_STARTED
    assert housekeeping.close_ghost_runs(instance, root, at_start=False) == 0


def test_marks_of_runs_that_are_over_are_forgotten(root: DataRoot) -> None:
    steps.hold_run(root, "living")
    over = steps.run_lock_file(root, "over")
    over.touch()

    housekeeping.forget_run_marks(root)

    assert not over.exists()
    assert steps.run_lock_file(root, "living").exists()


# -- lost work ----------------------------------------------------------------------------------


def test_work_that_no_run_carries_any_more_is_asked_for_again(
    site: Site, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "IN_FLIGHT_SECONDS", -1.0)
    with site.open() as gateway:
        work = gateway.ledger.work
        for study in ("1.1", "1.2", "1.3"):
            work.need("process", study, 1)
        work.requested("process:1.1")
        work.requested("process:1.2")
        started(instance, dg.DagsterRunStatus.NOT_STARTED, "process:1.2")
        started(instance, dg.DagsterRunStatus.SUCCESS, "process:1.1")
        before = {found.study: found.run_key for found in work.open()}

        assert housekeeping.release_lost_work(instance, gateway) == 1

        after = {found.study: found for found in work.open()}
    assert after["1.1"].attempt == 2
    assert after["1.1"].run_key != before["1.1"], "Dagster never launches the same key twice"
    assert "no run carries" in after["1.1"].error
    assert [after[study].run_key for study in ("1.2", "1.3")] == [before["1.2"], before["1.3"]]


# -- partition sets -----------------------------------------------------------------------------


def test_a_finished_study_leaves_the_partition_sets_after_its_time(
    site: Site, instance: dg.DagsterInstance
) -> None:
    delivered(site)
    restore(site, instance)
    assert keys(instance) == [[STUDY], [STUDY]]
    assert retire(site, instance) == 0, "90 days have not passed"

    site.configure(retention={"partition_days": 0})

    assert retire(site, instance) == 1
    assert keys(instance) == [[], []]
    assert (retire(site, instance), restore(site, instance)) == (0, 0)
    with site.open() as gateway:
        assert gateway.ledger.receipts.study(STUDY).retired
        assert site.transfer().state == "delivered", "the ledger remembers it"


@pytest.mark.parametrize("how", ["held", "packaged", "work", "outcome not written"])
def test_a_study_with_something_to_do_stays(site: Site, instance: dg.DagsterInstance, how: str) -> None:
    site.configure(retention={"partition_days": 0})
    if how == "held":
        site.receive(1)
    elif how == "packaged":
        site.packaged()
    else:
        delivered(site)
    with site.open() as gateway:
        if how == "work":
            intake.reclassify(gateway, [STUDY])
        elif how == "outcome not written":
            gateway.ledger.transfers.outcome_due(site.transfer())
    restore(site, instance)

    assert retire(site, instance) == 0
    assert keys(instance)[0] == [STUDY]


def test_late_images_bring_a_retired_study_back(site: Site, instance: dg.DagsterInstance) -> None:
    delivered(site)
    site.configure(retention={"partition_days": 0})
    restore(site, instance)
    assert retire(site, instance) == 1

    site.receive(3)

    assert restore(site, instance) == 2
    assert keys(instance) == [[STUDY], [STUDY]]
    assert retire(site, instance) == 0, "it is transferred again"


def test_a_retired_study_that_was_classified_again_leaves_again(
    site: Site, instance: dg.DagsterInstance
) -> None:
    delivered(site)
    site.configure(retention={"partition_days": 0})
    retire(site, instance)
    with site.open() as gateway:
        intake.reclassify(gateway, [STUDY])
    instance.add_dynamic_partitions("studies", [STUDY])  # as the sensor does

    retire(site, instance)
    assert keys(instance) == [[STUDY], []], "its run is still to come"
    with site.open() as gateway:
        intake.register(gateway, STUDY)
    retire(site, instance)
    assert keys(instance) == [[], []]


def test_keys_that_dagster_lost_are_restored_and_others_left_alone(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.receive(1)
    site.ask(participant="wrong")
    assert len(site.poll().refused) == 1
    instance.add_dynamic_partitions("studies", ["1.2.3"])

    assert restore(site, instance) == 1
    assert keys(instance) == [["1.2.3", STUDY], []], "a refused project never gets the study"
    retire(site, instance)
    assert keys(instance)[0] == ["1.2.3", STUDY], "somebody added that one"


# -- the job ------------------------------------------------------------------------------------


def test_the_job_does_all_of_it_and_shows_how_much(
    site: Site, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "YOUNG_SECONDS", -1.0)
    ghost = started(instance, dg.DagsterRunStatus.STARTED)
    transfer, package = site.packaged()
    with site.open() as gateway:  # killed between the proof and the closing
        gateway.ledger.transfers.record_delivery(transfer, "archive", package.sha256, {})
    job = build_defs(site.root).get_repository_def().get_job("maintenance")

    result = job.execute_in_process(instance=instance)

    assert result.success
    assert status(instance, ghost) == dg.DagsterRunStatus.FAILURE
    assert site.transfer().state == "delivered"
    output = next(event for event in result.all_events if event.is_successful_output)
    shown = {name: entry.value for name, entry in output.step_output_data.metadata.items()}
    assert shown["ghost runs closed"] == 1
    assert shown["finished transfers closed"] == 1
    assert shown["partitions restored"] == 2
