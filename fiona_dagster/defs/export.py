"""A project's ``export`` asset: its studies once more, into the folder that its file names.

Belongs here: what Dagster shows of an export, and its job. Stays out: which studies may be exported, and how
(``transfers.export``). Names of files hold participants: only counts are shown.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from pathlib import Path
from typing import Any

import dagster as dg

from fiona_dagster.config import ProjectSettings
from fiona_dagster.defs.partitions import project_studies
from fiona_dagster.defs.project import BACKFILL, package_key
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import Events, StepResult, run_studies
from fiona_dagster.errors import RequestRefused
from fiona_dagster.transfers import execution
from fiona_dagster.transfers import export as exporting
from fiona_dagster.transfers.context import Gateway

WHOLE_CHECK = "whole"


def export_key(project: str) -> dg.AssetKey:
    """Asset of a project's exports."""
    return dg.AssetKey([project, "export"])


def export_job_name(project: str) -> str:
    """Exports studies; nothing else launches it than a person."""
    return f"export_{project}"


def export_defs(project: ProjectSettings) -> tuple[list[dg.AssetsDefinition], list[Any]]:
    """The asset and the job of a project that names a folder for exports; empty for others.

    Args:
        project: its settings in force.
    """
    if not project.package.export_folder:
        return [], []
    key = export_key(project.name)

    def body(gateway: Gateway, study: str) -> StepResult:
        return _exported(gateway, study, project.name)

    @dg.asset(
        key=key,
        deps=[dg.AssetDep(package_key(project.name), partition_mapping=dg.IdentityPartitionMapping())],
        kinds={"zip"},
        check_specs=[dg.AssetCheckSpec(WHOLE_CHECK, asset=key)],
        partitions_def=project_studies(project.name),
        group_name=project.name,
        backfill_policy=BACKFILL,
        description="The study once more, in the formats and the folder of the project's file "
        "(`package.formats`, `export_folder`): de-identified and searched again, refused unless it "
        "has the very bytes that were verified. Nothing is sent. A backfill exports many or all studies. "
        "The check `whole` fails when a series could not be converted to NIfTI wholly.",
    )
    def export(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        yield from run_studies(context, gateway, body, lambda *_: None)

    asset: dg.AssetsDefinition = export
    job = dg.define_asset_job(
        export_job_name(project.name),
        selection=dg.AssetSelection.assets(asset),
        description=f"Exports studies of {project.name} that were packaged or delivered; nothing is sent.",
        executor_def=dg.in_process_executor,
        tags={"fiona/kind": "export", "fiona/project": project.name},
    )
    return [asset], [job]


def _exported(gateway: Gateway, study: str, project: str) -> StepResult:
    """One study, into the folder that the project's file names now."""
    folder = gateway.project(project).package.export_folder
    if not folder:
        raise RequestRefused(f"project {project} names no folder for exports any more")
    transfer = execution.transfer_of(gateway, study, project)
    (result,) = exporting.export(gateway, [transfer], Path(folder), by="Dagster")
    if result.problem:
        raise RequestRefused(result.problem)
    check = dg.AssetCheckResult(
        passed=not result.partial, check_name=WHOLE_CHECK, metadata={"series_partial": len(result.partial)}
    )
    shown = {
        "files": len(result.files),
        "megabytes": -(-sum(path.stat().st_size for path in result.files) // 1_000_000),
        "series_partial": len(result.partial),
    }
    return StepResult(shown, f"transfer-{transfer.id}-r{transfer.revision}", (check,))
