"""What a transfer request assigns, written where the original gateway writes it (behaviour reference 6.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from fiona_dagster.deid.elements import PIXELS, TEXT, DicomFile, Element, text
from fiona_dagster.deid.profile import BIRTH_YEAR, EDITION, Profile
from fiona_dagster.deid.stand_ins import code
from fiona_dagster.dicom.dictionary import dictionary_vr
from fiona_dagster.errors import RefusedDicom, UsageError

CHARACTER_SET, MANUFACTURER, BIRTH_DATE = 0x00080005, 0x00080070, 0x00100030
_STUDY_DATES = (0x00080020, 0x00080021, 0x00080022, 0x00080023)
_DATE = re.compile(r"([0-9]{4})\.?[0-9]{2}\.?[0-9]{2}")
OLDEST = 89
"""Years of age beyond which a year of birth is not told (45 CFR 164.514(b)(2)(i)(C))."""
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\^=]")

METHOD = f"FIONA, DICOM PS3.15 {EDITION}"


@dataclass(frozen=True)
class Assignment:
    """Project, participant and event of a transfer request; neither is ever printed.

    Raises:
        UsageError: empty, longer than 64 characters (54 for the event), or with characters that DICOM
            reserves.
    """

    project: str
    participant: str = field(repr=False)
    event: str = field(repr=False)
    site: str = ""
    """Where the study was received, for rules of the project that write it."""

    def names(self) -> dict[str, str]:
        """What {project}, {participant}, {event} and {site} stand for."""
        return {name: getattr(self, name) for name in ("project", "participant", "event", "site")}

    def __post_init__(self) -> None:
        limits = {"project": 20, "participant": 64, "event": 54}
        for name, limit in limits.items():
            value: str = getattr(self, name)
            if not value.strip() or value != value.strip() or len(value) > limit:
                raise UsageError(f"--{name}: must be 1 to {limit} characters without blanks around them")
            if _FORBIDDEN.search(value):
                raise UsageError(f"--{name}: must not hold control characters, \\, ^ or =")

    def values(self) -> dict[int, tuple[str, str]]:
        """Tag -> (VR, value) of everything that is written into every object.

        The (0012,xxxx) attributes are those of the Clinical Trial Subject and Study modules with Type 1 or 2
        (PS3.3 C.7.1.3, C.7.2.3).
        """
        return {
            0x00080080: ("LO", self.project),
            0x00080090: ("PN", f"Eventname:{self.event}"),
            0x00100010: ("PN", self.participant),
            0x00100020: ("LO", self.participant),
            BIRTH_DATE: ("DA", ""),
            0x00120010: ("LO", self.project),
            0x00120020: ("LO", self.project),
            0x00120021: ("LO", self.project),
            0x00120030: ("LO", ""),
            0x00120031: ("LO", ""),
            0x00120040: ("LO", self.participant),
            0x00120050: ("LO", self.event),
            0x00120051: ("ST", self.event),
        }


def method(profile: Profile) -> list[Element]:
    """(0012,0062) to (0012,0064) and (0028,0303): what was done (PS3.15 E.1.1, PS3.3 C.7.1.1)."""
    items = [code(value, "DCM", meaning) for value, meaning in profile.codes]
    return [
        Element(0x00120062, "CS", b"YES"),
        Element(0x00120063, "LO", METHOD.encode()),
        Element(0x00120064, "SQ", b"", items),
        Element(0x00280303, "CS", profile.dates.encode()),
    ]


@dataclass(frozen=True)
class Insertion:
    """An element that is written into every object.

    Attributes:
        element: what is written.
        unless: it is not written over an element that is ``there``, or that has a ``value``; "" over any.
    """

    element: Element
    unless: str = ""


def insertions(assignment: Assignment, accession: str, profile: Profile) -> list[Insertion] | None:
    """What :func:`write` writes, in ascending order; ``None`` where that depends on the object."""
    if profile.birth_date == BIRTH_YEAR:  # depends on the object
        return None
    wanted = {**assignment.values(), 0x00080050: ("SH", accession), BIRTH_DATE: ("DA", profile.birth_date)}
    made = {e.tag: Insertion(e) for e in method(profile)}
    for tag, (vr, value) in wanted.items():
        unless = "value" if tag in profile.kept_of_assigned else ""
        made[tag] = Insertion(Element(tag, vr, value.encode("ascii", "replace")), unless)
    created = [(tag, vr, value) for tag, vr, value in profile.own.created() if tag not in wanted]
    twice = any(tag in made for tag, _, _ in created)
    for tag, vr, value in created:
        made[tag] = Insertion(Element(tag, vr, value.encode("ascii", "replace")), "there")
    made.setdefault(MANUFACTURER, Insertion(Element(MANUFACTURER, "LO"), "there"))
    values = [value for _, value in wanted.values()] + [value for _, _, value in created]
    return [made[tag] for tag in sorted(made)] if all(map(str.isascii, values)) and not twice else None


def birth_date(profile: Profile, source: DicomFile) -> str:
    """What is written as Patient's Birth Date.

    Of the true one at most the year, and that only for who was not older than :data:`OLDEST` when the study
    was made; without a date of the study: than today.

    Args:
        profile: what the project wants.
        source: the original.
    """
    if profile.birth_date != BIRTH_YEAR:
        return profile.birth_date
    born = _year(source, BIRTH_DATE)
    seen = max((_year(source, tag) for tag in _STUDY_DATES), default=0) or datetime.now(UTC).year
    return f"{born:04d}0101" if born and 0 <= seen - born <= OLDEST else ""


def _year(source: DicomFile, tag: int) -> int:
    element = source.find(tag)
    found = _DATE.fullmatch(text(element.value)) if element is not None else None
    return int(found[1]) if found else 0


def write(
    elements: list[Element], assignment: Assignment, accession: str, profile: Profile, source: DicomFile
) -> list[Element]:
    """The elements with everything that the request and the profile assign, in ascending order.

    Raises:
        RefusedDicom: the assigned values can't be written in the object's character set.
    """
    new = {e.tag: e for e in method(profile)}
    wanted = {**assignment.values(), 0x00080050: ("SH", accession)}
    wanted[BIRTH_DATE] = ("DA", birth_date(profile, source))
    there = {e.tag for e in elements if e.items or len(e.value)}
    for tag in profile.kept_of_assigned & there:
        del wanted[tag]
    present = {e.tag for e in elements}
    wanted |= {tag: (vr, v) for tag, vr, v in profile.own.created() if tag not in present | wanted.keys()}
    values = [value for _, value in wanted.values()]
    encoding = "ascii"
    if not all(value.isascii() for value in values):
        encoding = _encoding(elements, new, values)
    for tag, (vr, value) in wanted.items():
        new[tag] = Element(tag, vr, value.encode(encoding))
    # Institution Name makes the General Equipment module present, which asks for a manufacturer (Type 2)
    merged = {MANUFACTURER: Element(MANUFACTURER, "LO")} | {e.tag: e for e in elements} | new
    return [merged[tag] for tag in sorted(merged)]


def _encoding(elements: list[Element], new: dict[int, Element], values: list[str]) -> str:
    """An encoding for the assigned values; switches the object to UTF-8 when its own text allows it."""
    from pydicom.charset import python_encoding  # slow to import; most names need it not

    declared = next((text(e.value) for e in elements if e.tag == CHARACTER_SET), "")
    encoding = python_encoding.get(declared)
    if encoding and "\\" not in declared and "2022" not in declared:
        try:
            "".join(values).encode(encoding)
        except UnicodeEncodeError:
            pass  # the object's own set has no such letters: see below
        else:
            if declared:
                return encoding
    if not _all_ascii(elements):
        raise RefusedDicom("the assigned names don't fit this object's character set; use plain letters")
    new[CHARACTER_SET] = Element(CHARACTER_SET, "CS", b"ISO_IR 192")
    return "utf-8"


def _all_ascii(elements: list[Element]) -> bool:
    for e in elements:
        if e.items is not None:
            if not all(_all_ascii(item) for item in e.items):
                return False
        elif e.tag not in PIXELS and (dictionary_vr(e.tag) or e.vr) in TEXT and not bytes(e.value).isascii():
            return False
    return True
