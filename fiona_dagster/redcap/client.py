"""Client of REDCap's API: one endpoint, POST, everything JSON (redcap-api.md)."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable
from fiona_dagster.redcap import answers
from fiona_dagster.redcap.rows import (
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
from fiona_dagster.redcap.transport import CallBudget, Reply, Transport

log = logging.getLogger("fiona.redcap")

FIRST_WAIT = 0.5
"""Seconds before the second try; three times as long before the third."""
LONGEST_WAIT = 10.0
"""Seconds that a server's Retry-After may make us wait inside a call; later is the caller's business."""

_T = TypeVar("_T")


class RedcapClient:
    """Talks to one REDCap project.

    Reads, and imports that can be repeated without harm (upserts by record id and instance number), are
    tried up to ``tries`` times when the fault can pass.

    Args:
        url: API address, ``https://HOST/api/``; http only on loopback.
        token: 32 hexadecimal characters; stays out of every message, log line and repr.
        timeout: seconds for connecting and for each silence of the server.
        ca_file: certificates to trust in place of the system's.
        calls_per_minute: budget in any 60 seconds.
        tries: calls at most for one request, first one included.
        sleep: how to wait; tests replace it.

    Raises:
        ConfigurationError: address, token or certificate file can't be right.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        ca_file: Path | str | None = None,
        calls_per_minute: int = 300,
        tries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        budget = CallBudget(calls_per_minute, sleep=sleep)
        self._transport = Transport(url, token, timeout=timeout, ca_file=ca_file, budget=budget)
        self._tries = max(1, tries)
        self._sleep = sleep
        self._record_id: str | None = None

    def __repr__(self) -> str:
        return f"<RedcapClient {self._transport.url}>"

    def version(self) -> str:
        """REDCap's version, for example ``14.5.5`` (``content=version``)."""
        text = self._text({"content": "version"}).strip()
        if not re.fullmatch(r"\d+(\.\d+)*", text):
            raise RedcapUnavailable("REDCap call content=version: the answer is no version number")
        return text

    def project(self) -> dict[str, Any]:
        """Settings of the project (``content=project``)."""
        answer = self._json({"content": "project"})
        if not isinstance(answer, dict):
            raise RedcapUnavailable("REDCap call content=project: the answer is not an object")
        return answer

    def metadata(self, fields: Collection[str] = (), forms: Collection[str] = ()) -> list[Row]:
        """The data dictionary (``content=metadata``); its first row is the record id field."""
        return self._rows({"content": "metadata", **indexed("fields", fields), **indexed("forms", forms)})

    def instruments(self) -> list[Row]:
        """Names and labels of the instruments (``content=instrument``)."""
        return self._rows({"content": "instrument"})

    def field_names(self) -> list[Row]:
        """Export names of all fields, a row per checkbox choice (``content=exportFieldNames``)."""
        return self._rows({"content": "exportFieldNames"})

    def repeating(self) -> frozenset[str]:
        """Instruments that repeat (``content=repeatingFormsEvents``); empty when nothing does."""
        try:
            rows = self._rows({"content": "repeatingFormsEvents"})
        except RedcapRejected as error:
            # that nothing repeats is reported as an error 400 (redcap-api.md section 8)
            if error.status == 400 and "does not contain any repeating" in str(error):
                return frozenset()
            raise
        return frozenset(row.get("form_name", "") for row in rows)

    def record_id_field(self) -> str:
        """Name of the record id field, asked for once."""
        if self._record_id is None:
            rows = self.metadata()
            if not rows:
                raise RedcapUnavailable("REDCap call content=metadata: the dictionary is empty")
            self._record_id = rows[0]["field_name"]
        return self._record_id

    def next_record_name(self) -> str:
        """A free record name (``content=generateNextRecordName``); reserves nothing."""
        return self._text({"content": "generateNextRecordName"}).strip()

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
    ) -> list[Row]:
        """Flat rows (``content=record``); named records are asked for in batches.

        Args:
            records: record ids; empty for all.
            fields: original field names (``meds``, not ``meds___1``). The record id comes only if named.
            forms: instruments, in addition to ``fields``.
            events: unique event names of a longitudinal project.
            filter_logic: REDCap logic.
            date_range: created or modified after / before, ``YYYY-MM-DD HH:MM:SS`` in the server's time.
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
        rows: list[Row] = []
        for batch in batches(list(dict.fromkeys(records))) if records else [[]]:
            rows += self._rows({**base, **indexed("records", batch)}, sent=batch)
        return rows

    def import_records(self, rows: Sequence[Mapping[str, str]], *, overwrite: bool = False) -> int:
        """Upserts flat rows (``content=record``, ``action=import``); records are counted, not rows.

        When REDCap's count is not the number of records sent (it may say 0 and mean it, or not), what it
        holds is read back and decides.

        Args:
            rows: rows with the record id first; ``redcap_repeat_instance`` may be ``new``, then the call
                is made once only.
            overwrite: True erases fields that come empty; False leaves what is stored.

        Returns:
            The number of records.

        Raises:
            RedcapRejected: refused, or not there when read back.
        """
        clean = [clean_row(row) for row in rows]
        done = 0
        for batch in record_batches(clean):
            done += self._import_batch(batch, overwrite=overwrite)
        return done

    def _import_batch(self, rows: list[Row], *, overwrite: bool) -> int:
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
        if str(count) != str(len(records)) and (missing := self.differences(rows, empty_counts=overwrite)):
            raise RedcapRejected(
                f"REDCap call content=record: import answered count {_short(count)} for {len(records)} "
                f"record(s) and did not store {', '.join(sorted(missing))}; check set-up and rights there",
                200,
            )
        return len(records)

    def differences(self, rows: Sequence[Mapping[str, str]], *, empty_counts: bool = True) -> set[str]:
        """Names of the columns in which REDCap holds something else than these rows say.

        Args:
            rows: rows as they were imported, with real instance numbers.
            empty_counts: whether an empty value means that the stored one must be empty.
        """
        record_id = next(iter(rows[0]))
        fields = {key.partition("___")[0] for row in rows for key in row if key not in PSEUDO_FIELDS}
        stored = self.export_records(
            records=[row[record_id] for row in rows], fields=sorted(fields | {record_id})
        )
        found = {row_key(row, record_id): row for row in stored}
        wrong: set[str] = set()
        for row in map(clean_row, rows):
            there = found.get(row_key(row, record_id), {})
            wrong |= {
                name
                for name, value in row.items()
                if name not in PSEUDO_FIELDS
                and (value or empty_counts)
                and not same_value(name, value, there.get(name, ""))
            }
        return wrong

    def delete_records(
        self, records: Sequence[str], *, instrument: str = "", instance: int | None = None
    ) -> int:
        """Deletes records, or one instance of an instrument in them; tried once only.

        Returns:
            The number that REDCap says.
        """
        fields = {"content": "record", "action": "delete", **indexed("records", records)}
        if instrument:
            fields["instrument"] = instrument
        if instance is not None:
            fields["repeat_instance"] = str(instance)
        answer = self._json(fields, sent=set(records), repeatable=False)
        return int(answer) if isinstance(answer, int | str) and str(answer).isdigit() else 0

    def _rows(self, fields: Mapping[str, str], sent: Collection[str] = ()) -> list[Row]:
        answer = self._json(fields, sent=sent)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise RedcapUnavailable(
                f"REDCap call content={fields['content']}: the answer is not a list of rows"
            )
        return [{key: "" if value is None else str(value) for key, value in row.items()} for row in answer]

    def _json(
        self,
        fields: Mapping[str, str],
        known: Collection[str] = (),
        sent: Collection[str] = (),
        *,
        repeatable: bool = True,
    ) -> Any:
        tries = self._tries if repeatable else 1
        return self._call(
            fields, known, sent, tries, lambda body: answers.parse_json(body, fields["content"])
        )

    def _text(self, fields: Mapping[str, str]) -> str:
        return self._call(fields, (), (), self._tries, str)

    def _call(
        self,
        fields: Mapping[str, str],
        known: Collection[str],
        sent: Collection[str],
        tries: int,
        parse: Callable[[str], _T],
    ) -> _T:
        """Calls until it works, the fault can't pass, or the tries are used up."""
        attempt = 1
        while True:
            wait: float | None = None
            try:
                reply = self._post(fields)
                wait = reply.retry_after
                answers.judge(
                    reply.status,
                    reply.body,
                    content=fields["content"],
                    known=_speakable(fields) | answers.field_names(known),
                    sent=sent,
                )
                return parse(reply.body)
            except RedcapUnavailable as error:
                if attempt >= tries:
                    raise
                log.warning("%s (try %d of %d)", error, attempt, tries)
            self._sleep(min(wait, LONGEST_WAIT) if wait else _back_off(attempt))
            attempt += 1

    def _post(self, fields: Mapping[str, str]) -> Reply:
        started = time.monotonic()
        reply = self._transport.post({"format": "json", "returnFormat": "json", **fields})
        log.debug(
            "REDCap content=%s action=%s status=%d characters=%d seconds=%.3f",
            fields["content"],
            fields.get("action", ""),
            reply.status,
            len(reply.body),
            time.monotonic() - started,
        )
        return reply


def _speakable(fields: Mapping[str, str]) -> set[str]:
    """Names in a call that may stand in an error: parameters, fields, forms, contents."""
    lists = re.compile(r"(fields|forms)\[|(content|format|returnFormat|action)$")
    return {key.partition("[")[0] for key in fields} | {
        text for key, text in fields.items() if lists.match(key)
    }


def _back_off(attempt: int) -> float:
    return float(FIRST_WAIT * 3 ** (attempt - 1) * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing


def _short(count: object) -> str:
    return str(count) if isinstance(count, int) or (isinstance(count, str) and count.isdigit()) else "unknown"
