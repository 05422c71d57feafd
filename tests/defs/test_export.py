"""Exports as an asset: exactly the studies that may leave, and nothing about people in Dagster."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from fiona_dagster.config import PackageSettings
from fiona_dagster.defs.build import build_defs
from fiona_dagster.transfers.verify import verify_package
from tests.site import PARTICIPANT, PLANTED, PROJECT, STUDY, Site


def test_a_backfill_exports_what_may_leave_and_names_the_rest(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    site.project(package={"export_folder": str(out), "formats": ["zip", "tgz"]})
    site.packaged()
    unknown = f"{STUDY}.9"
    found = build_defs(site.root).get_repository_def().get_job(f"export_{PROJECT}")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"studies_{PROJECT}", [STUDY, unknown])
        both = {
            "dagster/asset_partition_range_start": STUDY,
            "dagster/asset_partition_range_end": unknown,
        }
        many = found.execute_in_process(instance=instance, tags=both, raise_on_error=False)
        one = found.execute_in_process(instance=instance, partition_key=STUDY)
        definition = dg.DynamicPartitionsDefinition(name=f"studies_{PROJECT}")
        key = dg.AssetKey([PROJECT, "export"])
        status = instance.get_status_by_partition(key, [STUDY, unknown], definition) or {}
        written = "".join(str(record) for run in (one, many) for record in instance.all_logs(run.run_id))

    assert not many.success
    assert one.success
    assert [shown.name if (shown := status[study]) else "" for study in (STUDY, unknown)] == [
        "MATERIALIZED",
        "FAILED",
    ]
    (package,) = out.glob("*.zip")
    assert verify_package(package) == []
    assert len(list(out.rglob("*.tgz"))) == 1
    mapped = site.transfer().mapped_uid
    assert STUDY in written
    assert mapped
    assert not any(secret in written for secret in (*PLANTED, PARTICIPANT, mapped))


def test_without_a_folder_there_is_no_such_asset(site: Site) -> None:
    found = build_defs(site.root).get_repository_def()
    assert dg.AssetKey([PROJECT, "export"]) not in found.assets_defs_by_key
    assert f"export_{PROJECT}" not in {job.name for job in found.get_all_jobs()}
    with pytest.raises(ValidationError, match="absolute path"):
        PackageSettings(export_folder="out")
