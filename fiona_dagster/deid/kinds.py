"""Kinds of objects that a transfer holds back: what may identify and can't be cleaned yet.

Belongs here: telling the kind from the header. Stays out: what is done about it (transfers), cleaning.
"""

from __future__ import annotations

from typing import cast

from fiona_dagster.config.deid import Deidentification, ObjectKind
from fiona_dagster.deid.elements import DicomFile, text

_VIDEO = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 110))
_BY_CLASS = {
    "1.2.840.10008.5.1.4.1.1.6": "ultrasound",
    "1.2.840.10008.5.1.4.1.1.6.1": "ultrasound",
    "1.2.840.10008.5.1.4.1.1.6.2": "ultrasound",
    "1.2.840.10008.5.1.4.1.1.3": "ultrasound",
    "1.2.840.10008.5.1.4.1.1.3.1": "ultrasound",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.77.1.1": "photograph",  # endoscopy
    "1.2.840.10008.5.1.4.1.1.77.1.2": "photograph",  # microscopy
    "1.2.840.10008.5.1.4.1.1.77.1.3": "photograph",  # microscopy with slide coordinates
    "1.2.840.10008.5.1.4.1.1.77.1.4": "photograph",
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": "photograph",  # ophthalmic, 8 bit
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": "photograph",  # ophthalmic, 16 bit
    "1.2.840.10008.5.1.4.1.1.77.1.7": "photograph",  # dermoscopy
    "1.2.840.10008.5.1.4.1.1.77.1.1.1": "video",
    "1.2.840.10008.5.1.4.1.1.77.1.2.1": "video",
    "1.2.840.10008.5.1.4.1.1.77.1.4.1": "video",
}
_PRESENTATION_STATES = "1.2.840.10008.5.1.4.1.1.11."
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def kinds_of(found: DicomFile, unchecked: bool) -> list[str]:
    """Every kind of this object that is held back, the most telling first.

    Args:
        found: the original.
        unchecked: what its pixel data hold besides pixels is not known.
    """
    sop_class = found.sop_class
    image_type = _value(found, 0x00080008).upper()
    kinds = []
    if _value(found, 0x00280301).upper() not in ("", "NO"):
        kinds.append("burned-in annotation")
    if not sop_class.startswith("1.2.840.10008."):
        kinds.append("private SOP class")
    if sop_class in _BY_CLASS:
        kinds.append(_BY_CLASS[sop_class])
    elif sop_class.startswith("1.2.840.10008.5.1.4.1.1.7."):
        kinds.append("secondary capture")
    elif sop_class.startswith("1.2.840.10008.5.1.4.1.1.104."):
        kinds.append("encapsulated document")
    elif sop_class == _WHOLE_SLIDE and ("LABEL" in image_type or "OVERVIEW" in image_type):
        kinds.append("photograph")  # of the label of the slide
    if "SCREEN SAVE" in image_type:
        kinds.append("screen save")
    if found.transfer_syntax.startswith(_VIDEO) or found.transfer_syntax.startswith("1.2.840.10008.1.2.7."):
        kinds.append("video")  # metadata of the stream may say anything
    elif unchecked:
        kinds.append("unchecked pixels")
    return list(dict.fromkeys(kinds))


def held_kind(found: DicomFile, unchecked: bool, project: Deidentification | None = None) -> str:
    """The kind for which a transfer would leave this object out: if there is one, the first not allowed.

    Args:
        found: the original.
        unchecked: see :func:`kinds_of`.
        project: what it decided about kinds; ``None``: nothing.
    """
    kinds = kinds_of(found, unchecked)
    decisions = project.kinds if project else {}
    other = _structured(found)
    if other and decisions.get(cast(ObjectKind, setting_of(other))) in ("drop", "hold"):
        return other
    passing = project.passing_kinds if project else frozenset()
    return next((kind for kind in kinds if setting_of(kind) not in passing), kinds[0] if kinds else "")


def _structured(found: DicomFile) -> str:
    """A kind without pixels that is passed on unless a project says otherwise; "" for all others."""
    sop_class = found.sop_class
    if sop_class.startswith(_PRESENTATION_STATES):
        return "presentation state"
    if sop_class.startswith("1.2.840.10008.5.1.4.1.1.88."):
        return "structured report"
    if sop_class.startswith("1.2.840.10008.5.1.4.1.1.481."):
        return "rt"
    return ""


def setting_of(kind: str) -> str:
    """The name of a kind in ``allow_kinds``."""
    return kind.lower().replace(" ", "_").replace("-", "_")


def _value(found: DicomFile, tag: int) -> str:
    element = found.find(tag)
    return text(element.value) if element else ""
