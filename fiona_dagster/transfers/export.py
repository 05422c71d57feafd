"""A whole project once more: every verified study, packed anew into a folder outside the data root.

Belongs here: which studies, and the way of each from the originals to a package. Stays out: what a package is
(``transfers.assembly``). Nothing here writes a verification record: what is exported must have the bytes
of the one that its transfer has, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fiona_dagster.errors import FionaError, NotVerified, RequestRefused, ResidualIdentifier, UsageError
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers import execution, nifti, packing
from fiona_dagster.transfers.assembly import partial_of
from fiona_dagster.transfers.beside import folder_of
from fiona_dagster.transfers.bids import session_of
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.images import images_of
from fiona_dagster.transfers.intake import study_lock
from fiona_dagster.transfers.layout import lay_out
from fiona_dagster.transfers.left_out import hold_back
from fiona_dagster.transfers.package import require_records
from fiona_dagster.transfers.rules import require_project, rules_digest, settings_of
from fiona_dagster.transfers.scratch import scratch_folder
from fiona_dagster.transfers.triple import write_triples
from fiona_dagster.transfers.withdrawals import require_not_withdrawn

Format = Literal["zip", "tgz", "nifti"]
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """What came of one study.

    Attributes:
        study: original StudyInstanceUID.
        files: what was written; empty if it was refused.
        problem: why it was refused, or ``""``.
        partial: series that are missing or not whole as NIfTI.
    """

    study: str
    files: tuple[Path, ...]
    problem: str = ""
    partial: tuple[nifti.Partial, ...] = ()


def transfers_to_export(gateway: Gateway, project: str, participants: Sequence[str] = ()) -> list[Transfer]:
    """The transfers that count for a project, in order of participant and event.

    Raises:
        ConfigurationError: no such project.
        UsageError: a participant has nothing in this project.
    """
    gateway.project(project)
    book = gateway.ledger.transfers
    studies = sorted({transfer.study for transfer in book.all() if transfer.project == project})
    found = [transfer for study in studies if (transfer := book.current(study, project)) is not None]
    missing = set(participants) - {transfer.participant for transfer in found}
    if missing:
        raise UsageError(f"{len(missing)} of the participants have nothing in project {project}")
    chosen = [each for each in found if not participants or each.participant in participants]
    return sorted(chosen, key=lambda each: (each.participant, each.event, each.mapped_uid, each.id))


def export(
    gateway: Gateway, transfers: Sequence[Transfer], out: Path, formats: Sequence[Format] = (), *, by: str
) -> Iterator[Exported]:
    """Packs the studies of these transfers into ``out``; one that is refused doesn't stop the others.

    Args:
        gateway: the open gateway.
        transfers: see :func:`transfers_to_export`.
        out: a folder outside the data root; made if missing.
        formats: default: ``package.formats`` of the project.
        by: who exports, as the operating system knows this person; stands in each study's history.

    Raises:
        UsageError: ``out`` lies in the data root.
        ConfigurationError: ``nifti`` is wanted and dcm2niix is not installed.
    """
    if out.resolve().is_relative_to(gateway.root.path.resolve()):
        raise UsageError(f"{out}: lies in the data root; choose a folder outside")
    for project in {transfer.project for transfer in transfers}:
        if "nifti" in (formats or gateway.project(project).package.formats):
            nifti.converter()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for transfer in transfers:
        try:
            with study_lock(gateway, transfer.study):
                files, partial = _export(gateway, transfer, out, formats)
                gateway.ledger.store.note(transfer.study, f"{transfer.project}: exported by {by}")
        except FionaError as error:
            yield Exported(transfer.study, (), str(error))
        else:
            yield Exported(transfer.study, tuple(files), partial=partial)


def _export(
    gateway: Gateway, transfer: Transfer, out: Path, formats: Sequence[Format]
) -> tuple[list[Path], tuple[nifti.Partial, ...]]:
    project = require_project(gateway, transfer)
    verified = gateway.ledger.transfers.verified_files(transfer)
    transfer = execution.transfer_of(gateway, transfer.study, transfer.project)
    if transfer.state not in ("packaged", "delivered"):
        raise NotVerified(
            f"study {transfer.study}: its transfer is {transfer.state}; only packaged studies are"
        )
    require_not_withdrawn(gateway, transfer)
    if transfer.rules != rules_digest(project):
        raise RequestRefused(
            f"study {transfer.study}: the rules changed since its copy was verified; transfer it again first"
        )
    with scratch_folder(gateway.root, transfer.project) as scratch:
        copy = scratch / "copy"
        _deidentify(gateway, transfer, copy)
        require_records(sorted(path.name for path in copy.iterdir()), verified)
        wanted = formats or project.package.formats
        files, partial = _pack(gateway, transfer, copy, out, wanted)
        if "nifti" in wanted:
            images, partial = _images(gateway, transfer, copy, out)
            files += images
        return files, partial


def _deidentify(gateway: Gateway, transfer: Transfer, copy: Path) -> None:
    """A copy beside the transfer's own, searched like that; its bytes are compared when they are packed."""
    from fiona_dagster import deid

    deidentifier = execution.deidentifier_of(gateway, transfer)
    originals = [original.path for original in execution.sources(gateway, transfer)]
    report = deid.deidentify_study(deidentifier, originals, copy)
    project = settings_of(gateway, transfer)
    if report.failures and project.unprocessable == "stop":
        raise NotVerified(f"study {transfer.study}: {len(report.failures)} instances can't be de-identified")
    hold_back(report, copy, project)
    findings = deid.verify_outputs(originals, copy, deidentifier).findings
    if not execution.from_trusted_senders(gateway, transfer.study, project):
        findings += deid.identifiers_used(originals, deidentifier)
    if findings:
        raise ResidualIdentifier(f"study {transfer.study}: {len(findings)} identifying values left")


def _pack(
    gateway: Gateway, transfer: Transfer, copy: Path, out: Path, formats: Sequence[Format]
) -> tuple[list[Path], tuple[nifti.Partial, ...]]:
    verified = gateway.ledger.transfers.verified_files(transfer)
    gateway.ledger.transfers.require_wanted(transfer)  # making the copy took its time
    derived = gateway.ledger.derived.of(transfer.study) is not None
    target = out / packing.package_name(transfer, derived=derived)
    files: list[Path] = []
    partial: tuple[nifti.Partial, ...] = ()
    if "zip" in formats:
        files.append(packing.pack(gateway, transfer, copy, target).path)
        partial = partial_of(target)
    if "tgz" in formats:
        layout = gateway.project(transfer.project).package.layout
        laid_out = lay_out([(name, copy / name) for name in sorted(verified)], template=layout)
        types = packing.types_of(gateway, transfer)
        written = write_triples(laid_out, verified, folder_of(target), types)
        files += [path for path in written if path.suffix == ".tgz"]
    return files, partial


def _images(
    gateway: Gateway, transfer: Transfer, copy: Path, out: Path
) -> tuple[list[Path], tuple[nifti.Partial, ...]]:
    verified = gateway.ledger.transfers.verified_files(transfer)
    converted = images_of(
        copy,
        verified,
        copy.parent,
        originals=[original.path for original in execution.sources(gateway, transfer)],
        deidentifier=execution.deidentifier_of(gateway, transfer),
        types=packing.types_of(gateway, transfer),
        session=session_of(
            transfer, transfers_to_export(gateway, transfer.project), gateway.ledger.derived.studies()
        ),
    )
    require_not_withdrawn(gateway, transfer)  # converting took its time
    gateway.ledger.transfers.require_wanted(transfer)
    return nifti.place(converted, out), converted.partial
