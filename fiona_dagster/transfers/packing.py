"""The step that packs: a verified working copy becomes a package in the outbox, or once more for an export.

Belongs here: what a transfer's package is called, and what goes into it. Stays out: how it is written
(``package``, ``assembly``), and the steps before it (``execution``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fiona_dagster.errors import PermanentError
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.transfers import imaging
from fiona_dagster.transfers.assembly import assemble
from fiona_dagster.transfers.beside import remove_beside
from fiona_dagster.transfers.bids import session_of
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import (
    deidentifier_of,
    signing_key,
    sources,
    transfer_of,
)
from fiona_dagster.transfers.images import earlier_of, images_of
from fiona_dagster.transfers.package import PackageInfo
from fiona_dagster.transfers.restoring import whole_copy
from fiona_dagster.transfers.rules import require_rules
from fiona_dagster.transfers.scratch import scratch_folder


def package_name(transfer: Transfer, edition: int = 1, *, derived: bool = False) -> str:
    """File name of a package: assigned names only, safe on every file system.

    One for each revision and generation, also where a project keeps UIDs and so has the same in all of them.

    Args:
        transfer: whose package.
        edition: of the copies of this revision and generation, see :meth:`Sendings.edition`.
        derived: the study was made of copies; its package stands beside theirs.
    """
    parts = [package_base(transfer)]
    if derived:
        parts.append("derived")
    if transfer.generation:
        parts.append(f"g{transfer.generation}")
    again = f"-{edition}" if edition > 1 else ""
    return "_".join(part for part in parts if part) + f"_r{transfer.revision}{again}.zip"


def package_base(transfer: Transfer) -> str:
    """What all packages of a transfer are called first, up to the next underscore."""
    prefix = package_prefix(transfer.project, transfer.participant)
    return "_".join(part for part in (prefix, _safe(transfer.event), transfer.mapped_uid[-12:]) if part)


def package_prefix(project: str, participant: str) -> str:
    """What all packages of a participant of a project are called first, up to the next underscore."""
    return "_".join(part for part in (project, _safe(participant)) if part)


def _safe(text: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in text)[:64]


def make_package(gateway: Gateway, transfer: Transfer) -> Package:
    """Packs the verified working copy into ``outbox/<PROJECT>/``.

    Raises:
        NotVerified: no passed verification, or a file differs from what was verified.
        ReleaseAwaited: a person has to look at the verified copy first.
        RequestRefused: the project is not active any more, or has other participants or events now.
        Superseded: another request took its place, or the rules changed: it is de-identified again.
    """
    transfers = gateway.ledger.transfers
    transfers.require_current(transfer)
    transfer = transfer_of(gateway, transfer.study, transfer.project)  # earlier steps wrote into its row
    expected = transfers.verified_files(transfer)
    require_rules(gateway, transfer)
    folder = whole_copy(gateway, transfer, expected)
    derived = gateway.ledger.derived.of(transfer.study) is not None
    name = package_name(transfer, transfers.sendings.edition(transfer), derived=derived)
    target = gateway.root.outbox / transfer.project / name
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_beside(target)
    info = pack(gateway, transfer, folder, target)
    package = Package(
        path=str(info.path.relative_to(gateway.root.path)),
        size=info.size,
        md5=info.md5,
        sha256=info.sha256,
        instances=len(expected),
        time="",
    )
    with gateway.ledger.store.writing():
        imaging.record(gateway, transfer, folder, list(expected))
        transfers.record_package(transfer, package, gateway.project(transfer.project).targets)
    return package


def pack(gateway: Gateway, transfer: Transfer, copy: Path, target: Path) -> PackageInfo:
    """The package of a transfer as its project wants it, for its delivery or once more for an export.

    Args:
        gateway: the open gateway.
        transfer: whose.
        copy: the folder that holds the verified copies.
        target: where the ZIP shall stand; what belongs beside it stands there before.

    Raises:
        NotVerified: no passed verification, or a file differs from what was verified.
        PermanentError: only NIfTI images were wanted, and nothing could be converted.
    """
    verified = gateway.ledger.transfers.verified_files(transfer)
    look, types = gateway.project(transfer.project).package, types_of(gateway, transfer)
    with scratch_folder(gateway.root, transfer.project) as scratch:
        images = None
        if "nifti" in look.deliver:
            images = images_of(
                copy,
                verified,
                scratch,
                originals=[original.path for original in sources(gateway, transfer)],
                deidentifier=deidentifier_of(gateway, transfer),
                types=types,
                session=session_of(transfer, earlier_of(gateway, transfer), gateway.ledger.derived.studies()),
            )
            if not images.files and "dicom" not in look.deliver:
                raise PermanentError(
                    f"study {transfer.study}: dcm2niix could convert none of it, and project "
                    f"{transfer.project} wants images alone (package.deliver); nothing of it is sent"
                )
        return assemble(
            copy,
            verified,
            target,
            manifest=manifest_of(gateway, transfer),
            report=gateway.ledger.transfers.verification_report(transfer) or {},
            key=signing_key(gateway, transfer.project),
            look=look,
            types=types,
            images=images,
        )


def types_of(gateway: Gateway, transfer: Transfer) -> dict[str, list[str]]:
    """New SeriesInstanceUID -> types that the site's rules gave the original, which need what is removed."""
    deidentifier = deidentifier_of(gateway, transfer)
    site = gateway.root.of_site(gateway.ledger.receipts.study(transfer.study).site)
    found = {}
    for path in (site.raw / transfer.study).glob("*.json"):
        record = json.loads(path.read_text("utf-8"))
        found[deidentifier.new_series_uid(path.stem)] = [
            str(type_) for type_ in record.get("ClassifyType", ())
        ]
    return found


def manifest_of(gateway: Gateway, transfer: Transfer) -> dict[str, Any]:
    """What the manifest of a transfer's package says; nothing from the original."""
    return {
        "project": transfer.project,
        "participant": transfer.participant,
        "event": transfer.event,
        "StudyInstanceUID": transfer.mapped_uid,
        "revision": transfer.revision,
        "generation": transfer.generation,
        "key_fingerprint": gateway.ledger.key_fingerprint(transfer.project),
    }
