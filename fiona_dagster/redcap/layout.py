"""How *Incoming* lays out its rows: a base row, and *series* and *transfers* repeating or plain.

The published dictionary can't say whether an instrument repeats, and sites differ. Where one does not, its
fields stand in the base row and there is room for one series, or one request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fiona_dagster.errors import RedcapUnavailable
from fiona_dagster.redcap.rows import INSTANCE, INSTRUMENT, Row, same_value

STUDY = "study_instance_uid"
SERIES = "series_instance_uid"

ANONYMIZATION_ERROR = 1
SEND_ERROR = 2
PIXELS_REWRITTEN = 3
TRANSFER_ERRORS = (ANONYMIZATION_ERROR, SEND_ERROR, PIXELS_REWRITTEN)
"""Choices of the checkbox ``transfer_error``."""

REQUEST_FIELDS = (
    "transfer_requested_date",
    "transfer_project_name",
    "transfer_name",
    "transfer_event_name",
    "transfer_date",
    "transfer_error",
    "transfer_mapped_uid",
)
MESSAGE = "transfer_error_message"
WITHDRAWN = "transfer_withdrawn"
"""Yes/no: a person took the request back. Projects of older sites lack it."""


@dataclass(frozen=True)
class TransferRequest:
    """One instance of the instrument *transfers*. Its repr shows no participant, event or mapped UID."""

    study: str
    instance: int
    requested_date: str
    """As REDCap has it, site time, ``YYYY-MM-DD HH:MM``; empty when not requested."""
    project: str
    participant: str = field(repr=False)
    event: str = field(repr=False)
    transfer_date: str = ""
    """When it was done, site time; empty when it wasn't."""
    errors: tuple[int, ...] = ()
    """Ticked choices of ``transfer_error``."""
    mapped_uid: str = field(default="", repr=False)
    withdrawn: bool = False
    """Whether a person marked it as withdrawn; never where the project lacks the field."""
    explained: bool = False
    """Whether it has a message; never in a list."""

    @property
    def active(self) -> bool:
        """A request counts when its date and its project are filled in."""
        return bool(self.requested_date and self.project)


@dataclass(frozen=True)
class Layout:
    """Which instruments of *Incoming* repeat."""

    repeating: frozenset[str]

    def row(self, study: str, instrument: str, instance: int | str, values: Mapping[str, str]) -> Row:
        """A row to import; ``instrument`` is empty for the study's own fields."""
        if not self.repeating:
            return {STUDY: study, **values}
        if instrument not in self.repeating:
            instrument, instance = "", ""
        return {STUDY: study, INSTRUMENT: instrument, INSTANCE: str(instance), **values}

    def series(self, rows: Iterable[Row]) -> dict[int, Row]:
        """Rows of the repeating instrument *series* by instance number."""
        return {_number(row): row for row in rows if row.get(INSTRUMENT) == "series"}

    def stored(self, rows: Iterable[Row], instance: int) -> Row:
        """The exported row in which a request stands; empty when there is none."""
        instrument = "transfers" if "transfers" in self.repeating else ""
        found = (row for row in rows if row.get(INSTRUMENT, "") == instrument)
        return next((row for row in found if not instrument or _number(row) == instance), {})

    def requests(self, rows: Iterable[Row], missing: Collection[str] = ()) -> list[TransferRequest]:
        """The requests in some rows, half filled in ones included.

        Args:
            rows: exported rows of any number of studies.
            missing: missing-data codes; a field that holds one counts as empty.
        """
        instrument = "transfers" if "transfers" in self.repeating else ""
        found: list[TransferRequest] = []
        for row in rows:
            if row.get(INSTRUMENT, "") != instrument:
                continue
            values = {name: "" if value in missing else value for name, value in row.items()}
            values[STUDY] = row.get(STUDY, "")
            request = _request(values)
            if any(values.get(name) for name in REQUEST_FIELDS) or request.errors:
                found.append(request)
        return found


def base_row(rows: Iterable[Row]) -> Row:
    """The row of the study's own fields; empty when there is none."""
    return next((row for row in rows if not row.get(INSTRUMENT)), {})


def holds(wanted: Row, stored: Row) -> bool:
    """Whether a stored row says all of this already."""
    return all(name in stored and same_value(name, value, stored[name]) for name, value in wanted.items())


def _number(row: Row) -> int:
    text = row.get(INSTANCE) or "1"
    if not text.isdigit():
        raise RedcapUnavailable("REDCap sent a redcap_repeat_instance that is no number")
    return int(text)


def _request(row: Row) -> TransferRequest:
    ticked = (code for code in TRANSFER_ERRORS if row.get(f"transfer_error___{code}") == "1")
    return TransferRequest(
        study=row.get(STUDY, ""),
        instance=_number(row),
        requested_date=row.get("transfer_requested_date", ""),
        project=row.get("transfer_project_name", ""),
        participant=row.get("transfer_name", ""),
        event=row.get("transfer_event_name", ""),
        transfer_date=row.get("transfer_date", ""),
        errors=tuple(ticked),
        mapped_uid=row.get("transfer_mapped_uid", ""),
        withdrawn=row.get(WITHDRAWN) == "1",
        explained=bool(row.get(MESSAGE)),
    )
