"""Client of REDCap's API: records, their files, the log (redcap-api.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable, UsageError
from fiona_dagster.redcap.rows import (
    EVENT,
    INSTANCE,
    PSEUDO_FIELDS,
    Row,
    batches,
    clean_row,
    indexed,
    record_batches,
    row_key,
    same_value,
)
from fiona_dagster.redcap.structure import Structure
from fiona_dagster.redcap.transport import Reply

_FILE_NAME = re.compile(r'\bname="?([^";]*)"?')


class RedcapClient(Structure):
    """Talks to one REDCap project: what :class:`Structure` reads, records, files and the log.

    Reads, and imports that can be repeated without harm (upserts by record id and instance number), are
    tried up to ``tries`` times when the fault can pass.
    """

    def log(self, *, record: str = "", begin: str = "") -> list[Row]:
        """REDCap's log, newest first (``content=log``).

        Args:
            record: only entries of this record.
            begin: only entries since then, ``YYYY-MM-DD HH:MM`` in the server's time.
        """
        wanted = {"record": record, "beginTime": begin}
        return self._rows({"content": "log", **{key: value for key, value in wanted.items() if value}})

    def export_records(
        self,
        *,
        records: Collection[str] = (),
        fields: Collection[str] = (),
        forms: Collection[str] = (),
        events: Collection[str] = (),
        filter_logic: str = "",
        date_range: tuple[str, str] = ("", ""),
        groups: bool = False,
    ) -> list[Row]:
        """Flat rows (``content=record``); named records are asked for in batches.

        Args:
            records: record ids; empty for all.
            fields: original field names (``meds``, not ``meds___1``). The record id comes only if named.
            forms: instruments, in addition to ``fields``.
            events: unique event names of a longitudinal project.
            filter_logic: REDCap logic.
            date_range: created or modified after / before, ``YYYY-MM-DD HH:MM:SS`` in the server's time.
            groups: with ``redcap_data_access_group``; servers leave it out for a user who is in a group.
        """
        base = {
            "content": "record",
            "action": "export",
            "type": "flat",
            **indexed("fields", fields),
            **indexed("forms", forms),
            **indexed("events", events),
        }
        extra = zip(
            ("filterLogic", "dateRangeBegin", "dateRangeEnd"), (filter_logic, *date_range), strict=True
        )
        base |= {key: value for key, value in extra if value}
        if groups:
            base["exportDataAccessGroups"] = "true"
        rows: list[Row] = []
        try:
            for batch in batches(list(dict.fromkeys(records))) if records else [[]]:
                rows += self._rows({**base, **indexed("records", batch)}, sent=batch)
        except RedcapRejected:  # perhaps a field is gone that is remembered
            self.forget_structure()
            raise
        return rows

    def import_records(
        self, rows: Sequence[Mapping[str, str]], *, overwrite: bool = False, read_back: bool = True
    ) -> int:
        """Upserts flat rows (``content=record``, ``action=import``); records are counted, not rows.

        REDCap's count proves nothing: it may be 0 and mean it, or not, and rows may be ignored with a count
        that is right. So what it holds is read back and decides.

        Args:
            rows: rows with the record id first; ``redcap_repeat_instance`` may be ``new``, then the call
                is made once only.
            overwrite: True erases fields that come empty; False leaves what is stored.
            read_back: False where the caller compares with :meth:`differences` itself; then it is read
                back only if the count is wrong.

        Returns:
            The number of records.

        Raises:
            RedcapRejected: refused, or not there when read back.
            UsageError: a row holds no field, or no event in a longitudinal project; REDCap would say 200,
                and ignore the one and put the other into the first event.
        """
        clean = [clean_row(row) for row in rows]
        self._check_rows(clean)
        done = 0
        try:
            for batch in record_batches(clean):
                done += self._import_batch(batch, overwrite=overwrite, read_back=read_back)
        except RedcapRejected:
            self.forget_structure()
            raise
        return done

    def _check_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if len(row) < 2 or not set(list(row)[1:]) - set(PSEUDO_FIELDS):
                raise UsageError("a row with nothing but its record id can't be imported; REDCap ignores it")
        if any(not row.get(EVENT) for row in rows) and self.longitudinal:
            raise UsageError(
                "a row without redcap_event_name can't be imported into a longitudinal project; "
                "it would land in the first event"
            )

    def _import_batch(self, rows: list[Row], *, overwrite: bool, read_back: bool) -> int:
        """Imports; what REDCap ignored is sent once more, since that too may pass."""
        tries = 1 if any(row.get(INSTANCE) == "new" for row in rows) else 2
        for _ in range(tries):
            count, missing = self._import_once(rows, overwrite=overwrite, read_back=read_back)
            if not missing:
                return len({next(iter(row.values())) for row in rows})
        raise RedcapRejected(
            f"REDCap call content=record: import answered count {_short(count)} and did not store "
            f"{', '.join(sorted(missing))}; check set-up and rights there",
            200,
        )

    def _import_once(self, rows: list[Row], *, overwrite: bool, read_back: bool) -> tuple[object, set[str]]:
        records = {next(iter(row.values())) for row in rows}
        names = {key for row in rows for key in row}
        answer = self._json(
            {
                "content": "record",
                "action": "import",
                "type": "flat",
                "overwriteBehavior": "overwrite" if overwrite else "normal",
                "returnContent": "count",
                "data": json.dumps(rows),
            },
            known=names,
            sent={value for row in rows for value in row.values()},
            repeatable=all(row.get(INSTANCE) != "new" for row in rows),
        )
        count = answer.get("count") if isinstance(answer, dict) else None
        missing: set[str] = set()
        if str(count) != str(len(records)):
            missing = self.differences(rows, empty_counts=overwrite)
        elif read_back:
            missing = self._ignored(rows)
        return count, missing

    def differences(self, rows: Sequence[Mapping[str, str]], *, empty_counts: bool = True) -> set[str]:
        """Names of the columns in which REDCap holds something else than these rows say.

        Args:
            rows: rows as they were imported, with real instance numbers.
            empty_counts: whether an empty value means that the stored one must be empty.
        """
        wrong: set[str] = set()
        for row, there in self._stored(rows):
            wrong |= {name for name in _differing(row, there) if row[name] or empty_counts}
        return wrong

    def _ignored(self, rows: Sequence[Row]) -> set[str]:
        """Names of the columns of rows of which REDCap holds nothing at all."""
        numbered = [row for row in rows if row.get(INSTANCE) != "new"]
        lost: set[str] = set()
        for row, there in self._stored(numbered) if numbered else ():
            told = {name for name in list(row)[1:] if name not in PSEUDO_FIELDS and row[name]}
            if told and told <= set(_differing(row, there)):
                lost |= told
        return lost

    def _stored(self, rows: Sequence[Mapping[str, str]]) -> list[tuple[Row, Row]]:
        """Each row with the one that REDCap holds in its place; an empty one where there is none."""
        record_id = next(iter(rows[0]))
        fields = {key.partition("___")[0] for row in rows for key in row if key not in PSEUDO_FIELDS}
        stored = self.export_records(
            records=[row[record_id] for row in rows],
            fields=sorted(fields | {record_id}),
            events=sorted({row[EVENT] for row in rows if row.get(EVENT)}),
        )
        found = {row_key(row, record_id): row for row in stored}
        pairs: list[tuple[Row, Row]] = []
        for row in map(clean_row, rows):
            key = row_key(row, record_id)
            pairs.append((row, found.get(key) or found.get((*key[:3], key[3] or "1"), {})))
        return pairs

    def delete_records(
        self,
        records: Sequence[str],
        *,
        instrument: str = "",
        instance: int | None = None,
        event: str = "",
        delete_logging: bool = False,
    ) -> int:
        """Deletes records, or one instance of an instrument in them; tried once only.

        Args:
            records: record ids.
            instrument: only this instrument.
            instance: only this instance of it.
            event: only in this event.
            delete_logging: what REDCap's log holds of the values goes, too, where the server allows it.

        Returns:
            The number that REDCap says.
        """
        fields = {"content": "record", "action": "delete", **indexed("records", records)}
        if instrument:
            fields["instrument"] = instrument
        if event:
            fields["event"] = event
        if instance is not None:
            fields["repeat_instance"] = str(instance)
        if delete_logging:
            fields["delete_logging"] = "1"
        answer = self._json(fields, sent=set(records), repeatable=False)
        return int(answer) if isinstance(answer, int | str) and str(answer).isdigit() else 0

    def import_metadata(self, rows: Sequence[Mapping[str, str]]) -> int:
        """Replaces the data dictionary (``content=metadata``, needs design rights); counts its fields.

        Repeatable: the same dictionary again changes nothing.
        """
        answer = self._json(
            {"content": "metadata", "action": "import", "data": json.dumps([dict(row) for row in rows])},
            known={row.get("field_name", "") for row in rows},
        )
        return int(answer) if isinstance(answer, int | str) and str(answer).isdigit() else 0

    def import_structure(self, content: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Makes arms, events, their instruments, or repeats; repeatable.

        Args:
            content: ``arm``, ``event``, ``formEventMapping`` or ``repeatingFormsEvents``.
            rows: as :class:`Structure` reads them.
        """
        self._json(
            {"content": content, "action": "import", "override": "0", "data": json.dumps(list(rows))},
            known={str(value) for row in rows for value in row.values()},
        )

    def export_file(
        self, record: str, field: str, *, event: str = "", instance: int | None = None
    ) -> tuple[str, bytes]:
        """Name and bytes of the file in a field (``content=file``). The name is not to be trusted.

        Raises:
            RedcapRejected: no such field, or nothing is stored there.
        """

        def parse(reply: Reply) -> tuple[str, bytes]:
            name = _FILE_NAME.search(reply.content_type)
            if name is None:
                raise RedcapUnavailable("REDCap call content=file: the answer is not a file")
            return name[1], reply.content

        fields = _file_place("export", record, field, event, instance)
        return self._call(fields, (), {record}, self._tries, parse, is_file=_is_file)

    def import_file(
        self,
        record: str,
        field: str,
        name: str,
        content: bytes,
        *,
        event: str = "",
        instance: int | None = None,
    ) -> None:
        """Stores a file in a field, in place of one that is there; repeatable.

        Args:
            record: record id.
            field: a field of type file.
            name: file name, as people will see it.
            content: its bytes.
            event: unique event name; needed in longitudinal projects.
            instance: instance number, on repeating instruments or events.
        """
        fields = _file_place("import", record, field, event, instance)
        self._call(fields, (), {record, name}, self._tries, _nothing, file=(name, content))

    def delete_file(self, record: str, field: str, *, event: str = "", instance: int | None = None) -> None:
        """Takes the file out of a field; tried once only."""
        fields = _file_place("delete", record, field, event, instance)
        self._call(fields, (), {record}, 1, _nothing)


def _differing(row: Row, there: Row) -> list[str]:
    return [
        name
        for name, value in row.items()
        if name not in PSEUDO_FIELDS and not same_value(name, value, there.get(name, ""))
    ]


def _file_place(action: str, record: str, field: str, event: str, instance: int | None) -> dict[str, str]:
    place = {"content": "file", "action": action, "record": record, "field": field}
    if event:
        place["event"] = event
    if instance is not None:
        place["repeat_instance"] = str(instance)
    return place


def _is_file(reply: Reply) -> bool:
    return reply.status == 200 and _FILE_NAME.search(reply.content_type) is not None


def _nothing(reply: Reply) -> None:
    """What answers the import or removal of a file (redcap-api.md section 2); a page is no answer."""
    if reply.body.strip():
        raise RedcapUnavailable("REDCap call content=file: the answer is not REDCap's; it should be empty")


def _short(count: object) -> str:
    return str(count) if isinstance(count, int) or (isinstance(count, str) and count.isdigit()) else "unknown"
