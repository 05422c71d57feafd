"""The daily asset ``reconciliation``: REDCap, ledger, disk and research PACS against each other.

Belongs here: how Dagster shows the comparison. Stays out: the comparison (``operations.reconciliation``), and
start-up reconciliation of Dagster's own storage (``defs.reconcile``).
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from typing import Any

import dagster as dg

from fiona_dagster.config import project_names
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import Events, hold_run
from fiona_dagster.defs.tables import log_table
from fiona_dagster.operations.reconciliation import Gap, Reconciliation, reconcile
from fiona_dagster.operations.transfer_log import transfer_log

JOB = "reconcile"
CHECK = "gaps_are_young"
UNASSIGNED = "no project"
SHOWN = 500
"""Gaps in one table; `fiona reconcile` has them all."""
NEWEST = 50
"""Transfers of a project in its log; `fiona transfers` has them all."""


def reconciliation_defs(at: str, zone: str) -> tuple[dg.AssetsDefinition, Any, dg.ScheduleDefinition]:
    """The asset with its check, its job and its daily schedule.

    Args:
        at: time of day, ``HH:MM``.
        zone: IANA name of the zone that it is meant in.
    """

    @dg.asset(
        name="reconciliation",
        group_name="operations",
        kinds={"redcap", "dicom"},
        check_specs=[dg.AssetCheckSpec(CHECK, asset="reconciliation")],
        description="Compares REDCap, ledger, disk and research PACS once a day: requested but not received, "
        "received but not requested, delivered but not recorded, counts that differ. One table a project, "
        "each gap with its reason and age, and its newest transfers; the check fails when a gap is older "
        "than `reconciliation.gap_days`. It changes nothing.",
    )
    def reconciliation(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        hold_run(gateway.root, context.run.run_id)
        with gateway.open() as opened:
            found = reconcile(opened)
            logs = {
                project: transfer_log(opened, project, "dagster", NEWEST)
                for project in project_names(gateway.root)
            }
        for problem in found.problems:
            context.log.warning(problem)
        yield _result(found, logs)

    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(reconciliation),
        executor_def=dg.in_process_executor,
        tags={"fiona/kind": "maintenance"},
        description="Compares REDCap, ledger, disk and research PACS.",
    )
    hour, minute = at.split(":")
    schedule = dg.ScheduleDefinition(
        name="reconciliation_daily",
        job=job,
        cron_schedule=f"{int(minute)} {int(hour)} * * *",
        execution_timezone=zone,
        description="Every night: REDCap, ledger, disk and research PACS are compared.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return reconciliation, job, schedule


def _result(found: Reconciliation, logs: dict[str, list[dict[str, Any]]]) -> dg.MaterializeResult[Any]:
    old = found.too_old()
    metadata: dict[str, Any] = {
        "gaps": len(found.gaps),
        "too_old": len(old),
        **{name.replace(" ", "_"): count for name, count in found.checked.items()},
    }
    if found.problems:
        metadata["not_compared"] = dg.MetadataValue.md("\n".join(f"- {each}" for each in found.problems))
    for project, gaps in found.by_project().items():
        metadata[f"gaps: {project or UNASSIGNED}"] = _table(found, gaps)
    for project, rows in logs.items():
        if rows:
            metadata[f"transfer log: {project}"] = log_table(rows)
    check = dg.AssetCheckResult(
        passed=not old and not found.problems,
        check_name=CHECK,
        metadata={
            "too_old": len(old),
            "limit_days": found.limit_days,
            "not_compared": len(found.problems),
        },
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[check])


def _table(found: Reconciliation, gaps: list[Gap]) -> dg.TableMetadataValue:
    rows = [
        dg.TableRecord(
            {
                "study": gap.study,
                "gap": gap.code.replace("_", " "),
                "age_days": round(gap.age_days(found.time), 1),
                "reason": gap.reason,
            }
        )
        for gap in gaps[:SHOWN]
    ]
    columns = [
        dg.TableColumn("study", "string", description="StudyInstanceUID as received"),
        dg.TableColumn("gap", "string"),
        dg.TableColumn("age_days", "float", description="since it began, as far as can be told"),
        dg.TableColumn("reason", "string"),
    ]
    return dg.MetadataValue.table(rows, dg.TableSchema(columns))
