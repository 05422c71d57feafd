"""The steps of a transfer: de-identify, verify, package. Each is idempotent and stands behind the gate.

A step may be run again at any time, by a retry or by a person: it replaces its own output, and what was
delivered is never undone by it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiona_dagster.config import ProjectSettings
from fiona_dagster.errors import (
    Busy,
    CopyLost,
    NotVerified,
    PermanentError,
    RequestRefused,
    ResidualIdentifier,
    Superseded,
)
from fiona_dagster.ledger import Transfer, work_key
from fiona_dagster.transfers import derived
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.digests import check_digests
from fiona_dagster.transfers.left_out import hold_back, named, not_sent
from fiona_dagster.transfers.release import reasons_for_review
from fiona_dagster.transfers.rules import require_project, require_site, rules_digest, settings_of
from fiona_dagster.transfers.signature import SigningKey

if TYPE_CHECKING:  # imported when called: every run is a new process, and most need no pydicom
    from fiona_dagster import deid


_PROCESS = uuid.uuid4().hex


def transfer_of(gateway: Gateway, study: str, project: str) -> Transfer:
    """The transfer that counts for a study and project.

    Raises:
        RequestRefused: nobody asked for it.
    """
    transfer = gateway.ledger.transfers.current(study, project)
    if transfer is None:
        stopped = gateway.ledger.transfers.stopped(study, project)
        if stopped is not None:
            raise RequestRefused(f"study {study}, project {project}: {stopped.reason}")
        raise RequestRefused(
            f"no transfer of study {study} to project {project} was requested; "
            f"`fiona assign {study} --project {project} ...` requests one"
        )
    return transfer


def working_copy(gateway: Gateway, transfer: Transfer) -> Path:
    """Folder of the de-identified files of the pinned revision."""
    return gateway.root.projects / transfer.project / f"transfer-{transfer.id}-r{transfer.revision}"


def deidentifier_of(gateway: Gateway, transfer: Transfer) -> deid.Deidentifier:
    """Rules, key and identities that a transfer's copy is made with.

    Raises:
        KeyMismatch: the project's key is missing or another one than before.
    """
    from fiona_dagster import deid

    project = gateway.project(transfer.project)
    key = project_key(gateway, transfer.project)
    site = gateway.ledger.receipts.study(transfer.study).site or gateway.settings.DICOMAETITLE
    assignment = deid.Assignment(transfer.project, transfer.participant, transfer.event, site)
    source = derived.source_of(gateway, transfer.study)
    identities = None if source is None else derived.identities_of(gateway, source, key)
    return deid.Deidentifier(project, key, assignment, transfer.generation, identities)


def project_key(gateway: Gateway, project: str) -> deid.ProjectKey:
    """The project's key, checked against the fingerprint of its first use; made at the first use.

    Raises:
        KeyMismatch: missing though it should be there, or another one than before.
    """
    from fiona_dagster import deid

    return deid.project_key(
        gateway.root,
        project,
        recorded=gateway.ledger.key_fingerprint,
        record=gateway.ledger.record_key_fingerprint,
        make=True,
    )


def signing_key(gateway: Gateway, project: str) -> SigningKey:
    """The key that signs the packages of a project, checked against the fingerprint of its first use.

    Raises:
        KeyMismatch: missing though it should be there, or another one than before.
    """
    return SigningKey(project_key(gateway, project).secret)


@dataclass(frozen=True)
class _Original:
    SOPInstanceUID: str
    path: Path


def sources(gateway: Gateway, transfer: Transfer) -> list[_Original]:
    """Archived originals of exactly the pinned revision.

    Raises:
        RequestRefused: the study is flagged, or counts at a site that belongs to another project now.
        Busy: it has new images.
    """
    study = gateway.ledger.receipts.study(transfer.study)
    require_site(study, transfer.project)
    if study.flags:
        raise RequestRefused(
            f"study {transfer.study} is flagged ({', '.join(study.flags)}); "
            "nothing leaves until a person decides"
        )
    if study.open or study.revision != transfer.revision:
        raise Busy(
            f"study {transfer.study} has new images; the transfer goes on when they are processed "
            f"(revision {study.revision}, the transfer holds {transfer.revision})"
        )
    rows = gateway.ledger.receipts.instances(transfer.study)
    source = derived.source_of(gateway, transfer.study)
    if source is not None:  # what is there besides the copies that were delivered already
        mapped = derived.mapped_of(gateway, source, project_key(gateway, transfer.project))
        rows = [row for row in rows if row["sop_instance"] not in mapped.instances]
        if not rows:
            raise RequestRefused(f"study {transfer.study}: nothing came back but copies that were delivered")
    return [_Original(row["sop_instance"], gateway.root.path / row["path"]) for row in rows]


@dataclass(frozen=True)
class WorkingCopy:
    """What the de-identification of a transfer left behind; nothing identifying in it."""

    instances: int
    held: dict[str, int]
    """Kind of object -> how many were held back, since what they show can't be cleaned yet."""
    left_out: int
    """Instances that can't be de-identified, if the project goes on without them."""
    report: dict[str, Any]


def _report_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.report.json")


def _machine_start() -> str:
    """Names the time since the machine started, or, where the system has no name for it, this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return _PROCESS


def made_since_start(gateway: Gateway, transfer: Transfer) -> bool:
    """Whether there is a working copy of which no power loss can have taken a byte, flushed or not."""
    folder = working_copy(gateway, transfer)
    return folder.is_dir() and _made(folder).get("machine_start") == _machine_start()


def _made(folder: Path) -> dict[str, Any]:
    """What is said about a working copy; nothing where that was lost."""
    try:
        made = json.loads(_report_file(folder).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def deidentify(gateway: Gateway, transfer: Transfer) -> WorkingCopy:
    """Writes the de-identified working copy of a transfer.

    Objects of kinds that may carry text in their pixels, and documents, are held back unless the project
    allows that kind; the report lists them. So are instances that can't be processed, if the project says
    ``leave_out``.

    Raises:
        RequestRefused: the project is not active any more, or has other participants or events now.
        PermanentError: an instance could not be processed, or nothing is left to be sent. Partial is
            failure: nothing is kept.
    """
    from fiona_dagster import deid

    project = require_project(gateway, transfer)
    rules = rules_digest(project)
    originals = sources(gateway, transfer)
    check_digests(gateway, transfer.study)
    paths = [original.path for original in originals]
    uids = [original.SOPInstanceUID for original in originals]
    folder = working_copy(gateway, transfer)
    _remove_working_copies(gateway, transfer)
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(mode=0o700, parents=True)
    try:
        report = deid.deidentify_study(deidentifier_of(gateway, transfer), paths, part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # a full disk must not stay full of half a copy
        raise
    if report.failures and (project.unprocessable == "stop" or not report.files):
        shutil.rmtree(part)
        raise PermanentError(
            f"study {transfer.study}: {len(report.failures)} of {len(paths)} instances can't be "
            f"de-identified: {named(report.failures, uids)}; nothing of it is sent"
        )
    kinds = hold_back(report, part, project)
    held = Counter(kind for kind in kinds if kind)
    left_out = len(report.failures)
    document = {
        **report.to_json(),
        "held_back": dict(held),
        "left_out": left_out,
        "received": len(paths),
    }
    kept = len(report.files) - held.total()
    if not kept:
        shutil.rmtree(part)
        raise PermanentError(
            f"study {transfer.study}: all {len(paths)} instances are of kinds that are held back "
            f"({', '.join(sorted(held))}); project {transfer.project} would have to allow them (kinds)"
        )
    made = {"report": document, "machine_start": _machine_start()}
    _report_file(folder).write_text(json.dumps(made), encoding="utf-8")
    gateway.ledger.transfers.record_rules(transfer, rules)
    part.replace(folder)
    gateway.ledger.transfers.record_held_back(transfer, not_sent(report.failures, kinds, uids))
    return WorkingCopy(kept, dict(held), left_out, document)


def _remove_working_copies(gateway: Gateway, transfer: Transfer) -> None:
    parent = working_copy(gateway, transfer).parent
    stale = parent.glob(f"*transfer-{transfer.id}-*") if parent.is_dir() else []
    for path in list(stale):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove_working_copy(gateway: Gateway, transfer: Transfer) -> None:
    """Removes the working copy and its report; the ledger keeps the record."""
    _remove_working_copies(gateway, transfer)


def from_trusted_senders(gateway: Gateway, study: str, project: ProjectSettings) -> bool:
    """Whether all of a study came from senders that are trusted to use the project's own participant ids.

    Args:
        gateway: the open gateway.
        study: StudyInstanceUID.
        project: the settings as they hold for the transfer, see :func:`rules.settings_of`.
    """
    if gateway.ledger.derived.of(study) is not None:
        return True  # made of copies, which name the participant
    senders = gateway.ledger.evidence.senders(study)
    return bool(senders) and senders <= set(project.trusted_senders)


def takes_patient_ids(gateway: Gateway, project: ProjectSettings, senders: frozenset[str]) -> bool:
    """Whether a routing rule may take the PatientID of what came from these senders as participant id."""
    trusted = {*project.trusted_senders, *gateway.settings.redcap.trusted_senders}
    return project.participant_may_be_identifier or (bool(senders) and senders <= trusted)


def verify(gateway: Gateway, transfer: Transfer) -> deid.Verification:
    """Reads the working copy again, searches it, and writes the verification record.

    A copy is not flushed when it is made; it is, all of it, before there is a record of it. So a record never
    names bytes that a power loss can take, and what one took before is no copy any more.

    Raises:
        ResidualIdentifier: something identifying is left; the working copy is removed.
        NotVerified: the working copy is not complete.
        CopyLost: there is none, or it was made before the machine was started and is removed.
    """
    from fiona_dagster import deid

    folder = working_copy(gateway, transfer)
    if not made_since_start(gateway, transfer):
        _remove_working_copies(gateway, transfer)
        raise CopyLost(
            f"study {transfer.study}: there is no copy for {transfer.project}, or it was made before this "
            "machine was started, and not verified since: it may lack bytes. The transfer makes it again"
        )
    report: dict[str, Any] = _made(folder)["report"]
    deidentifier = deidentifier_of(gateway, transfer)
    originals = [original.path for original in sources(gateway, transfer)]
    with deid.flushed(folder):
        verification = deid.verify_outputs(originals, folder, deidentifier)
    project = settings_of(gateway, transfer)
    if not from_trusted_senders(gateway, transfer.study, project):
        verification.findings += deid.identifiers_used(originals, deidentifier)
    not_sent = sum(report["held_back"].values()) + report["left_out"]
    complete = len(verification.files) + not_sent == report["received"]
    gateway.ledger.transfers.record_verification(
        transfer,
        passed=verification.passed and complete,
        files=dict(verification.files),
        report={"deidentification": report, "verification": verification.to_json()},
        mapped_uid=deidentifier.new_study_uid(transfer.study),
        review=reasons_for_review(
            project, len(verification.warnings) - verification.unsearchable, verification.unsearchable
        ),
    )
    if not complete:
        raise NotVerified(
            f"study {transfer.study}: {report['received']} instances went in, "
            f"{len(verification.files)} came out, {not_sent} were held back; "
            "partial is failure, de-identify again"
        )
    if not verification.passed:
        _remove_working_copies(gateway, transfer)
        places = sorted({f"{finding.tag} ({finding.rule})" for finding in verification.findings})
        raise ResidualIdentifier(
            f"study {transfer.study}: {len(verification.findings)} identifying values left at "
            f"{', '.join(places[:8])}; nothing of it is sent"
        )
    return verification


def failed(gateway: Gateway, transfer: Transfer, message: str, *, permanent: bool) -> None:
    """Books a step that failed; one of a transfer that does not count any more fails nothing."""
    with gateway.ledger.store.writing():
        try:
            gateway.ledger.transfers.require_current(transfer)
        except Superseded:
            return
        key = work_key("transfer", transfer.study, transfer.project)
        gateway.ledger.work.failed(key, message, permanent=permanent)
        if permanent:
            give_up(gateway, transfer, message)


def give_up(gateway: Gateway, transfer: Transfer, reason: str) -> None:
    """A transfer can't go on until a person acts: the reason goes to its REDCap record.

    Raises:
        Superseded: it does not count any more.
    """
    current = gateway.ledger.transfers.current(transfer.study, transfer.project)
    if current is not None and current.state == "delivered":
        return
    with gateway.ledger.store.writing():
        gateway.ledger.transfers.set_state(transfer, "failed", reason)
        gateway.ledger.transfers.outcome_due(transfer)
