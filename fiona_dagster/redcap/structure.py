"""What a REDCap project is made of: dictionary, events, repeats, codes, groups; asked for once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from fiona_dagster.errors import RedcapUnavailable
from fiona_dagster.redcap.calls import Caller
from fiona_dagster.redcap.rows import Row, indexed

REMEMBERED_SECONDS = 600.0
"""How long processes share what one of them read of a project's set-up."""

CHOICES = "select_choices_or_calculations"
_T = TypeVar("_T")


class Structure(Caller):
    """Reads a project's set-up. What the gateway relies on in every call is remembered by the object.

    With a ``structure_file`` other processes get it from there for ten minutes, and after a refusal it is
    asked for anew: every run is a new process, and three of its five calls would ask for what never changes.
    """

    def _remembered(self, name: str, ask: Callable[[], _T]) -> _T:
        if self._structure_file is None:
            return ask()
        known = _read(self._structure_file)
        if name not in known:
            answer = ask()
            known = {**_read(self._structure_file), name: answer}
            known.setdefault("read", time.time())
            _write(self._structure_file, known)
        found: _T = known[name]
        return found

    def forget_structure(self) -> None:
        """What is remembered may be wrong: the next one to need it asks again."""
        if self._structure_file is not None:
            self._structure_file.unlink(missing_ok=True)

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

    def events(self) -> list[Row]:
        """Events of a longitudinal project (``content=event``); none in a classic one."""
        return self._remembered(
            "events", lambda: self._optional({"content": "event"}, "cannot export events for classic")
        )

    def form_events(self) -> list[Row]:
        """Which instruments stand in which events (``content=formEventMapping``); none in a classic one."""
        return self._remembered(
            "form_events", lambda: self._optional({"content": "formEventMapping"}, "for classic projects")
        )

    def repeats(self) -> list[tuple[str, str]]:
        """(unique event name, instrument) pairs that repeat (``content=repeatingFormsEvents``).

        The event is empty in classic projects; the instrument is empty where the whole event repeats.
        """
        rows = self._remembered(
            "repeats",
            lambda: self._optional({"content": "repeatingFormsEvents"}, "does not contain any repeating"),
        )
        return [(row.get("event_name", ""), row.get("form_name", "")) for row in rows]

    def repeating(self) -> frozenset[str]:
        """Instruments that repeat, in any event; empty when nothing does."""
        return frozenset(form for _, form in self.repeats() if form)

    def data_access_groups(self) -> list[Row]:
        """Data access groups (``content=dag``)."""
        return self._rows({"content": "dag"})

    @cached_property
    def longitudinal(self) -> bool:
        """Whether rows need a ``redcap_event_name``."""
        return str(self._settings.get("is_longitudinal", 0)) == "1"

    @cached_property
    def _settings(self) -> dict[str, str]:
        wanted = ("is_longitudinal", "missing_data_codes")
        return self._remembered(
            "settings",
            lambda: {key: str(value or "") for key, value in self.project().items() if key in wanted},
        )

    @cached_property
    def missing_codes(self) -> frozenset[str]:
        """Codes that stand in any field, also dates and numbers, and say why there is no value."""
        text = self._settings.get("missing_data_codes", "")
        codes = (part.partition(",")[0].strip() for part in text.split("|"))
        return frozenset(code for code in codes if code)

    @cached_property
    def _export_names(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for row in self._remembered("field_names", self.field_names):
            name, code = row.get("original_field_name", ""), row.get("choice_value", "")
            found.setdefault(name, {})[code] = row.get("export_field_name", "")
        return found

    def columns_of(self, field: str) -> dict[str, str]:
        """Choice -> export name of a checkbox (choice empty for others), as the server says; none: unknown.

        File and descriptive fields have no entry.
        """
        return self._export_names.get(field, {})

    @cached_property
    def columns(self) -> frozenset[str]:
        """All export names."""
        return frozenset(name for columns in self._export_names.values() for name in columns.values())

    def choices(self, field: str) -> dict[str, str]:
        """Code -> label of a field with choices."""
        rows = self._remembered(f"choices {field}", lambda: self.metadata(fields=[field]))
        parts = (part.partition(",") for row in rows for part in row[CHOICES].split("|"))
        return {code.strip(): label.strip() for code, _, label in parts if code.strip()}

    @cached_property
    def _record_id(self) -> str:
        return self._remembered("record_id", self._ask_record_id)

    def _ask_record_id(self) -> str:
        rows = self.metadata()
        if not rows:
            raise RedcapUnavailable("REDCap call content=metadata: the dictionary is empty")
        return rows[0]["field_name"]

    def record_id_field(self) -> str:
        """Name of the record id field, asked for once."""
        return self._record_id

    def next_record_name(self) -> str:
        """A free record name (``content=generateNextRecordName``); reserves nothing."""
        return self._text({"content": "generateNextRecordName"}).strip()


def _read(file: Path) -> dict[str, Any]:
    """What is remembered; nothing when it is too old, damaged or from a clock that ran ahead."""
    try:
        known = json.loads(file.read_bytes())
        age = time.time() - float(known["read"])
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return known if 0 <= age < REMEMBERED_SECONDS else {}


def _write(file: Path, known: dict[str, Any]) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with contextlib.suppress(OSError):  # no room: then everybody asks for himself
        part.write_text(json.dumps(known), encoding="utf-8")
        part.replace(file)
