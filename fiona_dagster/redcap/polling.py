"""Reads the requests in *Incoming*: all of them as a short list, single ones in full, and what changed.

A list is one call over all records with few fields; it is what says that a request is there or is not. In
between it is asked only which records were changed since the last look (redcap-api.md section 3).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import RedcapRejected, RedcapUnavailable
from fiona_dagster.redcap.incoming import IncomingProject, site_time
from fiona_dagster.redcap.layout import MESSAGE, REQUEST_FIELDS, STUDY, WITHDRAWN, Layout, TransferRequest

OVERLAP = timedelta(minutes=10)
"""How much is read twice: clocks differ, and a look takes its time. What was dealt with is known."""
_LISTED = (
    "transfer_requested_date",
    "transfer_project_name",
    "transfer_name",
    "transfer_event_name",
    "transfer_date",
)
"""Whatever decides where a study goes: what a list lacks, no difference could be seen in."""
_GONE = ("transfer_requested_date = ''", "transfer_project_name = ''")
"""How REDCap's log tells that a request was emptied."""


class RequestReader:
    """Reads requests of *Incoming*.

    Args:
        incoming: the project.
        zone: IANA name of the zone in which the server writes its times.
    """

    def __init__(self, incoming: IncomingProject, zone: str) -> None:
        self._client = incoming.client
        self._layout = Layout(self._client.repeating())
        self._zone = zone
        self.marks = (WITHDRAWN,) if incoming.knows_withdrawn else ()
        """The field of marks, where the project has it."""
        self.only_place = "transfers" not in self._layout.repeating
        """Whether a study has room for one request."""
        self.records: frozenset[str] = frozenset()
        """Names of all records, as the last list had them."""

    def listing(self) -> list[TransferRequest]:
        """Every request there is, without mapped UID, errors and message: one call.

        Raises:
            RedcapUnavailable: the list did not come whole, or lacks a field.
        """
        fields = (STUDY, *_LISTED, *self.marks)
        rows = self._client.export_records(fields=fields)
        self.records = frozenset(row.get(STUDY, "") for row in rows)
        return self._requests(rows)

    def changed(self, since: datetime) -> list[TransferRequest]:
        """The requests of all records that were made or changed since then, in full.

        Args:
            since: with time zone; some minutes before it are read as well, and the hour that a change of
                the clocks repeats.
        """
        begin = since - OVERLAP
        summer = _offset(begin, self._zone) - _offset(since + timedelta(hours=3), self._zone)
        begin -= max(summer, timedelta(0))
        fields = (STUDY, *REQUEST_FIELDS, MESSAGE, *self.marks)
        period = (site_time(begin, self._zone) + ":00", "")
        return self._requests(self._client.export_records(fields=fields, date_range=period))

    def of(self, studies: list[str]) -> list[TransferRequest]:
        """The requests of some records, in full."""
        fields = (STUDY, *REQUEST_FIELDS, MESSAGE, *self.marks)
        return self._requests(self._client.export_records(records=studies, fields=fields)) if studies else []

    def was_stamped(self, study: str, since: datetime) -> bool:
        """Whether REDCap's clock says that a record was made or changed since then.

        Args:
            study: name of the record.
            since: with time zone.
        """
        period = (site_time(since, self._zone) + ":00", "")
        return bool(self._client.export_records(records=[study], fields=(STUDY,), date_range=period))

    def was_taken_back(self, study: str, since: datetime) -> bool | None:
        """Whether REDCap's log says that the record, or a request in it, was deleted or emptied.

        Args:
            study: name of the record.
            since: with time zone.

        Returns:
            None: REDCap does not let us read its log (the token's user lacks the right *Logging*).
        """
        try:
            lines = self._client.log(record=study, begin=site_time(since, self._zone))
        except RedcapRejected:
            return None
        return any(
            line.get("action", "").lower().startswith("delete")
            or any(gone in line.get("details", "") for gone in _GONE)
            for line in lines
            if line.get("record") == study or study in line.get("action", "").split()
        )

    def _requests(self, rows: list[dict[str, str]]) -> list[TransferRequest]:
        """A field that the server leaves out is not an empty one: every request would seem to be emptied."""
        if lacking := sorted({name for name in (*_LISTED, *self.marks) for row in rows if name not in row}):
            raise RedcapUnavailable(
                f"REDCap left {', '.join(lacking)} out of its answer: the token's user needs the data export "
                "right *Full Data Set* for the instrument transfers"
            )
        found = self._layout.requests(rows, self._client.missing_codes)
        return [request for request in found if is_uid(request.study)]


def _offset(moment: datetime, zone: str) -> timedelta:
    there = datetime.strptime(site_time(moment, zone), "%Y-%m-%d %H:%M")
    here = datetime.strptime(site_time(moment, "UTC"), "%Y-%m-%d %H:%M")
    return there - here
