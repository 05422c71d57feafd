"""The entry of a delivered copy in the project's own REDCap: what the project may know, once a copy."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from fiona_dagster import studies
from fiona_dagster.ledger import Transfer
from fiona_dagster.redcap import ImagingEntry
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.turns import turn

LOOKED_AT = 10
STUDY_DATE, STUDY_DESCRIPTION = 0x00080020, 0x00081030


def record(gateway: Gateway, transfer: Transfer, folder: Path, names: list[str]) -> None:
    """Keeps date and description of a verified copy, since the copy goes when it is delivered.

    Args:
        gateway: the open gateway.
        transfer: whose.
        folder: the working copy.
        names: its verified files; the first of the first ten that has a value counts.
    """
    found = dict.fromkeys((STUDY_DATE, STUDY_DESCRIPTION), "")
    for name in sorted(names)[:LOOKED_AT]:
        header = studies.read_instance(folder / name, found.keys())
        for tag in found:
            found[tag] = found[tag] or header.text(tag).strip()
        if all(found.values()):
            break
    gateway.ledger.assignments.record_imaging(
        transfer.id, transfer.revision, _redcap_date(found[STUDY_DATE]), found[STUDY_DESCRIPTION]
    )


def write_entry(gateway: Gateway, transfer: Transfer) -> bool:
    """Makes sure that a delivered copy has its entry in the project's own REDCap; idempotent.

    Returns:
        Whether anything had to be written; False also where no token of that REDCap is known.

    Raises:
        RedcapUnavailable: no usable answer; call it again later.
        RedcapRejected: its dictionary or our rights do not allow it.
    """
    known = gateway.ledger.assignments.imaging(transfer.id, transfer.revision)
    if known is None:  # packaged before there were entries
        return False
    research = gateway.research(transfer.project)
    if research is None:
        return False
    entry = ImagingEntry(transfer.participant, transfer.event, transfer.mapped_uid, *known)
    with turn(gateway, f"imaging-{transfer.project}"):  # studies of one participant share a record
        return research.write_imaging(entry)


def _redcap_date(text: str) -> str:
    """A DICOM date (VR DA) as REDCap's ``date_ymd``; empty where it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").date().isoformat()
    except ValueError:
        return ""
