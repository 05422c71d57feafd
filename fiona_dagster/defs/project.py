"""A project's assets and jobs, made by a factory from its configuration.

Belongs here: names, groups and metadata of what a project shows in Dagster. Stays out: de-identification,
the gate, packaging and sending (``transfers``).
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from fiona_dagster.config import ProjectSettings, Target
from fiona_dagster.defs.partitions import project_studies
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.steps import Events, StepResult, run_studies
from fiona_dagster.defs.tables import actions_table, kinds_table, log_table, rules_table, tags_table
from fiona_dagster.errors import ReleaseAwaited
from fiona_dagster.ledger import Package, Transfer, describe_review, work_key
from fiona_dagster.operations.transfer_log import rounded_megabytes, transfer_log
from fiona_dagster.transfers import delivery, execution, outcome, packing, release
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.intake import study_lock
from fiona_dagster.transfers.package import read_manifest
from fiona_dagster.transfers.targets import Proof, ProofKind
from fiona_dagster.transfers.targets.kept import connections_kept

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=50)
RESIDUAL_CHECK = "residual_identifiers"


def transfer_job_name(project: str) -> str:
    """De-identify, verify, package."""
    return f"transfer_{project}"


def deliver_job_name(project: str) -> str:
    """One asset a target, and the write-back to REDCap."""
    return f"deliver_{project}"


def target_key(project: str, target: str) -> dg.AssetKey:
    """Asset of one target of a project."""
    return dg.AssetKey([project, "deliveries", target])


def package_key(project: str) -> dg.AssetKey:
    """Asset of a project's packages."""
    return dg.AssetKey([project, "package"])


def status_key(project: str) -> dg.AssetKey:
    """Asset of the write-back to REDCap."""
    return dg.AssetKey([project, "transfer_status"])


def _identity(*keys: dg.AssetKey | str) -> list[dg.AssetDep]:
    """Dependencies on the same study; written out, since the partition sets differ by name."""
    return [dg.AssetDep(key, partition_mapping=dg.IdentityPartitionMapping()) for key in keys]


class ProjectFactory:
    """Makes the assets of one project.

    Args:
        project: its settings in force.
        targets: the configured end-points by name.
    """

    def __init__(self, project: ProjectSettings, targets: Mapping[str, Target]) -> None:
        self.project = project
        self._targets = targets
        self.name = project.name
        self._run = ""
        self._taken: dict[str, Transfer] = {}
        self._common: dict[str, Any] = {
            "partitions_def": project_studies(project.name),
            "group_name": project.name,
            "backfill_policy": BACKFILL,
        }

    def _begin(self, context: dg.AssetExecutionContext) -> None:
        """A run works on the transfers that its first step took; another run may find newer ones."""
        if self._run != context.run.run_id:
            self._run = context.run.run_id
            self._taken.clear()

    def _take(self, gateway: Gateway, study: str) -> Transfer:
        """The transfer that this run works on.

        Raises:
            RequestRefused: nobody asked for it.
            Superseded: another one took its place since this run began; it has a run of its own.
        """
        if study in self._taken:
            gateway.ledger.transfers.require_current(self._taken[study])
        self._taken[study] = execution.transfer_of(gateway, study, self.name)
        return self._taken[study]

    def _of_failure(self, gateway: Gateway, study: str) -> Transfer | None:
        """Whose failure it is: what the run works on, or, if it got no further, what it was to work on."""
        return self._taken.get(study) or gateway.ledger.transfers.current(study, self.name)

    def _transfer_failed(self, gateway: Gateway, study: str, message: str, permanent: bool) -> None:
        transfer = self._of_failure(gateway, study)
        if transfer is not None:
            execution.failed(gateway, transfer, message, permanent=permanent)

    def transfer_assets(self) -> list[dg.AssetsDefinition]:
        """``deidentified``, ``verification``, ``package``."""
        prefix = [self.name]

        @dg.asset(
            name="deidentified",
            key_prefix=prefix,
            deps=_identity("study_record"),
            kinds={"dicom"},
            description="De-identified working copy of the study by this project's rules "
            "(PS3.15 Basic Profile and the project's options). `held_back` counts objects of kinds that may "
            "show identity; the project's `allow_kinds` lets them pass. Partial is failure: nothing is kept.",
            **self._common,
        )
        def deidentified(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
            self._begin(context)
            yield from run_studies(context, gateway, self._deidentified, self._transfer_failed)

        @dg.asset(
            name="verification",
            key_prefix=prefix,
            deps=_identity(deidentified.key),
            kinds={"dicom"},
            check_specs=[dg.AssetCheckSpec(RESIDUAL_CHECK, asset=dg.AssetKey([self.name, "verification"]))],
            description="Reads the working copy again and searches all of it for what identified the person. "
            "Its record in the ledger is the gate: packaging and every delivery refuse other bytes. Fails "
            "with tag and rule of each finding, never with the value.",
            **self._common,
        )
        def verification(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
            self._begin(context)
            yield from run_studies(context, gateway, self._verification, self._transfer_failed)

        @dg.asset(
            name="package",
            key_prefix=prefix,
            deps=_identity(verification.key),
            kinds={"zip"},
            output_required=False,
            description="One ZIP with manifest, report and checksums, made from verified bytes only. It "
            "waits in `outbox/` until every target is proven to have it, then it moves to `DAIC/`. Not made "
            "while the verified copy waits for a person (`fiona release`); a release launches this step.",
            **self._common,
        )
        def package(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
            self._begin(context)
            yield from run_studies(context, gateway, self._package, self._transfer_failed)

        return [deidentified, verification, package]

    def delivery_assets(self) -> list[dg.AssetsDefinition]:
        """An asset for each target, and ``transfer_status``."""
        targets = [self._delivery_asset(target) for target in self.project.targets]
        return [*targets, self._status_asset([target.key for target in targets])]

    def _delivery_asset(self, target: str) -> dg.AssetsDefinition:
        def failed(gateway: Gateway, study: str, message: str, permanent: bool) -> None:
            transfer = self._of_failure(gateway, study)
            if transfer is not None:
                delivery.failed(gateway, transfer, target, message, permanent=permanent)

        def body(gateway: Gateway, study: str) -> StepResult:
            with study_lock(gateway, study):
                transfer = self._take(gateway, study)
                proof, package = delivery.deliver(gateway, transfer, target)
            return StepResult(_delivery_metadata(proof, package, transfer), _name_of(transfer))

        configured = self._targets.get(target)

        @dg.asset(
            name=target,
            key_prefix=[self.name, "deliveries"],
            deps=_identity(dg.AssetKey([self.name, "package"])),
            kinds={configured.kind} if configured else set(),
            pool=f"target_{target}",
            description=f"Delivery to {target}, with proof of receipt. What was proven is never sent twice; "
            "an unreachable target is tried again by itself, a refusal waits for a person.",
            **self._common,
        )
        def delivered(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
            self._begin(context)
            with connections_kept():
                yield from run_studies(context, gateway, body, failed)

        asset: dg.AssetsDefinition = delivered
        return asset

    def _status_asset(self, targets: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
        def failed(gateway: Gateway, study: str, message: str, permanent: bool) -> None:
            gateway.ledger.work.failed(work_key("status", study, self.name), message, permanent=permanent)

        def body(gateway: Gateway, study: str) -> StepResult:
            written = outcome.write_outcomes(gateway, study, self.name)
            # Those of other studies stand in the reconciliation: an erasure takes events that name one.
            log = transfer_log(gateway, self.name, "dagster", study=study)
            state = written[-1].state if written else "open"
            return StepResult({"requests": len(written), "state": state, "transfer_log": log_table(log)})

        @dg.asset(
            name="transfer_status",
            key_prefix=[self.name],
            deps=_identity(*targets),
            kinds={"redcap"},
            pool="redcap",
            description="What became of the request, written into its record in REDCap from the ledger.",
            **self._common,
        )
        def transfer_status(context: dg.AssetExecutionContext, gateway: GatewayResource) -> Events:
            yield from run_studies(context, gateway, body, failed)

        asset: dg.AssetsDefinition = transfer_status
        return asset

    # -- the steps ------------------------------------------------------------------------------

    def _deidentified(self, gateway: Gateway, study: str) -> StepResult:
        with study_lock(gateway, study):
            transfer = self._take(gateway, study)
            copy = execution.deidentify(gateway, transfer)
        return StepResult(
            {
                "instances": copy.instances,
                "held_back": sum(copy.held.values()),
                "left_out": copy.left_out,
                "elements_changed": sum(
                    count for action, count in copy.report["actions"].items() if action != "K"
                ),
                "actions": actions_table(copy.report["actions"]),
                "tags": tags_table(copy.report),
                "rules": rules_table(copy.report),
                "revision": transfer.revision,
                "generation": transfer.generation,
            },
            f"r{transfer.revision}-g{transfer.generation}",
        )

    def _verification(self, gateway: Gateway, study: str) -> StepResult:
        with study_lock(gateway, study):
            transfer = self._take(gateway, study)
            verified = execution.verify(gateway, transfer)
        check = dg.AssetCheckResult(
            passed=verified.passed,
            check_name=RESIDUAL_CHECK,
            metadata={
                "files": len(verified.files),
                "findings": len(verified.findings),
                "weak_hits": len(verified.warnings),
            },
        )
        shown = {
            "files": len(verified.files),
            "findings": len(verified.findings),
            "weak_hits": len(verified.warnings),
            "weak_hits_by_kind": kinds_table(verified.warnings_by_kind(), "hits"),
            "terms_searched": sum(verified.searched.values()),
            "searched": kinds_table(verified.searched, "terms"),
            "release": _release_of(gateway, transfer),
        }
        return StepResult(shown, _name_of(transfer), (check,))

    def _package(self, gateway: Gateway, study: str) -> StepResult:
        with study_lock(gateway, study):
            transfer = self._take(gateway, study)
            try:
                package = packing.make_package(gateway, transfer)
            except ReleaseAwaited as awaited:
                release.wait(gateway, transfer, str(awaited))
                return StepResult(waits=str(awaited))
        return StepResult(
            {
                "package": _name_of(transfer),
                "instances": package.instances,
                "megabytes": rounded_megabytes(package.size),
                "targets": len(self.project.targets),
                **_images(gateway, package),
            },
            _name_of(transfer),
        )

    # -- jobs -----------------------------------------------------------------------------------

    def jobs(
        self, transfer: Sequence[dg.AssetsDefinition], deliver: Sequence[dg.AssetsDefinition]
    ) -> list[Any]:
        """``transfer_<PROJECT>`` and ``deliver_<PROJECT>``."""
        return [
            dg.define_asset_job(
                transfer_job_name(self.name),
                selection=dg.AssetSelection.assets(*transfer),
                description=f"De-identifies, verifies and packages one requested study for {self.name}.",
                executor_def=dg.in_process_executor,
                tags={"fiona/kind": "transfer", "fiona/project": self.name},
            ),
            dg.define_asset_job(
                deliver_job_name(self.name),
                selection=dg.AssetSelection.assets(*deliver),
                description=f"Delivers a package of {self.name} to its targets and tells REDCap.",
                executor_def=dg.in_process_executor,
                tags={"fiona/kind": "deliver", "fiona/project": self.name},
            ),
        ]


def _name_of(transfer: Transfer) -> str:
    """How Dagster calls what a transfer made: by the ledger's number, never by a digest.

    Recipients have the digests of a package and of its files, with a participant beside them: beside the
    original StudyInstanceUID they would make Dagster's storage a re-identification table. ``fiona status
    STUDY`` has them.
    """
    return f"transfer-{transfer.id}-r{transfer.revision}"


def _release_of(gateway: Gateway, transfer: Transfer) -> str:
    """Whether a person has to look at a verified copy before it leaves."""
    review = gateway.ledger.releases.review(transfer)
    if review is None or not review.asked:
        return "automatic"
    if review.waits:
        return f"waits for a person: {describe_review(review.reasons)}"
    return review.decision or "automatic, since enough studies were released"


def _images(gateway: Gateway, package: Package) -> dict[str, Any]:
    """How many series are not whole as NIfTI, where the project wants images."""
    manifest = read_manifest(gateway.root.path / package.path)
    if "nifti_partial" not in manifest:
        return {}
    return {"series_partial_as_nifti": len(manifest["nifti_partial"])}


_PROOFS: dict[ProofKind, str] = {
    "sftp-readback": "every byte was read back from the server and compared",
    "sftp-digest": "the server took the digest of the package and it is right",
    "sftp-md5sum-server": "the server's own checksum file (md5sum_server) is right",
    "folder-readback": "every byte was read back from the folder and compared",
    "s3-checksum": "the server's own SHA-256 of every part is right",
    "s3-readback": "every byte was read back from the bucket and compared",
    "agreement": "delivered, unproven by agreement (a write-only drop box)",
    "dicom-commitment": "the research PACS promised to keep every instance safe (storage commitment)",
    "dicom-find": "the research PACS found every instance by its UID (C-FIND)",
    "dicom-find-count": "the research PACS counts as many instances as were sent (C-FIND)",
    "dicom-compare": "every instance was retrieved from the research PACS and compared",
    "qido-instances": "the DICOMweb server found every instance by its UID (QIDO-RS)",
    "wado-compare": "every instance was retrieved from the DICOMweb server and compared",
}


def _delivery_metadata(proof: Proof | None, package: Package, transfer: Transfer) -> dict[str, Any]:
    """Kind, counts, time and digests of the proof; no remote path, participant, event or mapped UID."""
    shown: dict[str, Any] = {
        "package": _name_of(transfer),
        "megabytes": rounded_megabytes(package.size),
        "sent": proof is not None,
    }
    if proof is None:
        return {**shown, "proof": "proven before; nothing was sent"}
    counts = {f"proven_{name}": count for name, count in proof.counts.items() if name != "bytes"}
    return {
        **shown,
        "proof": f"{proof.kind}: {_PROOFS[proof.kind]}",
        "proven_digests": ", ".join(f"{name} {digest}" for name, digest in sorted(proof.digests.items()))
        or "none",
        "proven_at": dg.MetadataValue.timestamp(datetime.fromisoformat(proof.time)),
        **counts,
    }
