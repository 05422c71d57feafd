"""REDCap's *Incoming* project: studies that arrived, and what people want done with them.

Record id is the StudyInstanceUID; instruments *series* and *transfers* repeat (behaviour reference 7.1).
Every write can be repeated: it looks first, writes what differs, and reads back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import (
    ConfigurationError,
    RedcapRejected,
    RedcapUnavailable,
    RequestRefused,
    UnknownStudy,
    UsageError,
)
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.rows import INSTANCE, INSTRUMENT, Row, clean_value, same_value

log = logging.getLogger("fiona.redcap")

STUDY = "study_instance_uid"
SERIES = "series_instance_uid"

ANONYMIZATION_ERROR = 1
SEND_ERROR = 2
PIXELS_REWRITTEN = 3
TRANSFER_ERRORS = (ANONYMIZATION_ERROR, SEND_ERROR, PIXELS_REWRITTEN)
"""Choices of the checkbox ``transfer_error``."""

_REQUEST_FIELDS = (
    "transfer_requested_date",
    "transfer_project_name",
    "transfer_name",
    "transfer_event_name",
    "transfer_date",
    "transfer_error",
    "transfer_mapped_uid",
)


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

    @property
    def active(self) -> bool:
        """A request counts when its date and its project are filled in."""
        return bool(self.requested_date and self.project)


@dataclass(frozen=True)
class Registration:
    """What :meth:`IncomingProject.register_study` did."""

    rows_written: int
    """0: REDCap had everything already."""
    altered: tuple[str, ...] = ()
    """Descriptive fields that REDCap stored differently from what was sent."""


class IncomingProject:
    """Reads and writes *Incoming* through a client that holds its token."""

    def __init__(self, client: RedcapClient) -> None:
        self._client = client

    def register_study(
        self,
        study_fields: Mapping[str, object],
        series_rows: Iterable[Mapping[str, object]] = (),
        optional_fields: Mapping[str, object] | None = None,
    ) -> Registration:
        """Makes the study's record say this, series by series.

        A series keeps its instance number, found by ``series_instance_uid``; a new one gets the next free.
        Series that REDCap has and we don't are left alone.

        Args:
            study_fields: ``study_instance_uid`` and the other ``study_*`` fields.
            series_rows: one mapping of ``series_*`` fields per series, each with ``series_instance_uid``.
            optional_fields: more ``study_*`` fields, written where the project has them; a site's *Incoming*
                may be older than the field.

        Raises:
            UsageError: a UID is missing or malformed.
            RedcapUnavailable, RedcapRejected: see the client.
        """
        study = _uid(study_fields, STUDY)
        wanted_study = {key: clean_value(value) for key, value in study_fields.items()}
        if optional_fields:
            there = {row.get("export_field_name", "") for row in self._client.field_names()}
            wanted_study |= {k: clean_value(v) for k, v in optional_fields.items() if k in there}
        wanted_series = [{key: clean_value(value) for key, value in row.items()} for row in series_rows]
        names = {key for row in wanted_series for key in row}
        stored = self._client.export_records(records=[study], fields=sorted({STUDY, *wanted_study, *names}))
        series = _instances(stored, "series")
        rows = [] if _equal(wanted_study, _base(stored)) else [_row(study, "", "", wanted_study)]
        numbers = {row.get(SERIES, ""): number for number, row in sorted(series.items(), reverse=True)}
        free = max(series, default=0)
        for wanted in wanted_series:
            number = numbers.get(_uid(wanted, SERIES))
            if number is None:
                free += 1
                number = numbers[wanted[SERIES]] = free
            if not _equal(wanted, series.get(number, {})):
                rows.append(_row(study, "series", number, wanted))
        return Registration(len(rows), self._write(rows, strict=(STUDY, SERIES)))

    def requests(self) -> list[TransferRequest]:
        """All transfer requests of all records, whether active, done or neither, by study and instance.

        Records whose name is no StudyInstanceUID are counted in the log and left out.
        """
        rows = self._client.export_records(fields=(STUDY, *_REQUEST_FIELDS))
        found: list[TransferRequest] = []
        strangers = 0
        for row in rows:
            plain = INSTRUMENT not in row
            if not plain and row[INSTRUMENT] != "transfers":
                continue
            request = _request(row)
            if not any(row.get(name) for name in _REQUEST_FIELDS) and not request.errors:
                continue
            if is_uid(request.study):
                found.append(request)
            else:
                strangers += 1
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
        rows = self._client.export_records(records=[study], fields=(STUDY, *_REQUEST_FIELDS))
        if not rows:
            raise UnknownStudy(
                f"study {study} is not registered in REDCap's Incoming; wait until it is complete"
            )
        return [_request(row) for _, row in sorted(_instances(rows, "transfers").items())]

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
        instance = max((request.instance for request in there), default=0) + 1
        self._write([_row(study, "transfers", instance, wanted)], strict=tuple(wanted))
        return instance

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
            expected: the request as it was carried out; refuses when the instance asks for something else.

        Returns:
            Whether anything had to be written.

        Raises:
            RequestRefused: the request is gone, or is not the one that was carried out.
        """
        self._still_there(study, instance, expected)
        wanted = {
            f"transfer_error___{code}": "1" if code in errors else "0" for code in self._error_codes(errors)
        }
        wanted["transfer_error_message"] = clean_value(message)
        if transfer_date is not None:
            wanted["transfer_date"] = site_time(transfer_date, zone)
        if mapped_uid is not None:
            wanted["transfer_mapped_uid"] = clean_value(mapped_uid)
        row = _row(study, "transfers", instance, wanted)
        if not self._client.differences([row]):
            return False
        self._write([row], strict=tuple(name for name in wanted if name != "transfer_error_message"))
        return True

    def _still_there(self, study: str, instance: int, expected: TransferRequest | None) -> None:
        where = f"transfer request {instance} of study {study}"
        found = next((one for one in self.requests_of(study) if one.instance == instance), None)
        if found is None:
            raise RequestRefused(f"{where} is no longer in REDCap; its outcome is not written")
        if expected is not None and (found.project, found.participant, found.event) != (
            expected.project,
            expected.participant,
            expected.event,
        ):
            raise RequestRefused(f"{where} was changed in REDCap meanwhile; its outcome is not written")

    def _error_codes(self, errors: Collection[int]) -> tuple[int, ...]:
        if unknown := set(errors) - set(TRANSFER_ERRORS):
            raise UsageError(f"transfer_error has no choice {sorted(unknown)}; use {TRANSFER_ERRORS}")
        return TRANSFER_ERRORS

    def _write(self, rows: Sequence[Row], *, strict: Collection[str]) -> tuple[str, ...]:
        """Imports, reads back, and returns the names of fields that were stored differently.

        Raises:
            RedcapRejected: one of the ``strict`` fields was not stored as sent.
        """
        if not rows:
            return ()
        self._client.import_records(rows, overwrite=True)
        altered = self._client.differences(rows)
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


def _uid(row: Mapping[str, object], name: str) -> str:
    value = str(row.get(name) or "")
    if not is_uid(value):
        raise UsageError(f"{name} is missing or no UID; the study can't be registered in REDCap")
    return value


def _row(study: str, instrument: str, instance: int | str, values: Mapping[str, str]) -> Row:
    return {STUDY: study, INSTRUMENT: instrument, INSTANCE: str(instance), **values}


def _base(rows: Iterable[Row]) -> Row:
    return next((row for row in rows if not row.get(INSTRUMENT)), {})


def _instances(rows: Iterable[Row], instrument: str) -> dict[int, Row]:
    return {_number(row): row for row in rows if row.get(INSTRUMENT) == instrument}


def _number(row: Row) -> int:
    text = row.get(INSTANCE) or "1"
    if not text.isdigit():
        raise RedcapUnavailable("REDCap sent a redcap_repeat_instance that is no number")
    return int(text)


def _equal(wanted: Row, stored: Row) -> bool:
    return all(name in stored and same_value(name, value, stored[name]) for name, value in wanted.items())


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
    )
