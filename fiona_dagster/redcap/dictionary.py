"""REDCap data dictionaries: fields, their choices, and the names they are exported under."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

COLUMNS = (
    "field_name",
    "form_name",
    "section_header",
    "field_type",
    "field_label",
    "select_choices_or_calculations",
    "field_note",
    "text_validation_type_or_show_slider_number",
    "text_validation_min",
    "text_validation_max",
    "identifier",
    "branching_logic",
    "required_field",
    "custom_alignment",
    "question_number",
    "matrix_group_name",
    "matrix_ranking",
    "field_annotation",
)
"""Keys of a metadata row, in order (REDCap ``content=metadata``)."""

COMPLETE = (("0", "Incomplete"), ("1", "Unverified"), ("2", "Complete"))
"""Choices of every ``FORM_complete``."""

_FIXED_CHOICES = {
    "yesno": (("1", "Yes"), ("0", "No")),
    "truefalse": (("1", "True"), ("0", "False")),
}
_CHOICE_TYPES = ("dropdown", "radio", "checkbox")
_NOT_DATA = ("descriptive", "file", "calc")


@dataclass(frozen=True)
class Field:
    """One field of a dictionary."""

    row: Mapping[str, str]

    @property
    def name(self) -> str:
        """Original name, as ``fields[i]`` takes it."""
        return self.row["field_name"]

    @property
    def form(self) -> str:
        """Instrument that the field stands on."""
        return self.row["form_name"]

    @property
    def type(self) -> str:
        """REDCap's ``field_type``."""
        return self.row["field_type"]

    @property
    def validation(self) -> str:
        """``text_validation_type``, empty for none."""
        return self.row["text_validation_type_or_show_slider_number"] if self.type == "text" else ""

    @property
    def exported(self) -> bool:
        """Whether record exports have a column for it."""
        return self.type != "descriptive"

    @property
    def importable(self) -> bool:
        """Whether records can be imported into it (calc and file fields can't)."""
        return self.type not in _NOT_DATA

    @cached_property
    def choices(self) -> tuple[tuple[str, str], ...]:
        """Codes and labels; empty for fields without choices."""
        if self.type in _FIXED_CHOICES:
            return _FIXED_CHOICES[self.type]
        if self.type not in _CHOICE_TYPES:
            return ()
        pairs = (part.partition(",") for part in self.row["select_choices_or_calculations"].split("|"))
        return tuple((code.strip(), label.strip()) for code, _, label in pairs if code.strip())

    @cached_property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(export field name, choice value) pairs; one without choice value unless it is a checkbox."""
        if self.type == "checkbox":
            return tuple((checkbox_column(self.name, code), code) for code, _ in self.choices)
        return ((self.name, ""),)


@dataclass(frozen=True)
class Dictionary:
    """The fields of one project, in order; the first one is the record id."""

    fields: tuple[Field, ...]

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, str]]) -> Dictionary:
        """Builds it from metadata rows; missing keys count as empty.

        Raises:
            ValueError: no fields, a field without name or form, or a name that occurs twice.
        """
        fields = tuple(Field({key: str(row.get(key) or "") for key in COLUMNS}) for row in rows)
        names = [field.name for field in fields]
        if not fields or not all(field.name and field.form for field in fields):
            raise ValueError("a dictionary needs fields with field_name and form_name")
        if len(set(names)) != len(names):
            raise ValueError("a field_name occurs twice in the dictionary")
        return cls(fields)

    @classmethod
    def from_csv(cls, text: str) -> Dictionary:
        """Builds it from the CSV that ``content=metadata`` exports."""
        return cls.from_rows(csv.DictReader(io.StringIO(text)))

    @property
    def record_id(self) -> str:
        """Name of the record id field."""
        return self.fields[0].name

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Fields by original name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """Instruments in order of appearance."""
        return tuple(dict.fromkeys(field.form for field in self.fields))

    @cached_property
    def column_fields(self) -> dict[str, Field]:
        """Field of each export column (without ``FORM_complete``)."""
        return {column: field for field in self.fields if field.exported for column, _ in field.columns}

    def on_form(self, form: str) -> tuple[Field, ...]:
        """Fields of one instrument."""
        return tuple(field for field in self.fields if field.form == form)

    def rows(self) -> list[dict[str, str]]:
        """Metadata rows as ``content=metadata`` gives them."""
        return [dict(field.row) for field in self.fields]


def checkbox_column(field: str, code: str) -> str:
    """Export name of a checkbox choice: code in lower case, everything else an underscore."""
    return f"{field}___{re.sub(r'[^a-z0-9_]', '_', code.lower())}"


@dataclass(frozen=True)
class ShippedProject:
    """A REDCap project whose dictionary comes with the gateway."""

    name: str
    title: str
    repeating: tuple[str, ...]
    """Instruments that repeat."""
    dictionary: Dictionary
    events: tuple[str, ...] = ()
    """Names of the events of a longitudinal project; empty: classic."""


def shipped_projects() -> tuple[ShippedProject, ...]:
    """Incoming, DataTransferProjects, Routing, CouplingList, AutoID and a minimal research project."""
    folder = resources.files("fiona_dagster.redcap") / "dictionaries"
    listing = csv.DictReader(io.StringIO((folder / "projects.csv").read_text("utf-8")))
    return tuple(
        ShippedProject(
            row["project"],
            row["title"],
            tuple(row["repeating_instruments"].split()),
            Dictionary.from_csv((folder / f"{row['project']}.csv").read_text("utf-8")),
            tuple(name for name in row["events"].split("|") if name),
        )
        for row in listing
    )
