"""Typed models of what a project asks of the de-identification: options, own rules, kinds of objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fiona_dagster.config.patterns import NO_PATTERN, Pattern, site_pattern
from fiona_dagster.config.section import Section

DeidOption = Literal[
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_long_full_dates",
    "retain_long_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
]
"""Options of PS3.15 Annex E that a project may select, named as the columns of table E.1-1."""

RuleAction = Literal[
    "keep", "remove", "empty", "replace", "hash", "uid", "shift", "clean", "regex", "exchange"
]

HeldKind = Literal[
    "burned_in_annotation",
    "encapsulated_document",
    "photograph",
    "private_sop_class",
    "raw_data",
    "screen_save",
    "secondary_capture",
    "ultrasound",
    "unchecked_pixels",
    "video",
]
"""Kinds of objects whose pixels or documents may identify and can't be cleaned yet."""

ObjectKind = HeldKind | Literal["presentation_state", "structured_report", "rt"]
"""Kinds of objects that a project decides about."""

KindDecision = Literal["keep", "clean", "drop", "hold"]

CLEANABLE = frozenset(("encapsulated_document", "presentation_state", "rt", "structured_report"))
"""Kinds that ``clean`` can be said of: what they hold is text and structure, no pixels."""

PROTECTED = frozenset(
    (
        *(0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00080005),
        *(0x7FE00001, 0x7FE00002, 0x7FE00008, 0x7FE00009, 0x7FE00010),
    )
)
"""Attributes that no rule of a project touches: class, UIDs of instance, series and study, character set,
pixels."""

_LETS_STAY = frozenset(("keep", "shift", "clean", "regex", "exchange"))


@lru_cache(maxsize=1)
def never_kept_tags() -> frozenset[int]:
    """Attributes that say who a person is, or that a request writes: no rule lets anything of them stay.

    By a rule, which a test holds against the tables of the de-identification (decision 50).
    """
    content = (files(__package__) / "data" / "never_kept.txt").read_text("ascii")
    return frozenset(int(line.split()[0], 16) for line in content.splitlines() if not line.startswith("#"))


_TAG = re.compile(r"\(?([0-9a-fA-FxX]{4}),? ?([0-9a-fA-FxX]{4})\)?")
_NAMES = frozenset(("project", "participant", "event", "site"))


@dataclass(frozen=True)
class TagPattern:
    """One tag, or all that fit a pattern: ``tag & mask == value``."""

    mask: int
    value: int

    def matches(self, tag: int) -> bool:
        """Whether the tag fits."""
        return tag & self.mask == self.value

    @property
    def private(self) -> bool:
        """Whether it is a private tag (odd group)."""
        return bool(self.value >> 16 & 1)

    def __str__(self) -> str:
        digits = "".join(
            f"{self.value >> shift & 15:X}" if self.mask >> shift & 15 else "x" for shift in range(28, -1, -4)
        )
        return f"({digits[:4]},{digits[4:]})"


@lru_cache(maxsize=1024)
def tag_pattern(text: str) -> TagPattern:
    """Reads ``gggg,eeee``, ``gggg,xxee``, ``60xx,eeee`` or a keyword of the data dictionary (PS3.6).

    Raises:
        ValueError: it is none of these.
    """
    found = _TAG.fullmatch(text.strip())
    if found:
        digits = (found[1] + found[2]).lower()
        mask = int("".join("0" if digit == "x" else "f" for digit in digits), 16)
        return TagPattern(mask, int(digits.replace("x", "0"), 16))
    from pydicom.datadict import tag_for_keyword  # costs half a second; the receiver reads this module too

    tag = tag_for_keyword(text.strip()) if text.strip() else None  # retired attributes have an empty one
    if tag is None:
        raise ValueError(f"{text!r} is neither gggg,eeee nor a keyword of the DICOM dictionary")
    return TagPattern(0xFFFFFFFF, tag)


class OwnRule(Section):
    """A rule of the project for one attribute; goes before the profile and its options."""

    tag: str
    """``gggg,eeee``, a keyword, ``gggg,xxee`` with ``creator``, or a repeating group (``60xx,4000``).

    Holds at every depth; a path of sequences (``ReferencedStudySequence/StudyDate``, ``/StudyDate`` for the
    top level) holds exactly there."""
    action: RuleAction
    creator: str = ""
    """Private creator of a private attribute, as it stands in the file."""
    value: str | None = None
    """Of ``replace``: the new value, with {project}, {participant}, {event} and {site}. Of ``exchange``: what
    stands in place of each find, as it is."""
    pattern: str = ""
    """Of ``regex``: a regular expression; what its groups find stays, joined by blanks, the rest goes. Of
    ``exchange``: what gives way to ``value`` in the cleaned text, wherever it is found."""
    create: bool = False
    """Of ``replace``: written at the top level also where the attribute is missing."""
    reason: str = Field("", max_length=200)
    """For people: why, shown in the table for an ethics board."""

    @property
    def path(self) -> tuple[TagPattern, ...] | None:
        """The sequences around it, outermost first; ``None``: anywhere."""
        if "/" not in self.tag:
            return None
        return tuple(tag_pattern(part) for part in self.tag.split("/")[:-1] if part.strip())

    @property
    def pattern_of_tag(self) -> TagPattern:
        """The attribute itself."""
        return tag_pattern(self.tag.rpartition("/")[2])

    @model_validator(mode="after")
    def _sound(self) -> OwnRule:
        target = self.pattern_of_tag
        for part in (*(self.path or ()), target):
            if part.private and part is target and not self.creator:
                raise ValueError(f"{part} is private: name its `creator`")
        if self.creator and not target.private:
            raise ValueError(f"`creator` is for private attributes, {target} is none")
        if any(target.matches(tag) for tag in PROTECTED):
            raise ValueError(f"{target}: no rule of a project touches this attribute")
        if target.value >> 16 < 8:
            raise ValueError(f"{target}: no such attribute is ever passed on")
        if self.action in _LETS_STAY and any(target.matches(tag) for tag in never_kept_tags()):
            raise ValueError(
                f"{target}: says who the person is, or is written from the request; nothing of it is kept "
                "(remove, empty, replace, hash, uid)"
            )
        self._complete()
        return self

    def _complete(self) -> None:
        if (self.action in ("replace", "exchange")) != (self.value is not None):
            raise ValueError("`value` is what `replace` or `exchange` writes: give both or neither")
        if self.action == "replace" and self.value is not None:
            unknown = set(re.findall(r"\{([^{}]*)\}", self.value)) - _NAMES
            if unknown:
                raise ValueError(
                    f"value: {{{min(unknown)}}} is unknown; there are {{project}}, {{participant}}, "
                    "{event} and {site}"
                )
        if (self.action in ("regex", "exchange")) != bool(self.pattern):
            raise ValueError("`pattern` is what `regex` or `exchange` looks for: give both or neither")
        if self.pattern:
            compiled(self.pattern, groups=self.action == "regex")
        if self.create and self.action != "replace":
            raise ValueError("`create` is for `replace`")
        whole = self.pattern_of_tag.mask == 0xFFFFFFFF and not self.pattern_of_tag.private
        if self.create and (self.path or not whole):
            raise ValueError("`create` needs one public attribute of the top level")


def compiled(pattern: str, where: str = "", *, groups: bool = True) -> Pattern:
    """A regular expression, with at least one group if ``groups``.

    Args:
        pattern: in Python's syntax.
        where: project and number of the rule, for messages.
        groups: whether it has to have one.

    Raises:
        ValueError: it is wrong, or has no group, so that nothing would ever stay.
    """
    try:
        made = site_pattern(pattern, where)
    except NO_PATTERN as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if groups and not made.groups:
        raise ValueError(f"{pattern!r} has no group: what its groups find is what stays")
    return made


IMPORT_FILTER = "import filter"
"""Reason of the rule that ``project_import_rule_1_*`` makes; it stands before the project's own."""


class Compatibility(Section):
    """UIDs and dates as the original gateway made them, for projects that must merge with older data."""

    date_increment: int = Field(42, ge=-36500, le=36500)
    """Days added to every date of every participant (``retain_long_modified_dates``)."""
    project: str = ""
    """The project name that went into the UIDs; empty: this project's."""

    @field_validator("date_increment")
    @classmethod
    def _moves(cls, days: int) -> int:
        if not days:
            raise ValueError("0 leaves every date as it is; ask for retain_long_full_dates if that is meant")
        return days


class Deidentification(Section):
    """The part of a project's file that says how its copies are made."""

    options: tuple[DeidOption, ...] = ()
    """Options of PS3.15 Annex E."""
    rules: tuple[OwnRule, ...] = ()
    """The project's own rules, the first that fits holds; they go before the options."""
    safe_private: dict[str, tuple[str, ...]] = Field({})
    """Private attributes that the project vouches for, besides table E.3.10-1 (with ``retain_safe_private``):
    elements (``gggg,xxee``) by private creator."""
    siemens_csa: Literal["remove", "rewrite"] = "remove"
    """``rewrite``: Siemens CSA headers stay, with what a list names as safe and nothing else."""
    allow_kinds: tuple[HeldKind, ...] = ()
    """Kinds of objects that would be held back; by naming one the project vouches that they show no text."""
    kinds: dict[ObjectKind, KindDecision] = Field({})
    """What is done with kinds of objects: ``keep``, ``clean``, ``drop``, or ``hold``, which leaves them out
    and lists them."""
    project_import_rule_1_tag: str = ""
    """Attribute whose text is filtered, as in the original's DataTransferProjects."""
    project_import_rule_1_regexp: str = ""
    """What the named groups of this expression find stays of it."""
    patient_birth_date: Literal["", "19000101", "year"] = ""
    """What is written as PatientBirthDate: nothing, a dummy for readers that need a date, or the first of
    January of the ``year`` of birth (nothing for who may be 90 or older at the study)."""
    compatibility: Compatibility | None = None
    """UIDs and constant date shift of the original gateway."""

    @field_validator("safe_private")
    @classmethod
    def _elements(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for creator, elements in value.items():
            if not creator.strip():
                raise ValueError("a private creator is missing")
            for element in elements:
                if not tag_pattern(element).private:
                    raise ValueError(f"{creator}: {element} is no private attribute; write gggg,xxee")
        return value

    @field_validator("kinds")
    @classmethod
    def _decisions(cls, value: dict[ObjectKind, KindDecision]) -> dict[ObjectKind, KindDecision]:
        for kind, decision in value.items():
            if decision == "clean" and kind not in CLEANABLE:
                raise ValueError(f"{kind}: pixels can't be cleaned yet; keep, drop or hold")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Deidentification:
        if {"retain_long_full_dates", "retain_long_modified_dates"} <= set(self.options):
            raise ValueError("options: dates are kept or modified: select one of the two")
        if self.safe_private and "retain_safe_private" not in self.options:
            raise ValueError("safe_private: takes effect with the option retain_safe_private only")
        if bool(self.project_import_rule_1_tag) != bool(self.project_import_rule_1_regexp):
            raise ValueError("project_import_rule_1_tag and _regexp belong together")
        for kind in self.allow_kinds:
            if self.kinds.get(kind, "keep") not in ("keep", "clean"):
                raise ValueError(f"{kind}: stands in allow_kinds and is to be left out by kinds")
        if self.project_import_rule_1_tag:
            self.import_rule()
        return self

    @property
    def passing_kinds(self) -> frozenset[str]:
        """Kinds of objects that leave although they might show identity: the project says so."""
        decided = {kind for kind, decision in self.kinds.items() if decision in ("keep", "clean")}
        return frozenset(self.allow_kinds) | decided

    @property
    def dropped_kinds(self) -> frozenset[str]:
        """Kinds of objects that the project does not want."""
        return frozenset(kind for kind, decision in self.kinds.items() if decision == "drop")

    def import_rule(self) -> OwnRule | None:
        """The original's import filter as a rule."""
        if not self.project_import_rule_1_tag:
            return None
        pattern = self.project_import_rule_1_regexp
        if not compiled(pattern).groupindex:
            raise ValueError("project_import_rule_1_regexp: has no named group, (?P<name>...)")
        return OwnRule(
            tag=self.project_import_rule_1_tag, action="regex", pattern=pattern, reason=IMPORT_FILTER
        )
