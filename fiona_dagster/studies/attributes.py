"""Names of the series record: where each comes from (behaviour reference, section 2.1).

Private elements are found by their creator (:mod:`~fiona_dagster.studies.private`), whatever their block;
the numbers here are the original's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from pydicom.datadict import tag_for_keyword

from fiona_dagster.studies import diffusion
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.values import Value, number, printed

Form = Literal["text", "raw"]

AS_IS = (
    "Manufacturer",
    "ManufacturerModelName",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesTime",
    "PatientID",
    "InstitutionName",
    "PatientName",
    "PatientSex",
    "StudyDate",
    "StationName",
    "SeriesDescription",
    "EchoTime",
    "RepetitionTime",
    "SeriesNumber",
    "InstanceNumber",
)
"""Keys named like the DICOM keyword that they hold."""

RENAMED: dict[str, int] = {
    "SoftwareVersion": 0x00181020,
    "AcquisitionMatrix": 0x00181310,
    "AcquisitionLength": 0x0051100A,
    "SOPClassUID": 0x00080016,
    "StudyDescription": 0x00081030,
    "SequenceName": 0x00180024,
    "ScanOptions": 0x00180022,
    "SliceThickness": 0x00180050,
    "ImageType": 0x00080008,
    "SliceSpacing": 0x00180088,
    "Slices": 0x0021104F,
    "ScanningSequence": 0x00180020,
    "SequenceVariant": 0x00180021,
    "SequenceType": 0x20011020,
    "PulseSequenceName": 0x0019109C,
    "ActiveCoils": 0x0051100F,
    "Private0019_105a": 0x0019105A,
    "Private0019_10BB": 0x001910BB,
    "Private0043_1039": 0x00431039,
    "SliceLocation": 0x00201041,
    "ImagesInAcquisition": 0x00201002,
    "AccessionNumber": 0x00080050,
    "NumberOfTemporalPositions": 0x00200105,
    "StudyTime": 0x00080030,
}
"""Keys with the element that they hold."""

RAW_KEYS = frozenset({"Private0043_1039"})
"""Keys that hold the value itself, numbers and lists included; all others hold the printed text."""

CSA_KEYS = (
    "siemensUUID",
    "NumSlices",
    "MeasID",
    "PhaseEncodingDirectionPositive",
    "siemensDiffusionInformation",
)
"""Keys from Siemens' own headers (CSA, Phoenix protocol)."""

FRAME_KEYS: dict[str, int] = {
    "PixelSpacing": 0x00280030,
    "ImageOrientationPatient": 0x00200037,
    "FlipAngle": 0x00181314,
    "InversionTime": 0x00180082,
    "DiffusionBValue": 0x00189087,
    "NumberOfFrames": 0x00280008,
}
"""Keys that the original lacks; classic and enhanced objects give the same ones."""

VARYING_KEY = "ValuesDiffer"
"""Key that names, sorted, the keys whose values differ inside the series (or between frames of an object)."""

SERIES_KEYS = ("ClassifyType", "NumFiles", "IncomingConnection")
"""Keys that belong to the series, not to an instance."""

_SOFTWARE_VERSIONS, _MANUFACTURER = 0x00181020, 0x00080070
B_VALUE, DIRECTIONALITY, DIRECTION = 0x00189087, 0x00189075, 0x00189089
"""What Siemens' XA software says in the standard's own elements (PS3.3 section C.8.13.5.9)."""
_RELEASE = re.compile(r'release:([^_"]*)')


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


RECORD_TAGS: dict[str, int] = {**{key: _tag(key) for key in AS_IS}, **RENAMED, **FRAME_KEYS}
"""Key of the record -> tag."""

IDENTIFYING_KEYS = frozenset({"PatientID", "PatientName", "AccessionNumber"})
"""Keys that are never shown outside the data root."""


def tag_of_name(name: str) -> int | None:
    """The tag that a rule's ``[name]`` means: a key of the record first, then a DICOM keyword."""
    return RECORD_TAGS.get(name) or tag_for_keyword(name)


class Needed(frozenset[int]):
    """Tags that have to be kept of a header; frames that differ in the ``judged`` ones are told apart."""

    judged: frozenset[int] = frozenset()


def needed_tags(rules_tags: Collection[int], others: Collection[int] = ()) -> Needed:
    """What has to be kept of a header for the record and for rules that look at these tags.

    Args:
        rules_tags: tags that rules look at, or may look at: frames that differ in these are told apart.
        others: what else is to be kept.
    """
    directions = {B_VALUE, DIRECTIONALITY, DIRECTION}
    own = frozenset(RECORD_TAGS.values()) | diffusion.SOURCES
    found = Needed(frozenset(rules_tags) | own | directions | frozenset(others))
    found.judged = frozenset(rules_tags) | directions
    return found


def judged_tags(tags: frozenset[int] | None) -> frozenset[int] | None:
    """Those of the wanted tags that rules look at; all where nothing says which."""
    return tags.judged if isinstance(tags, Needed) else tags


def series_value(header: InstanceHeader, name: str) -> Value | None:
    """A name of the record that is no element: OSLevel and what Siemens' own headers say."""
    if name == "OSLevel":
        return os_level(header)
    if name == "siemensDiffusionInformation":
        said = header.vendor.get("DiffusionDirectionality")
        return diffusion_directionality(header) if said is None else said
    return header.vendor.get(name) if name in CSA_KEYS else None


def diffusion_directionality(header: InstanceHeader) -> str | None:
    """(0018,9075) of an object of Siemens whose own headers don't say it; ``None`` if it has none."""
    if "siemens" not in header.text(_MANUFACTURER).lower():
        return None
    return header.text(DIRECTIONALITY) or None


def os_level(header: InstanceHeader) -> str | None:
    """OSLevel: what follows ``N4_`` in Siemens' protocol, else ``release:`` in Software Versions.

    The latter goes up to ``_`` or a quote.
    """
    named = header.vendor.get("OSLevel")
    if isinstance(named, str):
        return named
    value = header.value(_SOFTWARE_VERSIONS)
    found = _RELEASE.search(printed(value)) if value is not None else None
    return found.group(1).strip() if found else None


def record_value(key: str, value: Value) -> object:
    """A value in the form that the record has for this key."""
    if key not in RAW_KEYS:
        return printed(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return _plain(value)


def _plain(part: str | int | float) -> str | int | float:
    if not isinstance(part, str):
        return part
    value = number(part)
    if value is None:
        return str(part)
    return int(value) if value.is_integer() else value
