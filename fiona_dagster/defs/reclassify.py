"""The job ``reclassify_stale``: a backfill of exactly the studies that a rule change affects.

Belongs here: turning the ledger's answer into a backfill. Stays out: the answer (``transfers.intake``).
A backfill is put into Dagster's storage by classes of Dagster that it calls internal (decision 26); only this
module knows them.
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id
from pydantic import Field

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.partitions import STUDIES
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import hold_run
from fiona_dagster.ledger import Study
from fiona_dagster.transfers import intake

JOB = "reclassify_stale"
KIND = "reclassify"
ASSETS = tuple(dg.AssetKey(name) for name in ("study_classification", "study_record", "incoming_record"))
SHOWN = 500
"""Studies in the table on study_classification; the backfill holds them all."""


def start_backfill(instance: dg.DagsterInstance, studies: Sequence[str]) -> tuple[str, list[str]]:
    """Starts the backfill of these studies; the daemon launches its runs, now or when it runs again.

    Args:
        instance: Dagster's storage.
        studies: StudyInstanceUIDs; those that a living backfill of this kind holds already are left out.

    Returns:
        The backfill's id, ``""`` if nothing was left to do, and the studies that it holds.
    """
    waiting = _waiting(instance)
    chosen = [study for study in dict.fromkeys(studies) if study not in waiting]
    if not chosen:
        return "", []
    known = set(instance.get_dynamic_partitions(STUDIES))
    missing = [study for study in chosen if study not in known]
    for start in range(0, len(missing), 500):
        instance.add_dynamic_partitions(STUDIES, missing[start : start + 500])
    backfill = make_new_backfill_id()
    subset = DefaultPartitionsSubset(set(chosen))
    graph = AssetGraphSubset(dict.fromkeys(ASSETS, subset), set())  # type: ignore[call-arg] # its decorator hides it
    instance.add_backfill(
        PartitionBackfill.from_asset_graph_subset(
            backfill_id=backfill,
            backfill_timestamp=time.time(),
            tags={"fiona/kind": KIND},
            dynamic_partitions_store=instance,
            asset_graph_subset=graph,
            title="Classify again",
            description=f"{len(chosen)} studies, by the rules in force",
            run_config=None,
        )
    )
    return backfill, chosen


def _waiting(instance: dg.DagsterInstance) -> set[str]:
    """Studies of living backfills of this kind that no run was asked for yet: they get the rules in force."""
    found: set[str] = set()
    for backfill in instance.get_backfills(BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        data = backfill.asset_backfill_data
        if backfill.tags.get("fiona/kind") != KIND or data is None:
            continue
        begun = data.requested_subset | data.materialized_subset | data.failed_and_downstream_subset
        found |= _studies(data.target_subset) - _studies(begun)
    return found


def _studies(subset: AssetGraphSubset) -> set[str]:
    of_first = subset.partitions_subsets_by_asset_key.get(ASSETS[0])
    return set(of_first.get_partition_keys()) if of_first else set()


def reclassify_by_command(root: DataRoot, studies: Sequence[str]) -> tuple[str, list[str]]:
    """:func:`start_backfill` on a data root's own Dagster; no service has to run."""
    with dg.DagsterInstance.from_config(str(root.dagster_home)) as instance:
        return start_backfill(instance, studies)


class Chosen(dg.Config):
    """Which studies are classified again."""

    studies: list[str] = Field(
        default=[], description="StudyInstanceUIDs; empty: every study that other rules classified last."
    )


def reclassify_job() -> Any:
    """``reclassify_stale``."""

    @dg.op(
        name="start_reclassification",
        description="Asks the ledger which studies other rules classified last; starts their backfill.",
    )
    def start_reclassification(
        context: dg.OpExecutionContext, config: Chosen, gateway: GatewayResource
    ) -> None:
        hold_run(gateway.root, context.run.run_id)
        with gateway.open() as opened:
            affected = intake.to_reclassify(opened, config.studies or None)
            digest = intake.rules_digest(opened)
        backfill, started = start_backfill(context.instance, [study.study for study in affected])
        metadata: dict[str, Any] = {
            "studies": len(affected),
            "started": len(started),
            "backfill": backfill or "none",
            "rules": digest[:12],
            "affected": _table(affected),
        }
        context.log_event(dg.AssetObservation(ASSETS[0], metadata=metadata))
        context.add_output_metadata(metadata)
        context.log.info(
            f"{len(affected)} studies to classify again, {len(started)} started"
            + (f" by backfill {backfill}" if backfill else "")
        )

    @dg.job(
        name=JOB,
        executor_def=dg.in_process_executor,
        tags={"fiona/kind": KIND},
        description="Starts the backfill of exactly the studies that other rules classified last.",
    )
    def reclassify_stale() -> None:
        start_reclassification()

    return reclassify_stale


def _table(studies: Sequence[Study]) -> dg.TableMetadataValue:
    """The studies with the rules that classified them last."""
    rows = [
        dg.TableRecord(
            {
                "study": study.study,
                "series": len(study.summary.get("series", [])),
                "rules": str(study.summary.get("rules", ""))[:12] or "-",
            }
        )
        for study in studies[:SHOWN]
    ]
    columns = [
        dg.TableColumn("study", "string", description="StudyInstanceUID"),
        dg.TableColumn("series", "int", description="series of its last classification"),
        dg.TableColumn("rules", "string", description="digest of the rules that classified it last"),
    ]
    return dg.MetadataValue.table(rows, dg.TableSchema(columns))
