"""The job ``reclassify_stale``: exactly the studies that a rule change affects, errors study by study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill

from fiona_dagster.defs.build import build_defs
from fiona_dagster.defs.partitions import studies
from fiona_dagster.defs.reclassify import ASSETS, start_backfill
from fiona_dagster.transfers import completion, intake
from tests.site import PLANTED, STUDY, Site

STUDIES = [f"{STUDY}.{number}" for number in (1, 2, 3)]
RULES = [{"type": "anything", "rules": [{"tag": ["Modality"], "value": "."}]}]


@pytest.fixture
def instance(site: Site) -> Iterator[dg.DagsterInstance]:
    for study in STUDIES:
        site.arrive(1, StudyInstanceUID=study)
    with site.open() as gateway:
        completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))
        for study in STUDIES:
            intake.register(gateway, study)
    with dg.DagsterInstance.ephemeral() as opened:
        opened.add_dynamic_partitions("studies", STUDIES)
        yield opened


def run(site: Site, instance: dg.DagsterInstance, **config: list[str]) -> dg.ExecuteInProcessResult:
    found = build_defs(site.root).get_repository_def().get_job("reclassify_stale")
    ops = {"ops": {"start_reclassification": {"config": config}}} if config else {}
    return found.execute_in_process(instance=instance, run_config=ops)


def backfills(instance: dg.DagsterInstance) -> list[PartitionBackfill]:
    return list(instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])))


def targets(backfill: PartitionBackfill) -> dict[str, list[str]]:
    assert backfill.asset_backfill_data
    found = backfill.asset_backfill_data.target_subset.partitions_subsets_by_asset_key
    return {key.to_user_string(): sorted(subset.get_partition_keys()) for key, subset in found.items()}


def test_only_what_other_rules_classified_is_backfilled(site: Site, instance: dg.DagsterInstance) -> None:
    run(site, instance)
    assert backfills(instance) == []

    site.root.rules_file.write_text(json.dumps(RULES))
    with site.open() as gateway:
        intake.register(gateway, STUDIES[1])  # it has the new rules already
    result = run(site, instance)

    (backfill,) = backfills(instance)
    expected = [STUDIES[0], STUDIES[2]]
    assert targets(backfill) == {key.to_user_string(): expected for key in ASSETS}
    observed = [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]
    (table,) = [event.asset_observation_data.asset_observation.metadata["affected"] for event in observed]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["study"] for record in table.records] == expected
    assert not [word for word in PLANTED if word in str(observed)]


def test_what_waits_already_is_not_started_twice(site: Site, instance: dg.DagsterInstance) -> None:
    site.root.rules_file.write_text(json.dumps(RULES))
    run(site, instance, studies=[STUDIES[0]])
    run(site, instance)

    assert sorted(study for each in backfills(instance) for study in targets(each)["study_record"]) == STUDIES


def test_a_study_that_left_the_partitions_comes_back(site: Site, instance: dg.DagsterInstance) -> None:
    instance.delete_dynamic_partition("studies", STUDIES[0])

    assert start_backfill(instance, STUDIES[:1])[1] == STUDIES[:1]
    assert instance.has_dynamic_partition("studies", STUDIES[0])


def test_an_unknown_study_starts_nothing(site: Site, instance: dg.DagsterInstance) -> None:
    job = build_defs(site.root).get_repository_def().get_job("reclassify_stale")
    config = {"ops": {"start_reclassification": {"config": {"studies": ["1.2.3", STUDIES[0]]}}}}
    result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)

    assert not result.success
    assert backfills(instance) == []


def test_the_runs_show_errors_by_study_and_the_history_what_changed(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.root.rules_file.write_text(json.dumps(RULES))
    kept: Path = next((site.root.archive / f"scp_{STUDIES[1]}").iterdir())
    kept.rename(site.folder / "lost")
    job = (
        build_defs(site.root).resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(ASSETS))
    )
    tags = {
        "dagster/asset_partition_range_start": STUDIES[0],
        "dagster/asset_partition_range_end": STUDIES[-1],
    }
    result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)

    assert not result.success
    found = instance.get_status_by_partition(ASSETS[0], STUDIES, studies) or {}
    assert [status.name if (status := found[study]) else "" for study in STUDIES] == [
        "MATERIALIZED",
        "FAILED",
        "MATERIALIZED",
    ]
    with site.open() as gateway:
        # The good ones get runs of their own, since Dagster skips their later steps.
        due = [work.study for work in gateway.ledger.work.due("process")]
        assert due == [STUDIES[0], STUDIES[2]]
        blocked = gateway.ledger.work.get(f"process:{STUDIES[1]}")
        assert blocked is not None
        assert blocked.blocked
        assert "restore them from the backup" in blocked.error
        intake.register(gateway, STUDIES[0])
        history = [what for _, what in gateway.ledger.store.history(STUDIES[0])]
        stale = [study.study for study in intake.to_reclassify(gateway, None)]
    assert stale == STUDIES[1:]
    assert any(what.startswith("classified again, rules ") and "1 series" in what for what in history)
    assert any(what.startswith("types of series ") and what.endswith(" -> anything") for what in history)


def test_a_fault_that_can_pass_is_tried_again(site: Site, instance: dg.DagsterInstance) -> None:
    with site.open() as gateway:
        assert gateway.ledger.work.open(STUDIES[0]) == []
        intake.failed(gateway, STUDIES[0], "REDCap is down", permanent=False)
        (work,) = gateway.ledger.work.open(STUDIES[0])
        intake.failed(gateway, "1.2.3", "no such study", permanent=True)
    assert (work.blocked, work.attempt, work.error) == (False, 2, "REDCap is down")
