"""Every series that is known as a table, for people who plan an analysis; nothing identifying.

Belongs here: rows from the ledger. Stays out: printing and files (``cli.studies``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fiona_dagster.ledger import Ledger, Study, Transfer

if TYPE_CHECKING:
    import pandas as pd

COMMON = ("Modality", "ClassifyType", "NumFiles", "Bytes")
OF_SITE = ("StudyInstanceUID", "SeriesInstanceUID", *COMMON, "State", "Revision")
OF_PROJECT = ("Participant", "Event", "StudyInstanceUID", "Series", *COMMON, "State")
_GONE = ("refused", "superseded", "stopped", "withdrawn", "adopted")


def series_table(ledger: Ledger, project: str | None = None) -> pd.DataFrame:
    """One row a series of every study that was classified.

    Args:
        ledger: the open ledger.
        project: with it only studies that the project requested. Rows then hold participant and event, the
            UID that the copy has at the recipients, and the series' place in its study; no UID of the
            hospital, since both together are the key to the pseudonyms.

    Returns:
        Columns :data:`OF_SITE` or :data:`OF_PROJECT`; ``ClassifyType`` holds lists, ``NumFiles`` and
        ``Bytes`` whole numbers.
    """
    import pandas as pd

    ledger.receipts.read_journals()
    sizes = {
        (row["study"], row["series"]): int(row["bytes"])
        for row in ledger.store.rows(
            "SELECT study, series, sum(size) AS bytes FROM instances GROUP BY study, series"
        )
    }
    studies = [study for study in ledger.receipts.studies() if study.registered]
    if project is None:
        rows = [row for study in studies for row in _of_site(study, sizes)]
        return pd.DataFrame(rows, columns=pd.Index(OF_SITE))
    wanted = _requested(ledger, project)
    rows = [
        row
        for study in studies
        if study.study in wanted
        for row in _of_project(study, wanted[study.study], sizes)
    ]
    table = pd.DataFrame(rows, columns=pd.Index(OF_PROJECT))
    return table.sort_values(["Participant", "Event", "StudyInstanceUID", "Series"], ignore_index=True)


def filtered(
    table: pd.DataFrame, *, types: tuple[str, ...] = (), modalities: tuple[str, ...] = ()
) -> pd.DataFrame:
    """The rows that have all of the types and one of the modalities."""
    for type_ in types:
        table = table[table["ClassifyType"].map(lambda found, wanted=type_: wanted in found).astype(bool)]
    if modalities:
        table = table[table["Modality"].isin(modalities)]
    return table.reset_index(drop=True)


def _requested(ledger: Ledger, project: str) -> dict[str, Transfer]:
    found: dict[str, Transfer] = {}
    for transfer in sorted(ledger.transfers.all(), key=lambda each: each.id):
        if transfer.project == project:
            found[transfer.study] = transfer  # the newest counts
    return {study: transfer for study, transfer in found.items() if transfer.state not in _GONE}


def _series(study: Study, sizes: dict[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    for each in study.summary.get("series", []):
        yield {
            "SeriesInstanceUID": each["SeriesInstanceUID"],
            "Modality": each["Modality"],
            "ClassifyType": list(each["ClassifyType"]),
            "NumFiles": each["NumFiles"],
            "Bytes": sizes.get((study.study, each["SeriesInstanceUID"]), 0),
        }


def _of_site(study: Study, sizes: dict[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    for row in _series(study, sizes):
        yield {**row, "StudyInstanceUID": study.study, "State": study.state, "Revision": study.revision}


def _of_project(
    study: Study, transfer: Transfer, sizes: dict[tuple[str, str], int]
) -> Iterator[dict[str, Any]]:
    # In an order that says nothing about the hospital's UIDs.
    rows = sorted(
        _series(study, sizes), key=lambda row: (row["Modality"], row["ClassifyType"], row["NumFiles"])
    )
    for number, row in enumerate(rows, 1):
        del row["SeriesInstanceUID"]
        yield {
            **row,
            "Participant": transfer.participant,
            "Event": transfer.event,
            "StudyInstanceUID": transfer.mapped_uid,
            "Series": number,
            "State": transfer.state,
        }
