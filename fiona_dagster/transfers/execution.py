"""The steps of a transfer: de-identify, verify, package. Each is idempotent and stands behind the gate.

A step may be run again at any time, by a retry or by a person: it replaces its own output, and what was
delivered is never undone by it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fiona_dagster import deid
from fiona_dagster.errors import Busy, NotVerified, PermanentError, RequestRefused, ResidualIdentifier
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.package import arcnames, build_package


def transfer_of(gateway: Gateway, study: str, project: str) -> Transfer:
    """The transfer that counts for a study and project.

    Raises:
        RequestRefused: nobody asked for it.
    """
    transfer = gateway.ledger.transfers.current(study, project)
    if transfer is None:
        raise RequestRefused(
            f"no transfer of study {study} to project {project} was requested; "
            f"`fiona assign {study} --project {project} ...` requests one"
        )
    return transfer


def working_copy(gateway: Gateway, transfer: Transfer) -> Path:
    """Folder of the de-identified files of the pinned revision."""
    return gateway.root.projects / transfer.project / f"transfer-{transfer.id}-r{transfer.revision}"


def _deidentifier(gateway: Gateway, transfer: Transfer) -> deid.Deidentifier:
    project = gateway.project(transfer.project)
    key = deid.project_key(
        gateway.root,
        transfer.project,
        recorded=gateway.ledger.key_fingerprint,
        record=gateway.ledger.record_key_fingerprint,
        may_create=True,
    )
    assignment = deid.Assignment(transfer.project, transfer.participant, transfer.event)
    return deid.Deidentifier(project, key, assignment, generation=transfer.generation)


def _sources(gateway: Gateway, transfer: Transfer) -> list[Path]:
    """Archived originals of exactly the pinned revision."""
    study = gateway.ledger.receipts.study(transfer.study)
    if study.flags:
        raise RequestRefused(
            f"study {transfer.study} is flagged ({', '.join(study.flags)}); nothing leaves until a person decides"
        )
    if study.open or study.revision != transfer.revision:
        raise Busy(
            f"study {transfer.study} has new images; the transfer goes on when they are processed "
            f"(revision {study.revision}, the transfer holds {transfer.revision})"
        )
    return [gateway.root.path / row["path"] for row in gateway.ledger.receipts.instances(transfer.study)]


def deidentify(gateway: Gateway, transfer: Transfer) -> deid.StudyReport:
    """Writes the de-identified working copy of a transfer.

    Raises:
        PermanentError: an instance could not be processed; partial is failure, nothing is kept.
    """
    sources = _sources(gateway, transfer)
    folder = working_copy(gateway, transfer)
    for stale in folder.parent.glob(f"transfer-{transfer.id}-*") if folder.parent.is_dir() else []:
        shutil.rmtree(stale)
    part = folder.with_name(f".{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(mode=0o700, parents=True)
    report = deid.deidentify_study(_deidentifier(gateway, transfer), sources, part)
    if report.failures:
        shutil.rmtree(part)
        first = report.failures[0]
        raise PermanentError(
            f"study {transfer.study}: {len(report.failures)} of {len(sources)} instances can't be de-identified "
            f"(the first: {first.reason}); nothing of it is sent"
        )
    part.replace(folder)
    return report


def verify(gateway: Gateway, transfer: Transfer, report: deid.StudyReport | None = None) -> deid.Verification:
    """Reads the working copy again, searches it, and writes the verification record.

    Raises:
        ResidualIdentifier: something identifying is left; the working copy is removed.
        NotVerified: there is no working copy.
    """
    folder = working_copy(gateway, transfer)
    if not folder.is_dir():
        raise NotVerified(f"no working copy of transfer {transfer.id}; de-identify first")
    deidentifier = _deidentifier(gateway, transfer)
    sources = _sources(gateway, transfer)
    verification = deid.verify_outputs(sources, folder, deidentifier)
    held = 0 if report is None else len(report.held)
    complete = len(verification.files) + held == len(sources) if report is not None else True
    gateway.ledger.transfers.record_verification(
        transfer,
        passed=verification.passed and complete,
        files=dict(verification.files),
        report={
            "deidentification": None if report is None else report.to_json(),
            "verification": verification.to_json(),
        },
        mapped_uid=deidentifier.map_uid(transfer.study),
    )
    if not complete:
        raise PermanentError(
            f"study {transfer.study}: {len(sources)} instances went in, {len(verification.files)} came out, "
            f"{held} were held back; partial is failure"
        )
    if not verification.passed:
        shutil.rmtree(folder)
        places = sorted({f"{finding.tag} ({finding.rule})" for finding in verification.findings})
        raise ResidualIdentifier(
            f"study {transfer.study}: {len(verification.findings)} identifying values left at "
            f"{', '.join(places[:8])}; nothing of it is sent"
        )
    return verification


def give_up(gateway: Gateway, study: str, project: str, reason: str) -> None:
    """A transfer can't go on until a person acts: the reason goes to its REDCap record."""
    transfer = gateway.ledger.transfers.current(study, project)
    if transfer is None or transfer.state == "delivered":
        return
    with gateway.ledger.store.writing():
        gateway.ledger.transfers.set_state(transfer, "failed", reason)
        gateway.ledger.transfers.outcome_due(transfer)


def package_name(transfer: Transfer) -> str:
    """File name of a package: assigned names only, safe on every file system, one for each revision."""
    parts = [transfer.project, _safe(transfer.participant), _safe(transfer.event), transfer.mapped_uid[-12:]]
    return "_".join(part for part in parts if part) + f"_r{transfer.revision}.zip"


def _safe(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in text)[:64]


def make_package(gateway: Gateway, transfer: Transfer) -> Package:
    """Packs the verified working copy into ``outbox/<PROJECT>/``.

    Raises:
        NotVerified: no passed verification, or a file differs from what was verified.
    """
    transfers = gateway.ledger.transfers
    expected = transfers.verified_files(transfer)
    transfer = transfer_of(gateway, transfer.study, transfer.project)
    folder = working_copy(gateway, transfer)
    entries = arcnames(
        [(name, folder / name) for name in sorted(expected)],
        participant=transfer.participant,
        event=transfer.event,
    )
    target = gateway.root.outbox / transfer.project / package_name(transfer)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = build_package(
        entries,
        target,
        manifest_extra=_manifest(gateway, transfer),
        expected={arcname: expected[path.relative_to(folder).as_posix()] for arcname, path in entries},
        report=transfers.verification_report(transfer) or {},
    )
    package = Package(
        path=str(info.path.relative_to(gateway.root.path)),
        size=info.size,
        md5=info.md5,
        sha256=info.sha256,
        instances=len(entries),
        time="",
    )
    transfers.record_package(transfer, package, gateway.project(transfer.project).targets)
    return package


def _manifest(gateway: Gateway, transfer: Transfer) -> dict[str, Any]:
    return {
        "project": transfer.project,
        "participant": transfer.participant,
        "event": transfer.event,
        "StudyInstanceUID": transfer.mapped_uid,
        "revision": transfer.revision,
        "generation": transfer.generation,
        "key_fingerprint": gateway.ledger.key_fingerprint(transfer.project),
    }
