"""NIfTI images of one transfer: converted from its verified copy, and searched before they leave.

Belongs here: what an export and a delivered package have in common. Stays out: the conversion
(``transfers.nifti``), where the images go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fiona_dagster.errors import ResidualIdentifier
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers import nifti
from fiona_dagster.transfers.bids import Session, label
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.layout import lay_out

if TYPE_CHECKING:
    from fiona_dagster.deid import Deidentifier


def images_of(
    copy: Path,
    verified: Mapping[str, str],
    scratch: Path,
    *,
    originals: Sequence[Path],
    deidentifier: Deidentifier,
    types: Mapping[str, Sequence[str]],
    session: Session,
) -> nifti.Converted:
    """Converts a verified copy.

    Args:
        copy: the folder of copies.
        verified: SHA-256 of each by its name in the verification record.
        scratch: a folder on the same file system, which goes with the images.
        originals: what the copies were made of; the images are searched for who is in there.
        deidentifier: rules and identities of the copies.
        types: new SeriesInstanceUID -> types that the site's rules gave the series.
        session: where the images stand.

    Raises:
        ResidualIdentifier: an image or sidecar holds something identifying.
        NotVerified: a copy differs from its record.
        ConfigurationError: dcm2niix is not installed.
    """
    from fiona_dagster import deid

    laid_out = lay_out([(name, copy / name) for name in sorted(verified)])
    converted = nifti.convert(laid_out, verified, scratch / "images", types, session)
    said = (deid.Said(words, numbers) for words, numbers in nifti.texts(converted, session))
    findings = deid.search_made_of(originals, copy, deidentifier, said)
    if findings:
        raise ResidualIdentifier(
            f"{len(findings)} files of dcm2niix hold something identifying; nothing of the study leaves"
        )
    return converted


def earlier_of(gateway: Gateway, transfer: Transfer) -> list[Transfer]:
    """Older transfers of the project whose images could have the same names.

    Names of a package then don't depend on what came after it.
    """
    book, subject = gateway.ledger.transfers, label(transfer.participant).lower()
    studies = {
        other.study
        for other in book.all()
        if other.project == transfer.project
        and other.id < transfer.id
        and label(other.participant).lower() == subject
    }
    found = (book.current(study, transfer.project) for study in sorted(studies))
    return [other for other in found if other is not None and other.id < transfer.id]
