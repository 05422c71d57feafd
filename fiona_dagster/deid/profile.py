"""What PS3.15 2026c table E.1-1 asks for, by attribute, for a choice of options.

Belongs here: the tables (package data) and the choice of an action. Stays out: carrying it out.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.config.deid import Deidentification
from fiona_dagster.deid import concepts, content, ge, options, siemens
from fiona_dagster.deid.descriptors import CLEANABLE, cleaner
from fiona_dagster.deid.own_rules import OwnRules, clean_step, kept
from fiona_dagster.deid.plan import REMOVED, Place, Step
from fiona_dagster.deid.private import SafePrivate
from fiona_dagster.dicom.dictionary import ATTRIBUTES, dictionary_vr

EDITION = "2026c"

CONTENT_SEQUENCE = concepts.CONTENT_SEQUENCE
GRAPHIC_ANNOTATION, GRAPHIC_TEXT = 0x00700001, 0x00700006
TEXT_VALUE, UID_VALUE, DOCUMENT = 0x0040A160, 0x0040A124, 0x00420011
CONTENT_ITEMS = frozenset((CONTENT_SEQUENCE, 0x00400555, 0x00400612))
"""Sequences whose items have a concept name and a value (PS3.3 C.17.3, 10.2)."""

_INSTITUTION = frozenset((0x00080080, 0x00120030, 0x00120031))

REMOVED_FOR = {
    "X": "table E.1-1",
    "private": "private attribute",
    "unknown": "in neither the dictionary nor the table",
}


@lru_cache(maxsize=1)
def _attributes() -> tuple[dict[int, tuple[str, dict[str, str]]], str]:
    content = (files(__package__) / "data" / "attributes.csv").read_text("utf-8")
    table: dict[int, tuple[str, dict[str, str]]] = {}
    for row in csv.DictReader(content.splitlines()):
        if "x" in row["tag"] or row["tag"] == "private":
            continue  # repeating groups and private attributes are rules of their own, see Profile.action
        options = dict(part.split("=") for part in row["options"].split())
        table[int(row["tag"], 16)] = (row["basic"], options)
    return table, hashlib.sha256(content.encode()).hexdigest()


@lru_cache(maxsize=1)
def _decisions() -> tuple[dict[str, tuple[str, str]], str]:
    """What table E.1-1 does not list: attribute, VR, or "retired" and VR -> (action, reason); the digest."""
    content = (files(__package__) / "data" / "unlisted.csv").read_text("utf-8")
    rows = csv.DictReader(content.splitlines())
    return {r["attribute"]: (r["action"], r["reason"]) for r in rows}, hashlib.sha256(
        content.encode()
    ).hexdigest()


def unlisted(tag: int) -> tuple[str, str]:
    """Action and reason for an attribute of the dictionary that table E.1-1 does not list.

    Attributes of VRs that may carry text stay only if they were looked at one by one; what the dictionary
    has and nobody looked at (a newer pydicom, repeating groups) is removed.

    Returns:
        ``keep``, ``sequence``, ``pixels``, ``uid``, ``date``, X, Z or D; and why.
    """
    table = _decisions()[0]
    found = table.get(f"{tag:08x}")
    if found is None and tag in ATTRIBUTES:
        found = table.get(("retired " if ATTRIBUTES[tag][3] else "") + dictionary_vr(tag))
    return found or ("X", "nobody looked at it")


@lru_cache(maxsize=1)
def _iods() -> tuple[dict[str, int], dict[tuple[int, str, int], str]]:
    """SOP class -> IOD number; (tag, within, IOD number) -> Type (1, 1C, 2, 2C; absent: 3)."""
    folder = files(__package__) / "data"
    classes: dict[str, int] = {}
    for row in csv.DictReader((folder / "iods.csv").read_text("utf-8").splitlines()):
        classes.update(dict.fromkeys(row["sop_classes"].split(), int(row["number"])))
    types: dict[tuple[int, str, int], str] = {}
    for row in csv.DictReader((folder / "types.csv").read_text("utf-8").splitlines()):
        for part in row["iods"].split():
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                types[int(row["tag"], 16), row["within"], number] = row["type"]
    return classes, types


def iod_of(sop_class: str) -> int | None:
    """Number of the IOD of a SOP class in our tables, ``None`` if it is not known (private, retired)."""
    return _iods()[0].get(sop_class)


BIRTH_YEAR = "year"
"""In place of a date of birth: the first of January of its year."""


@dataclass(frozen=True)
class Profile:
    """Basic Profile with options (columns of table E.1-1) and what a project adds to them.

    Attributes:
        options: columns of table E.1-1.
        own: the project's own rules, which go before all else.
        private: private attributes that stay (with ``retain_safe_private``).
        siemens_csa: CSA headers are rewritten in place of removed.
        keep_documents: encapsulated documents stay.
        birth_date: what is written as Patient's Birth Date; :data:`BIRTH_YEAR`: the first day of the year.
    """

    options: tuple[str, ...] = ()
    own: OwnRules = field(default_factory=lambda: OwnRules(()))
    private: SafePrivate = field(default_factory=SafePrivate)
    siemens_csa: bool = False
    keep_documents: bool = False
    birth_date: str = ""

    @property
    def creators(self) -> frozenset[str]:
        """Private creators that are named before anybody knows a patient, and so tell none."""
        of_rules = (rule.creator.strip() for rule in self.own.rules if rule.creator.strip())
        return self.private.creators.union(
            of_rules, (creator for _, creator in (*siemens.HEADERS, *siemens.KINDS))
        )

    @classmethod
    def of(cls, project: Deidentification, names: Mapping[str, str] | None = None) -> Profile:
        """The profile of a project.

        Args:
            project: its settings.
            names: what {project}, {participant}, {event} and {site} stand for in its rules.
        """
        imported = project.import_rule()
        rules = (imported, *project.rules) if imported else project.rules
        return cls(
            project.options,
            OwnRules(rules, names, keep_dates=options.FULL in project.options),
            SafePrivate(project.safe_private),
            project.siemens_csa == "rewrite",
            project.kinds.get("encapsulated_document") == "keep",
            project.patient_birth_date,
        )

    @property
    def kept_of_assigned(self) -> frozenset[int]:
        """Attributes that a request assigns, but for objects that have them and an option that keeps them."""
        return _INSTITUTION if "retain_institution_identity" in self.options else frozenset()

    def may_be_birth_date(self, value: str) -> bool:
        """Whether this is what the project writes as Patient's Birth Date."""
        if self.birth_date == BIRTH_YEAR:
            return not value or (len(value) == 8 and value.isdigit() and value.endswith("0101"))
        return value == self.birth_date

    @property
    def modified_dates(self) -> bool:
        """Dates are shifted in place of removed."""
        return options.MODIFIED in self.options

    @property
    def full_dates(self) -> bool:
        """Dates stay as they are."""
        return options.FULL in self.options

    @property
    def dates(self) -> str:
        """Longitudinal Temporal Information Modified (0028,0303)."""
        if self.modified_dates or self.own.shifts:
            return "MODIFIED"
        return "UNMODIFIED" if self.full_dates else "REMOVED"

    @property
    def codes(self) -> list[tuple[str, str]]:
        """CID 7050 codes of what is applied."""
        return options.codes(self.options)

    @property
    def digest(self) -> str:
        """SHA-256 of tables, options and rules: changes when the rules do."""
        rules = [rule.model_dump_json() for rule in self.own.rules]
        parts = [_attributes()[1], _decisions()[1], " ".join(sorted(self.options)), *rules]
        parts += [repr(self.private), str(self.siemens_csa), str(self.keep_documents), self.birth_date]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def basic(self, tag: int) -> str:
        """The basic column for a single tag; "" when it is not listed."""
        return _attributes()[0].get(tag, ("", {}))[0]

    def action(self, tag: int) -> str:
        """What the table and its dates ask for an attribute wherever it stands, without other options.

        Returns:
            A code of the table (X, Z, D, U, or a combination), or: ``private``, ``unknown`` (both removed);
            ``C`` (shift, or the basic action when that is not possible); ``uid`` (unlisted, may name an
            instance); ``keep``; ``sequence`` (keep, clean inside); ``pixels`` (keep the picture alone).
        """
        group = tag >> 16
        if group & 1:
            return "private"
        if group < 0x0008 or not tag & 0xFFFF:
            return "X"  # commands, file meta, directories, group lengths: none belongs into a data set
        if group & 0xFF00 in (0x5000, 0x6000):
            return "X"  # curves; overlays with all that describes them, since their data go
        listed = _attributes()[0].get(tag)
        if listed is None:
            return self._unlisted(tag)
        basic, columns = listed
        if self.modified_dates and columns.get(options.MODIFIED) == "C":
            return "C"
        return basic

    @property
    def drops_private(self) -> bool:
        """Whether private attributes all go, whatever they are."""
        return not (self.siemens_csa or self.own.rules or options.PRIVATE in self.options)

    def opaque(self, tag: int) -> bool:
        """Whether elements of this tag are removed wherever they stand, so that nobody looks into them."""
        if self.own.touches(tag):
            return False
        if tag >> 16 & 1:
            low = tag & 0xFFFF00FF
            csa = self.siemens_csa and any(low == known for known, _ in siemens.HEADERS)
            return not csa and not (options.PRIVATE in self.options and self.private.touches(tag))
        if self._option(tag)[0]:
            return False
        return self.action(tag) in REMOVED

    def step(self, place: Place) -> Step:
        """What is to be done with an element, and why (``plan``)."""
        own = self.own.step(place)
        if own is not None:
            return own
        tag = place.tag
        if tag >> 16 & 1:
            return self._private(place)
        if tag == DOCUMENT and self.keep_documents:
            return Step("keep", "the project keeps documents")
        chosen = self._by_option(place)
        if chosen is not None:
            return chosen
        action = resolve(self.action(tag), tag, place.within, place.iod)
        otherwise = resolve(self.basic(tag) or "X", tag, place.within, place.iod) if action == "C" else "X"
        return Step(action, self._reason(tag, action), otherwise)

    def _option(self, tag: int) -> tuple[str, str]:
        """The option that decides about an attribute, and its cell; shifts are left to :meth:`action`."""
        if tag >> 16 < 8:
            return "", ""  # never a part of a data set, whatever keeps UIDs
        option, cell = options.choose(_attributes()[0].get(tag, ("", {}))[1], self.options)
        return ("", "") if option == options.MODIFIED else (option, cell)

    def _by_option(self, place: Place) -> Step | None:
        """What an option says about a listed attribute, and full dates or UIDs about one that is not."""
        tag, vr = place.tag, options.NEWER_VRS.get(place.tag, "")
        option, cell = self._option(tag)
        reason = f"table E.1-1: {cell}, {option}"
        if cell == "K":
            return kept(place, reason, vr)
        special = self._by_content(place)
        if special is not None:
            return special
        if option == "clean_structured_content":
            return Step("sequence", reason)
        if option == "clean_graphics":
            return Step("sequence", reason) if tag == GRAPHIC_ANNOTATION else None
        if cell == "C" and (vr or dictionary_vr(tag)) in CLEANABLE | {"SQ"}:
            return clean_step(place, reason, cleaner(keep_dates=self.full_dates), vr)
        if tag in _attributes()[0]:
            return None
        action = self._unlisted(tag)
        if (action == "uid" and options.UIDS in self.options) or (
            self.full_dates and dictionary_vr(tag) and unlisted(tag)[0] == "date"
        ):
            return Step("keep", "not in table E.1-1: kept like those that are")
        return None

    def _by_content(self, place: Place) -> Step | None:
        """Content items and texts of graphics, with the options that clean them."""
        of_content = not CONTENT_ITEMS.isdisjoint(place.within)
        if place.tag == UID_VALUE and options.UIDS in self.options and of_content:
            return Step("keep", "table E.3.4-1, retain_uids")
        text = cleaner(keep_dates=self.full_dates)
        if "clean_structured_content" in self.options:
            if place.tag in CONTENT_ITEMS:
                return Step("clean", "table E.3.4-1, clean_structured_content", work=content.cleaner(self))
            if place.tag == TEXT_VALUE and of_content:
                return clean_step(place, "table E.3.4-1, clean_structured_content", text)
        graphic = place.tag == GRAPHIC_TEXT and GRAPHIC_ANNOTATION in place.within
        if graphic and "clean_graphics" in self.options:
            return clean_step(place, "text of a graphic, clean_graphics", text)
        return None

    def _private(self, place: Place) -> Step:
        key = (place.tag & 0xFFFF00FF, place.creator)
        if self.siemens_csa and key in siemens.HEADERS and place.tag & 0xFF00:
            work = siemens.rewriter(siemens.HEADERS[key], keep_uids=options.UIDS in self.options)
            return Step("rewrite", "CSA header, element by element from a list", vr="OB", work=work)
        if self.siemens_csa and key in siemens.KINDS and place.tag & 0xFF00:
            return kept(place, "kind of the CSA header", "CS")
        if key == ge.USER_DATA and place.tag & 0xFF00 and options.PRIVATE in self.options:
            return Step("rewrite", "GE user data: flags of the phase encoding", vr="OB", work=ge.flags_only)
        found = self.private.find(place.tag, place.creator) if options.PRIVATE in self.options else None
        if found is None:
            return Step("private", REMOVED_FOR["private"])
        listed, reason = found
        vr = place.vr if place.vr not in ("", "UN") else listed
        if vr == "UI":
            return Step("keep" if options.UIDS in self.options else "U", reason)
        if vr in ("DA", "DT", "TM") and not self.full_dates:
            return Step("C" if self.modified_dates else "X", reason, vr=vr)
        if vr == "PN":
            return Step("private", "a name in a private attribute")
        return kept(place, reason, listed)

    def _reason(self, tag: int, action: str) -> str:
        if action in REMOVED_FOR and action != "X":
            return REMOVED_FOR[action]
        basic = self.basic(tag)
        if basic:
            return f"table E.1-1: {basic}" + (", dates are modified" if action == "C" else "")
        group = tag >> 16
        if group < 8 or not tag & 0xFFFF:
            return "no part of a data set that is passed on"
        if group & 0xFF00 in (0x5000, 0x6000):
            return "curve or overlay"
        return f"not in table E.1-1: {unlisted(tag)[1]}"

    def _unlisted(self, tag: int) -> str:
        vr = dictionary_vr(tag)
        if not vr:
            return "unknown"
        action = unlisted(tag)[0]
        if action == "date":
            return "C" if self.modified_dates else "X"
        return action


def resolve(code: str, tag: int, within: Iterable[int], iod: int | None) -> str:
    """Decides a combined code by the attribute's Type in its IOD (PS3.15 E.1.1).

    Args:
        code: a cell of table E.1-1.
        tag: the attribute.
        within: tags of the sequences that it stands in, outermost first.
        iod: number from :func:`iod_of`; ``None``: not known, so what serves most Types is chosen.

    Returns:
        X, Z, D, U, or ``U*`` (references kept, their UIDs replaced).
    """
    if "/" not in code:
        return code
    choices = code.split("/")
    if iod is None:
        return choices[-1]
    path = ".".join(f"{outer:08x}" for outer in within)
    kind = _iods()[1].get((tag, path, iod), "3")
    if kind == "3":
        return choices[0]
    if kind[0] == "2" and "Z" in choices and choices[-1] != "U*":
        # emptied references would contradict Referenced Series Sequence (PS3.3 C.12.2)
        return "Z"
    return "D" if choices[-1] == "Z" else choices[-1]
