"""The options of PS3.15 Annex E: their codes, and which of them decides about an attribute.

Belongs here: reading the option columns of table E.1-1. Stays out: how text is cleaned (``descriptors``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

CODES = {
    "clean_graphics": ("113103", "Clean Graphics Option"),
    "clean_structured_content": ("113104", "Clean Structured Content Option"),
    "clean_descriptors": ("113105", "Clean Descriptors Option"),
    "retain_long_full_dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain_long_modified_dates": (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    "retain_patient_characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain_device_identity": ("113109", "Retain Device Identity Option"),
    "retain_uids": ("113110", "Retain UIDs Option"),
    "retain_safe_private": ("113111", "Retain Safe Private Option"),
    "retain_institution_identity": ("113112", "Retain Institution Identity Option"),
}
"""CID 7050 (PS3.16): codes for De-identification Method Code Sequence, in ascending order."""

BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")

MODIFIED, FULL = "retain_long_modified_dates", "retain_long_full_dates"
UIDS, PRIVATE = "retain_uids", "retain_safe_private"

NEWER_VRS = {
    0x00081301: "SQ",
    0x00081302: "SQ",
    0x00081303: "SQ",
    0x00081304: "SQ",
    0x00100016: "UT",
    0x00100042: "UT",
    0x00100043: "SQ",
    0x00100045: "UT",
    0x00100046: "SQ",
    0x00100047: "UR",
    0x00102162: "UC",
    0x0040A034: "DT",
    0x0040A035: "DT",
    0x0040B034: "DT",
    0x0040B036: "DT",
    0x0040B03B: "UT",
    0x0040B03F: "UT",
}
"""VRs of attributes that table E.1-1 has an option for and the dictionary does not know yet (PS3.6 2026c)."""


def codes(selected: Collection[str]) -> list[tuple[str, str]]:
    """CID 7050 codes of the Basic Profile with these options."""
    return [BASIC_CODE, *(code for option, code in CODES.items() if option in selected)]


def choose(columns: Mapping[str, str], selected: Collection[str]) -> tuple[str, str]:
    """The option that decides about an attribute, and its cell (K or C); two empty strings: none does.

    Dates of devices may be kept by the device's option and modified by another: then they are modified.
    """
    if columns.get(MODIFIED) and MODIFIED in selected:
        return MODIFIED, columns[MODIFIED]
    cells = {option: cell for option, cell in columns.items() if option in selected}
    for wanted in ("K", "C"):
        for option, cell in cells.items():
            if cell == wanted:
                return option, cell
    return "", ""
