"""Intake: the assets of ``process_study``, from received files to a study held in REDCap's *Incoming*.

Belongs here: names, groups, descriptions and metadata of the intake assets. Stays out: what they do
(``transfers.intake``, ``studies``).
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from fiona_dagster import studies as domain
from fiona_dagster.defs.partitions import studies
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import Events, StepResult, run_studies
from fiona_dagster.errors import FionaError
from fiona_dagster.transfers import completion, intake
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.digests import take_digests

GROUP = "intake"
BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
JOB = "process_study"
COHERENCE_CHECK = "series_belong_together"


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
        done = intake.organise(gateway, study)
    problems = domain.series_problems(done.contents)
    return StepResult(
        {
            "records": len(done.records),
            "instances": sum(len(instances) for instances in done.contents.series.values()),
            "bytes": done.contents.byte_count,
            "series": _series_table(done.records, _series_bytes(done.contents)),
            "problems": _problem_lines(problems, done.records) if problems else "none",
            "flags": ", ".join(done.flags) or "none",
        },
        f"{done.contents.digest[:16]}-{done.rules_digest[:16]}",
        (_coherence(problems, done.records),),
    )


def _series_bytes(contents: domain.StudyContents) -> dict[str, int]:
    return {series: sum(header.size for header in instances) for series, instances in contents.series.items()}


def _problem_lines(
    problems: Mapping[str, Sequence[str]], records: Mapping[str, Mapping[str, Any]]
) -> dg.MarkdownMetadataValue:
    lines = [
        f"- series {_series_number(records[series])[2]}: "
        + "; ".join(domain.PROBLEMS[code] for code in codes)
        for series, codes in problems.items()
    ]
    return dg.MetadataValue.md("\n".join(lines))


def _coherence(
    problems: Mapping[str, Sequence[str]], records: Mapping[str, Mapping[str, Any]]
) -> dg.AssetCheckResult:
    """Which series hold instances that can't belong together, and why; codes and numbers only."""
    reasons = Counter(code for codes in problems.values() for code in codes)
    metadata: dict[str, Any] = {"series_with_problems": len(problems), **reasons}
    if problems:
        metadata["series"] = _problem_lines(problems, records)
    return dg.AssetCheckResult(
        check_name=COHERENCE_CHECK,
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=metadata,
        description=f"{len(problems)} series hold instances that can't belong together" if problems else None,
    )


class _Registering:
    """Reads study by study, and registers all studies of a run together: a backfill costs few calls."""

    def __init__(self) -> None:
        self._prepared: dict[str, intake.Prepared] = {}

    def body(self, gateway: Gateway, study: str) -> StepResult:
        with intake.study_lock(gateway, study):
            done = intake.process(gateway, study)
            self._prepared[study] = intake.prepare(gateway, done)
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

    def finish(self, gateway: Gateway, names: list[str]) -> Mapping[str, FionaError]:
        return intake.commit(gateway, [self._prepared[name] for name in names])


def _series_number(record: Mapping[str, Any]) -> tuple[bool, int, str]:
    """To sort by, and how it is shown; what is no number is not shown."""
    text = domain.shown_number(record)
    return (False, int(text), text) if text else (True, 0, "-")


def _series_table(
    records: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int] | None = None
) -> dg.TableMetadataValue:
    """A row a series in the order of their numbers; no texts that people typed."""
    rows = []
    for series, record in sorted(records.items(), key=lambda entry: (_series_number(entry[1]), entry[0])):
        row: dict[str, str | int] = {
            "series": _series_number(record)[2],
            "modality": domain.shown_modality(record) or "-",
            "instances": int(record["NumFiles"]),
            "types": ", ".join(record["ClassifyType"]) or "-",
        }
        if sizes is not None:
            row["bytes"] = sizes[series]
        rows.append(dg.TableRecord(row))
    columns = [
        dg.TableColumn("series", "string", description="SeriesNumber"),
        dg.TableColumn("modality", "string", description="Modality"),
        dg.TableColumn("instances", "int", description="NumFiles of the series record"),
        dg.TableColumn(
            "types", "string", description="ClassifyType: the types that classifyRules.json gives"
        ),
    ]
    if sizes is not None:
        columns.append(dg.TableColumn("bytes", "int", description="size of the archived files"))
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

    @dg.asset(
        deps=[study_classification],
        kinds={"json"},
        check_specs=[
            dg.AssetCheckSpec(
                COHERENCE_CHECK,
                asset="study_record",
                description="Instances of one series have one patient, one frame of reference and one "
                "matrix in a volume. Holds nothing up; two patients are a flag of the study as well.",
            )
        ],
        **common,
    )
    def study_record(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """`site/raw/<Study>/<Series>.json`, the links beside it, and the participants tree.

        `series` lists number, modality, instances, size and types. `problems` names series whose instances
        can't belong together (the check shows the last study only), `flags` names what a person has to decide
        before the study can be assigned to a project.
        """
        yield from run_studies(context, gateway, _study_record, _failed, intake.reclassify)

    @dg.asset(deps=[study_record], kinds={"redcap"}, pool="redcap", **common)
    def incoming_record(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
        """The study's record in REDCap's project *Incoming*.

        From here on the study is *held* until a transfer request assigns it to a project. When REDCap gives
        no answer the step is tried again by itself.
        """
        registering = _Registering()
        yield from run_studies(context, gateway, registering.body, _failed, finish=registering.finish)

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
