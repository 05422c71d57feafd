"""REDCap's *Incoming* project: studies that arrived, and what people want done with them.

Record id is the StudyInstanceUID; instruments *series* and *transfers* repeat (behaviour reference 7.1).
Every write can be repeated: it looks first, writes what differs, and reads back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from zoneinfo import ZoneInfo

from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import (
    ConfigurationError,
    RedcapRejected,
    RequestChanged,
    RequestRefused,
    UnknownStudy,
    UsageError,
)
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.layout import (
    ANONYMIZATION_ERROR,
    MESSAGE,
    REQUEST_FIELDS,
    SEND_ERROR,
    SERIES,
    STUDY,
    TRANSFER_ERRORS,
    WITHDRAWN,
    Layout,
    TransferRequest,
    holds,
)
from fiona_dagster.redcap.registering import StudyEntry, Wanted, rows_to_write
from fiona_dagster.redcap.rows import Row, clean_value

log = logging.getLogger("fiona.redcap")


@dataclass(frozen=True)
class Registration:
    """What :meth:`IncomingProject.register_studies` did."""

    rows_written: int
    """0: REDCap had everything already."""
    altered: tuple[str, ...] = ()
    """Descriptive fields that REDCap stored differently from what was sent."""


@dataclass(frozen=True)
class NewRequest:
    """A transfer that is to be asked for. Its repr shows no participant or event."""

    study: str
    project: str
    participant: str = field(repr=False)
    event: str = field(repr=False)
    beside: bool = False
    """Also where the study has requests for other projects."""


class IncomingProject:
    """Reads and writes *Incoming* through a client that holds its token."""

    def __init__(self, client: RedcapClient) -> None:
        self._client = client

    @property
    def client(self) -> RedcapClient:
        """The client that holds the project's token."""
        return self._client

    @property
    def knows_withdrawn(self) -> bool:
        """Whether this *Incoming* has a field in which a request can be marked as withdrawn."""
        return WITHDRAWN in self._client.columns

    @property
    def _request_fields(self) -> tuple[str, ...]:
        return (STUDY, *REQUEST_FIELDS, *((WITHDRAWN,) if self.knows_withdrawn else ()))

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self._client.repeating())

    def register_study(
        self,
        study_fields: Mapping[str, object],
        series_rows: Iterable[Mapping[str, object]] = (),
        optional_fields: Mapping[str, object] | None = None,
    ) -> Registration:
        """Makes the record of one study say this; see :meth:`register_studies`."""
        return self.register_studies([StudyEntry(study_fields, list(series_rows), optional_fields or {})])

    def register_studies(self, entries: Sequence[StudyEntry]) -> Registration:
        """Makes the studies' records say this, series by series: three calls for a hundred of them.

        What REDCap holds already is not written again; see :func:`~fiona_dagster.redcap.registering.
        rows_to_write` for what happens to series.

        Raises:
            UsageError: a UID is missing or malformed.
            RedcapUnavailable, RedcapRejected: see the client.
        """
        columns = self._client.columns if any(entry.optional for entry in entries) else frozenset()
        wanted = [Wanted.of(entry, columns) for entry in entries]
        if not wanted:
            return Registration(0)
        names = set().union(*(each.names for each in wanted))
        stored: dict[str, list[Row]] = {}
        for row in self._client.export_records(records=[each.study for each in wanted], fields=sorted(names)):
            stored.setdefault(row.get(STUDY, ""), []).append(row)
        rows = [
            row for each in wanted for row in rows_to_write(self._layout, each, stored.get(each.study, ()))
        ]
        return Registration(len(rows), self._write(rows, strict=(STUDY, SERIES)))

    def requests(self) -> list[TransferRequest]:
        """All transfer requests of all records, whether active, done or neither, by study and instance.

        Records whose name is no StudyInstanceUID are counted in the log and left out.
        """
        rows = self._client.export_records(fields=self._request_fields)
        every = self._layout.requests(rows, self._client.missing_codes)
        found = [request for request in every if is_uid(request.study)]
        strangers = len(every) - len(found)
        if strangers:
            log.warning(
                "Incoming has %d request(s) in records that are named by no StudyInstanceUID", strangers
            )
        return sorted(found, key=lambda request: (request.study, request.instance))

    def requests_of(self, study: str) -> list[TransferRequest]:
        """The transfer requests of one study.

        Raises:
            UnknownStudy: *Incoming* has no such record.
        """
        rows = self._rows_of(study, self._request_fields)
        found = self._layout.requests(rows, self._client.missing_codes)
        return sorted(found, key=lambda request: request.instance)

    def _rows_of(self, study: str, fields: Collection[str]) -> list[Row]:
        rows = self._client.export_records(records=[study], fields=fields)
        if not rows:
            raise UnknownStudy(
                f"study {study} is not registered in REDCap's Incoming; wait until it is complete"
            )
        return rows

    def write_request(
        self, study: str, project: str, participant: str, event: str, now: datetime, *, zone: str = "UTC"
    ) -> int:
        """Asks for a transfer; the same request that still waits, or has the same minute, is not made twice.

        Args:
            study: StudyInstanceUID of a registered study.
            project: acronym of the target project.
            participant: participant id.
            event: event name.
            now: time of the request, with time zone.
            zone: IANA name of the site's zone, in which REDCap's dates are written.

        Returns:
            Instance number of the request.

        Raises:
            UnknownStudy: *Incoming* has no such record.
            RequestRefused: *transfers* does not repeat, and the request that stands there still waits.
        """
        date = site_time(now, zone)
        wanted = {
            "transfer_requested_date": date,
            "transfer_project_name": clean_value(project),
            "transfer_name": clean_value(participant),
            "transfer_event_name": clean_value(event),
        }
        there = self.requests_of(study)
        for request in there:
            same = (request.project, request.participant, request.event) == tuple(wanted.values())[1:]
            waits = request.active and not request.transfer_date and not _failed(request)
            if same and (waits or request.requested_date == date):
                return request.instance
            if waits and "transfers" not in self._layout.repeating:
                raise RequestRefused(
                    f"study {study} has a request that still waits, and this Incoming has room for one; "
                    "make the instrument transfers repeating, or wait until that request is done"
                )
        instance = self._free_instance(there)
        self._write([self._layout.row(study, "transfers", instance, wanted)], strict=tuple(wanted))
        return instance

    def write_requests(self, wanted: Collection[NewRequest], now: datetime, *, zone: str) -> frozenset[str]:
        """Asks for many transfers at once, where nobody asked before: three calls for a hundred studies.

        A study that has any request, half filled in or not, is left alone: somebody is at it. With
        ``beside`` only a request for the same project counts.

        Args:
            wanted: at most one a study.
            now: time of the requests, with time zone.
            zone: IANA name of the site's zone.

        Returns:
            The studies whose request stands in REDCap now and was written by this call.

        Raises:
            RedcapRejected: REDCap did not store them.
            RedcapUnavailable: no usable answer; the same call later finds what was written.
        """
        by_study = {request.study: request for request in wanted}
        if not by_study:
            return frozenset()
        stored = self._client.export_records(records=list(by_study), fields=(STUDY, *REQUEST_FIELDS))
        registered = {row.get(STUDY, "") for row in stored}
        there: dict[str, list[TransferRequest]] = {}
        for request in self._layout.requests(stored, self._client.missing_codes):
            there.setdefault(request.study, []).append(request)
        rows = []
        for study, new in by_study.items():
            others = there.get(study, [])
            taken = any(other.project == new.project or not new.beside for other in others)
            no_room = bool(others) and "transfers" not in self._layout.repeating
            if study not in registered or taken or no_room:
                continue
            values = {
                "transfer_requested_date": site_time(now, zone),
                "transfer_project_name": clean_value(new.project),
                "transfer_name": clean_value(new.participant),
                "transfer_event_name": clean_value(new.event),
            }
            rows.append(self._layout.row(study, "transfers", self._free_instance(others), values))
        self._write(rows, strict=REQUEST_FIELDS[:4])
        return frozenset(row[STUDY] for row in rows)

    def _free_instance(self, there: Iterable[TransferRequest]) -> int:
        if "transfers" not in self._layout.repeating:
            return 1
        return max((request.instance for request in there), default=0) + 1

    def write_outcome(
        self,
        study: str,
        instance: int,
        *,
        transfer_date: datetime | None = None,
        zone: str = "UTC",
        mapped_uid: str | None = None,
        errors: Collection[int] = (),
        message: str | None = None,
        withdrawn: bool = False,
        expected: TransferRequest | None = None,
    ) -> bool:
        """Writes how a transfer ended.

        Args:
            study: StudyInstanceUID.
            instance: instance number of the request.
            transfer_date: when it was done, with time zone; None leaves what stands there.
            zone: IANA name of the site's zone.
            mapped_uid: StudyInstanceUID of the de-identified study; None leaves what stands there.
            errors: choices of ``transfer_error`` to tick; all others are unticked.
            message: messages of the last run; None erases those of an earlier run.
            withdrawn: mark it as withdrawn, where the project has a field for that.
            expected: the request as it was carried out; refuses when the instance asks for something else.

        Returns:
            Whether anything had to be written.

        Raises:
            RequestChanged: the instance asks for something else than what was carried out.
            RequestRefused: the request is gone.
        """
        stored = self._still_there(study, instance, expected)
        wanted = {
            column: "1" if code in errors else "0" for code, column in self._error_columns(errors).items()
        }
        wanted["transfer_error_message"] = clean_value(message)
        if transfer_date is not None:
            wanted["transfer_date"] = site_time(transfer_date, zone)
        if mapped_uid is not None:
            wanted["transfer_mapped_uid"] = clean_value(mapped_uid)
        if withdrawn and self.knows_withdrawn:
            wanted[WITHDRAWN] = "1"
        if holds(wanted, stored):
            return False
        row = self._layout.row(study, "transfers", instance, wanted)
        self._write([row], strict=tuple(name for name in wanted if name != "transfer_error_message"))
        return True

    def delete_request(self, study: str, instance: int) -> None:
        """Deletes one transfer request, and what REDCap logged of its values.

        Args:
            study: StudyInstanceUID.
            instance: instance number of the request; without meaning where *transfers* does not repeat.

        Raises:
            RedcapUnavailable, RedcapRejected: see the client.
        """
        number = instance if "transfers" in self._layout.repeating else None
        self._client.delete_records([study], instrument="transfers", instance=number, delete_logging=True)

    def _still_there(self, study: str, instance: int, expected: TransferRequest | None) -> Row:
        """The row in which a request stands, with all that FIONA writes into it."""
        where = f"transfer request {instance} of study {study}"
        rows = self._rows_of(study, (*self._request_fields, MESSAGE))
        requests = self._layout.requests(rows, self._client.missing_codes)
        found = next((one for one in requests if one.instance == instance), None)
        if found is None:
            raise RequestRefused(f"{where} is no longer in REDCap; its outcome is not written")
        if expected is not None and (found.project, found.participant, found.event) != (
            expected.project,
            expected.participant,
            expected.event,
        ):
            raise RequestChanged(f"{where} was changed in REDCap meanwhile; its outcome is not written")
        return self._layout.stored(rows, instance)

    def _error_columns(self, errors: Collection[int]) -> dict[int, str]:
        """Export names of the boxes of ``transfer_error``, as the server says.

        Raises:
            UsageError: REDCap has never had such a box.
            RedcapRejected: this site's dictionary lacks one that is to be ticked.
        """
        if unknown := set(errors) - set(TRANSFER_ERRORS):
            raise UsageError(f"transfer_error has no choice {sorted(unknown)}; use {TRANSFER_ERRORS}")
        there = self._client.columns_of("transfer_error")
        if lacking := [code for code in errors if str(code) not in there]:
            raise RedcapRejected(
                f"REDCap's transfer_error lacks choice {lacking[0]}; `fiona redcap check` says what else", 200
            )
        return {code: there[str(code)] for code in TRANSFER_ERRORS if str(code) in there}

    def _write(self, rows: Sequence[Row], *, strict: Collection[str]) -> tuple[str, ...]:
        """Imports, reads back, and returns the names of fields that were stored differently.

        Raises:
            RedcapRejected: one of the ``strict`` fields was not stored as sent.
        """
        if not rows:
            return ()
        altered: set[str] = set()
        for _ in range(2):  # what REDCap ignored is sent once more
            self._client.import_records(rows, overwrite=True, read_back=False)
            altered = self._client.differences(rows)
            if not altered & set(strict):
                break
        if lost := altered & set(strict):
            raise RedcapRejected(
                f"REDCap did not store {', '.join(sorted(lost))} as sent; check its dictionary", 200
            )
        if altered:
            log.warning("REDCap stored differently from what was sent: %s", ", ".join(sorted(altered)))
        return tuple(sorted(altered))


def site_time(moment: datetime, zone: str) -> str:
    """A moment as REDCap's ``datetime_ymd`` wants it: ``YYYY-MM-DD HH:MM`` in the site's zone.

    Raises:
        UsageError: the moment has no time zone.
        ConfigurationError: no such zone.
    """
    if moment.tzinfo is None:
        raise UsageError("a time without time zone can't be written to REDCap")
    try:
        local = moment.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(
            f"LOCALTIMEZONE {zone!r} is no IANA time zone, such as Europe/Oslo"
        ) from None
    return local.strftime("%Y-%m-%d %H:%M")


def _failed(request: TransferRequest) -> bool:
    return ANONYMIZATION_ERROR in request.errors or SEND_ERROR in request.errors
