"""Intake: the assets of ``process_study``, from received files to a study held in REDCap's *Incoming*.

Belongs here: names, groups, descriptions and metadata of the intake assets. Stays out: what they do
(``transfers.intake``, ``studies``).
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from collections.abc import Sequence
from typing import Any

import dagster as dg

from fiona_dagster import studies as domain
from fiona_dagster.defs.partitions import studies
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import Events, StepResult, run_studies
from fiona_dagster.transfers import completion, intake
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.digests import take_digests

GROUP = "intake"
BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
JOB = "process_study"


def _failed(gateway: Gateway, study: str, message: str, permanent: bool) -> None:
    intake.failed(gateway, study, message, permanent=permanent)


def _study_files(gateway: Gateway, study: str) -> StepResult:
    with intake.study_lock(gateway, study):
        found = intake.ensure_revision(gateway, study)
        _, contents = intake.read_contents(gateway, study)
        digests = take_digests(gateway, study)
    return StepResult(
        {
            "instances": contents.instance_count,
            "series": len(contents.series),
            "bytes": contents.byte_count,
            "damaged": len(contents.damage),
            "conflicts": found.conflicts,
            "digests": digests,
            "revision": found.revision,
            **_completeness(gateway, study),
        },
        contents.digest,
    )


def _completeness(gateway: Gateway, study: str) -> dict[str, Any]:
    """Why the study counts as complete or not, and what changed since its last revision."""
    judged = gateway.ledger.evidence.completion(study)
    added = gateway.ledger.receipts.added(study)
    said: dict[str, Any] = {"completeness": completion.describe(judged), "instances_added": added}
    if judged is not None:
        said["completeness_reasons"] = dg.MetadataValue.md("\n".join(f"- {why}" for why in judged.reasons))
        said["instances_expected"] = "unknown" if judged.expected is None else judged.expected
        said["instances_missing"] = judged.missing
    return said


def _study_classification(gateway: Gateway, study: str) -> StepResult:
    with intake.study_lock(gateway, study):
        done = intake.process(gateway, study)
    return StepResult(
        {
            "series": len(done.records),
            "instances": done.contents.instance_count,
            "series_without_type": sum(not record["ClassifyType"] for record in done.records.values()),
            "types": _series_table(done.records),
            "rules_digest": done.rules_digest[:12],
            "rules_problem": done.rules_problem or "none",
        },
        f"{done.contents.digest[:16]}-{done.rules_digest[:16]}",
    )


def _study_record(gateway: Gateway, study: str) -> StepResult:
    with intake.study_lock(gateway, study):
        done = intake.process(gateway, study)
        domain.write_raw_tree(gateway.root.of_site(done.study.site), done.contents, done.records)
    return StepResult(
        {
            "records": len(done.records),
            "links": done.contents.instance_count,
            "flags": ", ".join(done.flags) or "none",
        },
        f"{done.contents.digest[:16]}-{done.rules_digest[:16]}",
    )


def _incoming_record(gateway: Gateway, study: str) -> StepResult:
    with intake.study_lock(gateway, study):
        done = intake.register(gateway, study)
    return StepResult(
        {
            "series": len(done.records),
            "instances": done.contents.instance_count,
            "state": "flagged" if done.flags else "held",
            "flags": ", ".join(done.flags) or "none",
            "revision": done.study.revision,
        },
        f"{done.contents.digest[:16]}-r{done.study.revision}",
    )


def _series_table(records: dict[str, dict[str, Any]]) -> dg.TableMetadataValue:
    """A row a series in the order of their numbers; no texts that people typed."""

    def place(entry: tuple[str, dict[str, Any]]) -> tuple[bool, int, str]:
        number = str(entry[1].get("SeriesNumber", ""))
        return (not number.isdecimal(), int(number) if number.isdecimal() else 0, entry[0])

    rows = [
        dg.TableRecord(
            {
                "series": str(record.get("SeriesNumber", "")) if not unnumbered else "-",
                "modality": str(record.get("Modality", "")),
                "instances": int(record["NumFiles"]),
                "types": ", ".join(record["ClassifyType"]) or "-",
            }
        )
        for (unnumbered, _, _), record in sorted(
            ((place(entry), entry[1]) for entry in records.items()), key=lambda found: found[0]
        )
    ]
    columns = [
        dg.TableColumn("series", "string", description="SeriesNumber"),
        dg.TableColumn("modality", "string", description="Modality"),
        dg.TableColumn("instances", "int", description="NumFiles of the series record"),
        dg.TableColumn(
            "types", "string", description="ClassifyType: the types that classifyRules.json gives"
        ),
    ]
    return dg.MetadataValue.table(rows, dg.TableSchema(columns))


def intake_assets(rules_digest: str) -> Sequence[dg.AssetsDefinition]:
    """The four intake assets; the digest of the rules in force is the code version of what they decide."""
    common: dict[str, Any] = {"partitions_def": studies, "group_name": GROUP, "backfill_policy": BACKFILL}

    @dg.asset(kinds={"dicom"}, **common)
    def study_files(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """The received files of a study: every header read once, every instance accounted for.

        Fails when an acknowledged instance is not in `site/archive` any more. `completeness` says why the
        study was taken for complete.
        """
        yield from run_studies(context, gateway, _study_files, _failed, intake.reclassify)

    @dg.asset(deps=[study_files], code_version=rules_digest[:16], kinds={"dicom"}, **common)
    def study_classification(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """Types of each series after `config/classifyRules.json`.

        The code version is the digest of the rules in force: after a change of the rules it shows which
        studies are out of date; the job `reclassify_stale` processes exactly these and shows them here.
        """
        yield from run_studies(context, gateway, _study_classification, _failed, intake.reclassify)

    @dg.asset(deps=[study_classification], kinds={"json"}, **common)
    def study_record(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """`site/raw/<Study>/<Series>.json`, the links beside it, and the participants tree.

        `flags` names what a person has to decide before the study can be assigned to a project.
        """
        yield from run_studies(context, gateway, _study_record, _failed, intake.reclassify)

    @dg.asset(deps=[study_record], kinds={"redcap"}, pool="redcap", **common)
    def incoming_record(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """The study's record in REDCap's project *Incoming*.

        From here on the study is *held* until a transfer request assigns it to a project. When REDCap gives
        no answer the step is tried again by itself.
        """
        yield from run_studies(context, gateway, _incoming_record, _failed)

    return [study_files, study_classification, study_record, incoming_record]


def intake_job(assets: Sequence[dg.AssetsDefinition]) -> Any:
    """``process_study``."""
    return dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets(*assets),
        description="Reads, classifies, organises and registers one study (partition = StudyInstanceUID).",
        executor_def=dg.in_process_executor,
        tags={"fiona/kind": "process"},
    )
