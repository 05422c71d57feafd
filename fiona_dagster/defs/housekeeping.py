"""The job ``maintenance``: hourly reconciliation, retirement of partitions, closing of ghost runs.

Belongs here: what concerns Dagster's own storage. Stays out: reconciliation with REDCap and disk.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.defs.partitions import STUDIES, project_set
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import hold_run, run_is_alive, run_lock_file
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.landing import adopt_orphans
from fiona_dagster.ledger import Study, utc_after, utc_now
from fiona_dagster.transfers import delivery
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.leftovers import remove_leftovers

YOUNG_SECONDS = 300.0
IN_FLIGHT_SECONDS = 900.0
_ENDED = ("delivered", "refused", "withdrawn", "adopted")
UNFINISHED = (
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.CANCELING,
)
GHOST = "the run's process is gone (machine or service went down); its work is asked for again"


def close_ghost_runs(instance: dg.DagsterInstance, root: DataRoot, *, at_start: bool) -> int:
    """Fails runs that Dagster takes for running although no process works on them.

    Args:
        instance: Dagster's storage.
        root: the data root; living runs hold a mark in it.
        at_start: True when no service runs yet: then every unfinished run is a ghost.

    Returns:
        How many were closed. A ghost also frees its places in pools.
    """
    closed = 0
    for record in instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED))):
        run = record.dagster_run
        age = time.time() - record.update_timestamp.timestamp()
        if not at_start and (age < YOUNG_SECONDS or run_is_alive(root, run.run_id)):
            continue
        instance.report_run_failed(run, GHOST)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        closed += 1
    return closed


def forget_run_marks(root: DataRoot) -> None:
    """Removes the marks of runs that are over."""
    folder = run_lock_file(root, "x").parent
    for path in folder.iterdir() if folder.is_dir() else []:
        if not run_is_alive(root, path.name):
            path.unlink(missing_ok=True)


def restore_partitions(instance: dg.DagsterInstance, gateway: Gateway) -> int:
    """Adds keys that the ledger has and Dagster lost (storage deleted, backup restored)."""
    wanted: dict[str, list[str]] = {}
    living = {
        study.study for study in gateway.ledger.receipts.studies(include_retired=False) if study.revision
    }
    wanted[STUDIES] = sorted(living)
    for transfer in gateway.ledger.transfers.all():
        if transfer.study in living and transfer.state not in ("refused", "superseded", "adopted"):
            wanted.setdefault(project_set(transfer.project), []).append(transfer.study)
    added = 0
    for name, keys in wanted.items():
        have = set(instance.get_dynamic_partitions(name))
        missing = sorted(set(keys) - have)
        for start in range(0, len(missing), 500):
            instance.add_dynamic_partitions(name, missing[start : start + 500])
        added += len(missing)
    return added


def retire_studies(instance: dg.DagsterInstance, gateway: Gateway, projects: Sequence[str]) -> int:
    """Takes studies out of the partition sets whose work is finished and whose retention has passed.

    Keys first, the ledger last: killed in between, the next call does it again. A retired study that came
    back for some work (classified again) leaves when that is done.

    Returns:
        How many studies were retired.
    """
    ledger = gateway.ledger
    limit = utc_after(-gateway.settings.retention.partition_days * 86400)
    everywhere = {*projects, *(transfer.project for transfer in ledger.transfers.all())}
    names = (STUDIES, *(project_set(project) for project in sorted(everywhere)))
    keys = {name: set(instance.get_dynamic_partitions(name)) for name in names}

    def leave(study: str) -> None:
        for name in names:
            if study in keys[name]:
                instance.delete_dynamic_partition(name, study)

    living = {study.study: study for study in ledger.receipts.studies(include_retired=False)}
    for uid in set().union(*keys.values()) - living.keys():
        try:
            retired = ledger.receipts.study(uid).retired
        except UnknownStudy:
            continue  # a person added it
        if retired and not ledger.work.open(uid):
            leave(uid)
    finished = [study for study in living.values() if _is_finished(gateway, study, limit)]
    for study in finished:
        leave(study.study)
        ledger.receipts.retire(study.study, utc_now())
    return len(finished)


def _is_finished(gateway: Gateway, study: Study, limit: str) -> bool:
    """Delivered or withdrawn, nothing to do, and nothing happened since ``limit``."""
    transfers = [t for t in gateway.ledger.transfers.all(study.study) if t.state != "superseded"]
    return (
        study.state == "held"
        and any(t.state in ("delivered", "withdrawn", "adopted") for t in transfers)
        and all(t.state in _ENDED and t.changed <= limit for t in transfers)
        and study.last_arrival <= limit
        and not gateway.ledger.work.open(study.study)
    )


def release_lost_work(instance: dg.DagsterInstance, gateway: Gateway) -> int:
    """Work that was requested long ago and that no unfinished run carries is asked for again."""
    released = 0
    for work in gateway.ledger.work.in_flight(IN_FLIGHT_SECONDS):
        unfinished = instance.get_runs(
            dg.RunsFilter(
                tags={"fiona/work": work.key},
                statuses=[*UNFINISHED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED],
            ),
            limit=1,
        )
        if not unfinished:
            gateway.ledger.work.failed(
                work.key, "no run carries this work any more", permanent=False, attempt=work.attempt
            )
            released += 1
    return released


def maintenance_job(projects: Sequence[str]) -> tuple[Any, dg.ScheduleDefinition]:
    """The job and its hourly schedule."""

    @dg.op(
        name="maintain", description="Reconciles Dagster with the ledger; closes ghosts; retires partitions."
    )
    def maintain(context: dg.OpExecutionContext, gateway: GatewayResource) -> None:
        hold_run(gateway.root, context.run.run_id)
        adoptions = [adopt_orphans(tree, thorough=True) for tree in gateway.root.site_trees()]
        with gateway.open() as opened:
            opened.ledger.receipts.read_journals()
            opened.ledger.evidence.read_journals()
            opened.ledger.write_missing_records()
            settled = delivery.settle(opened)
            days = opened.settings.retention.mpps_days
            for problem in settled.problems:
                context.log.warning(f"packages wait: {problem}")
            counts = {
                "files adopted": sum(adoption.adopted for adoption in adoptions),
                "leftovers removed": sum(a.removed for a in adoptions) + remove_leftovers(opened),
                "ghost runs closed": close_ghost_runs(context.instance, gateway.root, at_start=False),
                "finished transfers closed": settled.closed,
                "deliveries to added targets": settled.added,
                "deliveries to removed targets forgotten": settled.forgotten,
                "partitions retired": retire_studies(context.instance, opened, projects),
                "partitions restored": restore_partitions(context.instance, opened),
                "lost work asked for again": release_lost_work(context.instance, opened),
                "performed steps removed": landing.remove_old_steps(gateway.root, days),
            }
        forget_run_marks(gateway.root)
        context.add_output_metadata(dict(counts))
        context.log.info(", ".join(f"{key}: {value}" for key, value in counts.items()))

    @dg.job(
        name="maintenance",
        executor_def=dg.in_process_executor,
        tags={"fiona/kind": "maintenance"},
        description="Reconciles Dagster's storage with the ledger, closes ghost runs, retires partitions.",
    )
    def maintenance() -> None:
        maintain()

    schedule = dg.ScheduleDefinition(
        name="maintenance_hourly",
        job=maintenance,
        cron_schedule="7 * * * *",
        description="Every hour: Dagster's storage is brought in line with the ledger.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return maintenance, schedule
