"""Runs over several studies, as a backfill launches them: every study shows what became of it, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from fiona_dagster.defs.build import build_defs
from fiona_dagster.defs.partitions import project_studies, studies
from fiona_dagster.transfers import completion, release
from tests.site import EVENT, PROJECT, STUDY, Site

STUDIES = [f"{STUDY}.{number}" for number in (1, 2, 3)]
INTAKE = ["study_files", "study_classification", "study_record", "incoming_record"]
RANGE = {
    "dagster/asset_partition_range_start": STUDIES[0],
    "dagster/asset_partition_range_end": STUDIES[-1],
}


@pytest.fixture
def instance(site: Site) -> Iterator[dg.DagsterInstance]:
    for study in STUDIES:
        site.arrive(1, 2, StudyInstanceUID=study)
    with site.open() as gateway:
        completion.find_complete_studies(gateway, datetime.now(UTC) + timedelta(hours=1))
    with dg.DagsterInstance.ephemeral() as opened:
        opened.add_dynamic_partitions("studies", STUDIES)
        opened.add_dynamic_partitions(f"studies_{PROJECT}", STUDIES)
        yield opened


def run(
    site: Site, instance: dg.DagsterInstance, job: str, study: str | None = None
) -> dg.ExecuteInProcessResult:
    """Over the whole range, or over one study."""
    found = build_defs(site.root).get_repository_def().get_job(job)
    return found.execute_in_process(
        instance=instance, partition_key=study, tags={} if study else RANGE, raise_on_error=False
    )


def materialised(result: dg.ExecuteInProcessResult, *key: str) -> dict[str, dg.AssetMaterialization]:
    """Materialisation by study; fails when a study has more than one."""
    events = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey(key)
    ]
    assert max(Counter(event.partition for event in events).values(), default=0) <= 1
    return {event.partition or "": event for event in events}


def statuses(instance: dg.DagsterInstance, definition: dg.PartitionsDefinition, *key: str) -> list[str]:
    found = instance.get_status_by_partition(dg.AssetKey(key), STUDIES, definition) or {}
    return [status.name if status else "MISSING" for status in (found.get(study) for study in STUDIES)]


def test_every_study_is_materialised_once_with_its_numbers(site: Site, instance: dg.DagsterInstance) -> None:
    result = run(site, instance, "process_study")

    assert result.success
    for name in INTAKE:
        found = materialised(result, name)
        assert sorted(found) == STUDIES
        assert statuses(instance, studies, name) == ["MATERIALIZED"] * 3
        assert all(event.tags and event.tags["dagster/data_version"] for event in found.values())
    files = materialised(result, "study_files")
    assert {event.metadata["instances"].value for event in files.values()} == {2}
    shown = materialised(result, "study_classification")[STUDIES[1]].metadata
    assert (shown["series"].value, shown["instances"].value) == (1, 2)
    assert isinstance(shown["types"], dg.TableMetadataValue)
    assert shown["types"].records[0].data["types"] == "CT, original"
    with site.open() as gateway:
        assert [gateway.ledger.receipts.study(study).state for study in STUDIES] == ["held"] * 3
    records = [call for call in site.redcap.calls if call.content == "record"]
    assert len(records) == 3, "looked, written and read back together"


def test_exactly_the_bad_study_fails_and_the_others_go_on(site: Site, instance: dg.DagsterInstance) -> None:
    bad = STUDIES[1]
    kept = next((site.root.archive / f"scp_{bad}").iterdir())
    kept.rename(site.folder / "lost")
    with site.open() as gateway:
        for study in STUDIES:
            gateway.ledger.work.done(f"process:{study}", 1)

    result = run(site, instance, "process_study")

    assert not result.success
    assert sorted(materialised(result, "study_files")) == [STUDIES[0], STUDIES[2]]
    assert statuses(instance, studies, "study_files") == ["MATERIALIZED", "FAILED", "MATERIALIZED"]
    failure = next(event for event in result.all_events if event.is_step_failure)
    assert bad in str(failure.event_specific_data)
    assert STUDIES[0] not in str(failure.event_specific_data)
    with site.open() as gateway:  # Dagster skips their later steps: they get runs of their own
        assert [work.study for work in gateway.ledger.work.due("process")] == [STUDIES[0], STUDIES[2]]


def test_data_versions_do_not_depend_on_how_a_study_ran(site: Site, instance: dg.DagsterInstance) -> None:
    """A failed range run logs each study with its own version, as a run of its own does."""
    lost = next((site.root.archive / f"scp_{STUDIES[1]}").iterdir())
    lost.rename(site.folder / "lost")
    together = materialised(run(site, instance, "process_study"), "study_files")
    alone = materialised(run(site, instance, "process_study", study=STUDIES[0]), "study_files")

    for tag in ("dagster/data_version", "dagster/data_version_is_user_provided"):
        first, second = together[STUDIES[0]].tags, alone[STUDIES[0]].tags
        assert first is not None
        assert second is not None
        assert first[tag] == second[tag]


def requested(site: Site, instance: dg.DagsterInstance) -> None:
    run(site, instance, "process_study")
    with site.open() as gateway:
        for number, study in enumerate(STUDIES):
            gateway.incoming().write_request(
                study, PROJECT, f"H00{number}", EVENT, datetime.now(UTC), zone="UTC"
            )
    assert len(site.poll().accepted) == 3


def test_a_projects_steps_over_several_studies(site: Site, instance: dg.DagsterInstance) -> None:
    requested(site, instance)

    result = run(site, instance, f"transfer_{PROJECT}")

    assert result.success
    for name in ("deidentified", "verification", "package"):
        assert sorted(materialised(result, PROJECT, name)) == STUDIES
        assert statuses(instance, project_studies(PROJECT), PROJECT, name) == ["MATERIALIZED"] * 3
    packages = materialised(result, PROJECT, "package")
    assert len({event.metadata["package"].value for event in packages.values()}) == 3
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    assert check.metadata["studies"].value == 3

    assert run(site, instance, f"deliver_{PROJECT}").success
    with site.open() as gateway:
        assert {t.state for t in gateway.ledger.transfers.all()} == {"delivered"}


def test_what_waits_for_a_person_is_not_packed_and_nothing_is_red(
    site: Site, instance: dg.DagsterInstance
) -> None:
    site.project(release_first_studies=2)
    requested(site, instance)
    job = f"transfer_{PROJECT}"

    result = run(site, instance, job)

    assert result.success
    assert sorted(materialised(result, PROJECT, "verification")) == STUDIES
    shown = materialised(result, PROJECT, "verification")[STUDIES[0]].metadata
    assert shown["release"].value == "waits for a person: one of the first 2 studies of the project"
    tags = materialised(result, PROJECT, "deidentified")[STUDIES[0]].metadata["tags"]
    assert isinstance(tags, dg.TableMetadataValue)
    assert {"PatientID", "StudyDate"} <= {record.data["keyword"] for record in tags.records}
    assert materialised(result, PROJECT, "package") == {}
    with site.open() as gateway:
        assert gateway.ledger.work.due("transfer") == []
        for study in STUDIES[:2]:
            release.decide(gateway, study, PROJECT, release=True, by="anna", reason="looked at")
        due = gateway.ledger.work.due("transfer")
        assert [work.study for work in due] == STUDIES, "the third needs nobody any more"
        assert all(release.only_package(gateway, work) for work in due)

    found = build_defs(site.root).get_repository_def().get_job(job)
    for study in STUDIES:
        only = found.execute_in_process(
            instance=instance, partition_key=study, asset_selection=[dg.AssetKey([PROJECT, "package"])]
        )
        assert list(materialised(only, PROJECT, "package")) == [study]
