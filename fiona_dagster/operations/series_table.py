"""Every series that is known as a table, for people who plan an analysis; nothing identifying.

Belongs here: rows from the ledger, and which of them are wanted. Stays out: printing and files
(``cli.studies``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

from fiona_dagster.ledger import Sender, Study, Transfer
from fiona_dagster.transfers import execution
from fiona_dagster.transfers.context import Gateway

if TYPE_CHECKING:
    import pandas as pd

MAIN = "main"
"""How the main site is called."""
COMMON = ("SeriesNumber", "Modality", "ClassifyType", "NumFiles", "Bytes", "Problems")
OF_SITE = (
    *("StudyInstanceUID", "SeriesInstanceUID", *COMMON, "Received", "CallingAE", "Site"),
    *("State", "Flags", "Revision", "Projects"),
)
OF_PROJECT = ("Participant", "Event", "StudyInstanceUID", "SeriesInstanceUID", *COMMON, "HeldBack", "State")
LISTS = ("ClassifyType", "Problems", "Flags", "Projects")
"""Columns whose cells are lists of texts."""
_INTERNAL = ("Received", "CallingAE", "Site")
_GONE = ("refused", "superseded", "stopped", "withdrawn", "adopted")


@dataclass(frozen=True)
class Wanted:
    """Which series are wanted; what is empty restricts nothing. Within one field any value will do.

    Attributes:
        studies: StudyInstanceUIDs of the hospital.
        types: all of these types.
        without_types: none of these types.
        untyped: only series without any type.
        modalities: Modality.
        states: of the study; with a project, of its transfer.
        sites: names of sites, :data:`MAIN` for the main one.
        callers: AE titles that sent it.
        since: first arrival at this time or later.
        until: first arrival before this time.
        problems: only series whose instances can't belong together.
        participants: only with a project.
        events: only with a project.
    """

    studies: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    without_types: tuple[str, ...] = ()
    untyped: bool = False
    modalities: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    callers: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    problems: bool = False
    participants: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


@dataclass
class SeriesTable:
    """A table, and what may be a slip of the pen in what was asked for.

    Attributes:
        rows: columns :data:`OF_SITE` or :data:`OF_PROJECT`.
        unknown: sentences about wanted values that no series has at all.
    """

    rows: pd.DataFrame
    unknown: list[str] = field(default_factory=list)


def series_table(gateway: Gateway, project: str | None = None, wanted: Wanted | None = None) -> SeriesTable:
    """One row a series of every study that was classified.

    Args:
        gateway: the open gateway.
        project: with it only studies that the project requested. Rows then hold participant, event and the
            UIDs that the copy has at the recipients (empty until there is one), and neither UIDs of the
            hospital nor times of arrival: both together are the key to the pseudonyms.
        wanted: which rows; default all.

    Returns:
        ``NumFiles``, ``Bytes``, ``HeldBack``, ``Revision`` are whole numbers, :data:`LISTS` lists of texts,
        ``Received`` is a time in the site's zone, everything else text.

    Raises:
        KeyMismatch: the project's key is missing or another one than that of the copies.
    """
    import pandas as pd

    gateway.ledger.receipts.read_journals()
    zone = ZoneInfo(gateway.settings.LOCALTIMEZONE)
    known = [study for study in gateway.ledger.receipts.studies() if study.registered]
    columns: tuple[str, ...] = OF_SITE
    if project is None:
        rows = _rows_of_site(gateway, known)
    else:
        rows = _rows_of_project(gateway, known, project)
        columns = (*OF_PROJECT, *_INTERNAL, "Original")
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    table["Received"] = pd.to_datetime(table["Received"], utc=True, format="ISO8601").dt.floor("s")
    result = _filtered(table, wanted or Wanted(), "StudyInstanceUID" if project is None else "Original")
    result.rows["Received"] = result.rows["Received"].dt.tz_convert(zone)
    if project is not None:
        order = ["Participant", "Event", "StudyInstanceUID", "SeriesNumber", "SeriesInstanceUID"]
        result.rows = result.rows.sort_values(order, key=_by_number)[list(OF_PROJECT)]
    result.rows = result.rows.reset_index(drop=True)
    return result


def by_study(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a study: how many series and instances, which modalities and types, how many bytes."""
    names = study_columns(rows)
    last = [name for name in ("Received", "CallingAE", "Site", "State", "Flags", "Projects") if name in rows]
    found = []
    for key, group in rows.groupby(names, sort=False):
        found.append(
            {
                **dict(zip(names, cast("tuple[str, ...]", key), strict=True)),
                "Series": len(group),
                "Modalities": sorted({modality for modality in group["Modality"] if modality}),
                "Types": sorted({type_ for types in group["ClassifyType"] for type_ in types}),
                "Instances": int(group["NumFiles"].sum()),
                "Bytes": int(group["Bytes"].sum()),
                **{name: group[name].iloc[0] for name in last},
            }
        )
    import pandas as pd

    columns = [*names, "Series", "Modalities", "Types", "Instances", "Bytes", *last]
    return pd.DataFrame(found, columns=pd.Index(columns))


def study_columns(rows: pd.DataFrame) -> list[str]:
    """Columns that tell one study from another."""
    return [name for name in ("Participant", "Event", "StudyInstanceUID") if name in rows]


# -- rows --------------------------------------------------------------------------------------------------


def _rows_of_site(gateway: Gateway, known: list[Study]) -> list[dict[str, Any]]:
    projects: dict[str, set[str]] = {}
    for transfer in gateway.ledger.transfers.all():
        if transfer.state not in _GONE:
            projects.setdefault(transfer.study, set()).add(transfer.project)
    sizes, senders = _sizes(gateway), gateway.ledger.receipts.senders()
    return [
        {
            **row,
            "StudyInstanceUID": study.study,
            "State": study.state,
            "Flags": list(study.flags),
            "Revision": study.revision,
            "Projects": sorted(projects.get(study.study, ())),
        }
        for study in known
        for row in _series(study, sizes, senders)
    ]


def _rows_of_project(gateway: Gateway, known: list[Study], project: str) -> list[dict[str, Any]]:
    asked: dict[str, Transfer] = {}
    for transfer in sorted(gateway.ledger.transfers.all(), key=lambda each: each.id):
        if transfer.project == project and transfer.state not in _GONE:
            asked[transfer.study] = transfer
    sizes, senders = _sizes(gateway), gateway.ledger.receipts.senders()
    held = _held_back(gateway, project)
    new_uid = _new_uids(gateway)
    found = []
    for study in known:
        transfer_ = asked.get(study.study)
        if transfer_ is None:
            continue
        for row in _series(study, sizes, senders):
            series = row["SeriesInstanceUID"]
            found.append(
                {
                    **row,
                    "Participant": transfer_.participant,
                    "Event": transfer_.event,
                    "StudyInstanceUID": transfer_.mapped_uid,
                    "SeriesInstanceUID": new_uid(transfer_, series),
                    "HeldBack": held.get((transfer_.id, series), 0),
                    "State": transfer_.state,
                    "Original": study.study,
                }
            )
    return found


def _series(
    study: Study, sizes: Mapping[tuple[str, str], int], senders: Mapping[tuple[str, str], Sender]
) -> Iterator[dict[str, Any]]:
    for each in study.summary.get("series", []):
        key = (study.study, each["SeriesInstanceUID"])
        sender = senders.get(key, study)
        yield {
            "SeriesInstanceUID": each["SeriesInstanceUID"],
            "SeriesNumber": each.get("SeriesNumber", ""),
            "Modality": each["Modality"],
            "ClassifyType": list(each["ClassifyType"]),
            "NumFiles": each["NumFiles"],
            "Bytes": sizes.get(key, 0),
            "Problems": list(each.get("problems", ())),
            "Received": sender.first_arrival,
            "CallingAE": sender.calling_ae,
            "Site": study.site or MAIN,
        }


def _sizes(gateway: Gateway) -> dict[tuple[str, str], int]:
    """(study, series) -> bytes of its files."""
    rows = gateway.ledger.store.rows(
        "SELECT study, series, sum(size) AS bytes FROM instances GROUP BY study, series"
    )
    return {(row["study"], row["series"]): int(row["bytes"]) for row in rows}


def _held_back(gateway: Gateway, project: str) -> dict[tuple[int, str], int]:
    """(transfer, series) -> instances that its pinned revision held back."""
    rows = gateway.ledger.store.rows(
        """SELECT h.transfer, i.series, count(*) AS number FROM held_back h
           JOIN transfers t ON t.id = h.transfer AND t.revision = h.revision
           JOIN instances i ON i.study = t.study AND i.sop_instance = h.sop_instance
           WHERE t.project = ? GROUP BY h.transfer, i.series""",
        project,
    )
    return {(int(row["transfer"]), str(row["series"])): int(row["number"]) for row in rows}


def _new_uids(gateway: Gateway) -> Callable[[Transfer, str], str]:
    """Gives the UID that stands in a copy in place of one of the hospital; "" where there is no copy yet."""
    mappings: dict[int, Callable[[str], str]] = {}

    def new_uid(transfer: Transfer, uid: str) -> str:
        if not transfer.mapped_uid:
            return ""
        mapped = mappings.get(transfer.generation)
        if mapped is None:
            mapped = execution.deidentifier_of(gateway, transfer).map_uid
            mappings[transfer.generation] = mapped
        return mapped(uid) if mapped(transfer.study) == transfer.mapped_uid else ""

    return new_uid


# -- which of them -----------------------------------------------------------------------------------------


def _filtered(table: pd.DataFrame, wanted: Wanted, study_column: str) -> SeriesTable:
    result = SeriesTable(table)
    for column, values, what in (
        (study_column, wanted.studies, "study"),
        ("Participant", wanted.participants, "participant"),
        ("Event", wanted.events, "event"),
        ("Modality", wanted.modalities, "modality"),
        ("State", wanted.states, "state"),
        ("Site", wanted.sites, "site"),
        ("CallingAE", wanted.callers, "sender"),
    ):
        if values:
            _note_unknown(result, what, values, set(table[column]))
            result.rows = result.rows[result.rows[column].isin(values)]
    types = {type_ for found in table["ClassifyType"] for type_ in found}
    _note_unknown(result, "type", (*wanted.types, *wanted.without_types), types)
    _keep(result, "ClassifyType", lambda found: set(wanted.types) <= set(found))
    _keep(result, "ClassifyType", lambda found: not set(wanted.without_types) & set(found))
    if wanted.untyped:
        _keep(result, "ClassifyType", lambda found: not found)
    if wanted.problems:
        _keep(result, "Problems", bool)
    if wanted.since is not None:
        result.rows = result.rows[result.rows["Received"] >= wanted.since.astimezone(UTC)]
    if wanted.until is not None:
        result.rows = result.rows[result.rows["Received"] < wanted.until.astimezone(UTC)]
    result.rows = result.rows.copy()
    return result


def _keep(result: SeriesTable, column: str, good: Callable[[list[str]], bool]) -> None:
    result.rows = result.rows[result.rows[column].map(good).astype(bool)]


def _note_unknown(result: SeriesTable, what: str, values: tuple[str, ...], there: set[str]) -> None:
    for value in values:
        if value not in there:
            some = ", ".join(sorted(there - {""})[:20]) if what in _SHOWN else ""
            result.unknown.append(
                f"no series has the {what} {value[:64]!r}" + (f" (there are: {some})" if some else "")
            )


_SHOWN = ("type", "modality", "state", "site", "sender")


def _by_number(column: pd.Series[Any]) -> pd.Series[Any]:
    """Series numbers in the order of numbers, not of texts."""
    if column.name != "SeriesNumber":
        return column
    import pandas as pd

    return pd.to_numeric(column, errors="coerce")
