"""What has to be written so that *Incoming* has a study and its series as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import UsageError
from fiona_dagster.redcap.layout import SERIES, STUDY, Layout, base_row, holds
from fiona_dagster.redcap.rows import Row, clean_value


@dataclass(frozen=True)
class StudyEntry:
    """A study as *Incoming* shall have it.

    Attributes:
        fields: ``study_instance_uid`` and the other ``study_*`` fields.
        series: one mapping of ``series_*`` fields per series, each with ``series_instance_uid``.
        optional: more ``study_*`` fields, written where the project has them; a site's *Incoming* may be
            older than the field.
    """

    fields: Mapping[str, object] = field(repr=False)
    series: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    optional: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Wanted:
    """An entry as rows say it, checked and cleaned."""

    study: str
    fields: Row = field(repr=False)
    series: list[Row] = field(repr=False)

    @classmethod
    def of(cls, entry: StudyEntry, columns: Collection[str]) -> Wanted:
        """Takes those optional fields that ``columns`` has.

        Raises:
            UsageError: a UID is missing or malformed.
        """
        study = _uid(entry.fields, STUDY)
        fields = {key: clean_value(value) for key, value in entry.fields.items()}
        fields |= {key: clean_value(value) for key, value in entry.optional.items() if key in columns}
        series = [{key: clean_value(value) for key, value in row.items()} for row in entry.series]
        for row in series:
            _uid(row, SERIES)
        return cls(study, fields, series)

    @property
    def names(self) -> set[str]:
        """Fields that have to be asked for."""
        return {STUDY, *self.fields, *(key for row in self.series for key in row)}


def rows_to_write(layout: Layout, wanted: Wanted, stored: Iterable[Row]) -> list[Row]:
    """The rows in which REDCap differs from what is wanted.

    A series keeps its instance number, found by ``series_instance_uid``; a new one gets the next free.
    Series that REDCap has and we don't are left alone. Where *series* does not repeat, the one with the
    most images stands there.
    """
    stored = list(stored)
    fields = wanted.fields
    repeats = "series" in layout.repeating
    if not repeats and wanted.series:
        largest: Row = max(wanted.series, key=_images)
        fields = {**fields, **largest}
    rows = [] if holds(fields, base_row(stored)) else [layout.row(wanted.study, "", "", fields)]
    if not repeats:
        return rows
    series = layout.series(stored)
    numbers = {row.get(SERIES, ""): number for number, row in sorted(series.items(), reverse=True)}
    free = max(series, default=0)
    for row in wanted.series:
        number = numbers.get(row[SERIES])
        if number is None:
            free += 1
            number = numbers[row[SERIES]] = free
        if not holds(row, series.get(number, {})):
            rows.append(layout.row(wanted.study, "series", number, row))
    return rows


def _uid(row: Mapping[str, object], name: str) -> str:
    value = str(row.get(name) or "")
    if not is_uid(value):
        raise UsageError(f"{name} is missing or no UID; the study can't be registered in REDCap")
    return value


def _images(row: Row) -> tuple[int, str]:
    number = row.get("series_num_files", "")
    return (int(number) if number.isdecimal() else 0), row[SERIES]
