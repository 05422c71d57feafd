"""A research project's own REDCap project: its events, and an entry for each copy that was delivered.

The fields are those of the minimal dictionary that ships (behaviour reference 7.6): the instrument *imaging*
repeats in the events that have it, in the record that is named by the participant id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fiona_dagster.errors import RedcapRejected
from fiona_dagster.redcap.client import RedcapClient
from fiona_dagster.redcap.layout import holds
from fiona_dagster.redcap.rows import EVENT, INSTANCE, INSTRUMENT, Row, clean_value

IMAGING = "imaging"
UID = "imaging_study_uid"
IMAGING_FIELDS = (UID, "imaging_event_name", "imaging_study_date", "imaging_study_description")


@dataclass(frozen=True)
class ImagingEntry:
    """What the project is told of a delivered copy; every value is of the copy."""

    participant: str = field(repr=False)
    event: str = field(repr=False)
    study_uid: str = field(repr=False)
    study_date: str = field(repr=False)
    """``YYYY-MM-DD``, or empty."""
    description: str = field(repr=False)


class ResearchProject:
    """Reads and writes a project's own REDCap through a client that holds its token."""

    def __init__(self, client: RedcapClient) -> None:
        self._client = client

    @property
    def client(self) -> RedcapClient:
        """The client that holds the project's token."""
        return self._client

    def event_names(self) -> list[str]:
        """The events as people see them; none in a classic project."""
        return [row.get("event_name", "") for row in self._client.events()]

    def has_event(self, event: str) -> bool:
        """Whether there is such an event, by its name or unique name; a classic project has them all."""
        events = self._client.events()
        return not events or any(
            event in (row.get("event_name"), row.get("unique_event_name")) for row in events
        )

    def participants(self) -> set[str]:
        """Names of all records."""
        record_id = self._client.record_id_field()
        return {row.get(record_id, "") for row in self._client.export_records(fields=[record_id])}

    def write_imaging(self, entry: ImagingEntry) -> bool:
        """Makes sure that the copy has its entry, once; it is found by its StudyInstanceUID.

        Returns:
            Whether anything had to be written.

        Raises:
            RedcapRejected: the project has no instrument *imaging*, refused, or did not store the entry.
            RedcapUnavailable: no usable answer; the same call later does no harm.
        """
        record_id = self._client.record_id_field()
        event = self._imaging_event(entry.event, entry.participant)
        wanted = {
            UID: clean_value(entry.study_uid),
            "imaging_event_name": clean_value(entry.event),
            "imaging_study_date": clean_value(entry.study_date),
            "imaging_study_description": clean_value(entry.description),
        }
        stored = self._client.export_records(records=[entry.participant], fields=(record_id, *IMAGING_FIELDS))
        place = {record_id: entry.participant, **({EVENT: event} if event else {})}
        there = [row for row in stored if row.get(EVENT, "") == event]
        found = next((row for row in stored if row.get(UID) == entry.study_uid), None)
        if found is not None:
            if holds(wanted, found):
                return False
            place = {key: found[key] for key in (record_id, EVENT, INSTRUMENT, INSTANCE) if found.get(key)}
        elif (event, IMAGING) in self._client.repeats():
            numbers = [int(row[INSTANCE]) for row in there if str(row.get(INSTANCE, "")).isdecimal()]
            place |= {INSTRUMENT: IMAGING, INSTANCE: str(max(numbers, default=0) + 1)}
        elif any(row.get(UID) for row in there):
            raise RedcapRejected(
                "the project's REDCap has room for one study in this record, and another one stands there; "
                "make the instrument imaging repeating",
                200,
            )
        row: Row = {**place, **wanted}
        self._client.import_records([row], overwrite=True, read_back=False)
        if lost := self._client.differences([row]):
            raise RedcapRejected(f"the project's REDCap did not store {', '.join(sorted(lost))} as sent", 200)
        return True

    def _imaging_event(self, event: str, participant: str) -> str:
        """Unique name of the event that gets the entry: the requested one, or the first that has *imaging*.

        Of events that several arms have, the one counts whose arm the record is in: an entry elsewhere would
        make the participant one of both arms.

        Raises:
            RedcapRejected: no event has the instrument.
        """
        events = self._client.events()
        if not events:
            return ""
        with_imaging = {
            row.get("unique_event_name") for row in self._client.form_events() if row.get("form") == IMAGING
        }
        arms = {row.get("unique_event_name", ""): str(row.get("arm_num", "")) for row in events}
        asked = {
            row.get("unique_event_name", "")
            for row in events
            if event in (row.get("event_name"), row.get("unique_event_name"))
        }
        mine = self._arms_of(participant, arms) if len(set(arms.values())) > 1 else set()
        found = sorted(arms, key=lambda name: (name not in asked, bool(mine) and arms[name] not in mine))
        for name in found:  # sorted in a stable way: in the project's order
            if name in with_imaging:
                return name
        raise RedcapRejected("the project's REDCap has no event with the instrument imaging", 200)

    def _arms_of(self, participant: str, arms: Mapping[str, str]) -> set[str]:
        """The arms in which a record is."""
        record_id = self._client.record_id_field()
        rows = self._client.export_records(records=[participant], fields=(record_id,))
        return {arms[row[EVENT]] for row in rows if row.get(EVENT) in arms}
