"""Sequences and documents that must not vanish: what stands in their place (actions D and U*).

Items are made from lists of what may stay, never by taking out what may not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.deid.elements import DicomFile, Element, text
from fiona_dagster.deid.identities import dummy

CODE_PARTS = frozenset((0x00080100, 0x00080119, 0x00080102, 0x00080103, 0x00080104))
"""Code value (short, long), scheme, scheme version, meaning (PS3.3 table 8.8-1)."""
_REFERENCE_UIDS = frozenset((0x00081155, 0x0020000D, 0x0020000E, 0x30060024))
_REFERENCE_PLAIN = frozenset((0x00081150, 0x00081160, 0x0062000B, 0x00081161, 0x00081162, 0x0040A0B0))
_REFERENCE_SEQUENCES = frozenset((0x00081199, 0x00081115, 0x00081140))
PURPOSE_CODE = 0x0040A170

MapUid = Callable[[str], str]


@lru_cache(maxsize=1)
def _published_schemes() -> frozenset[str]:
    """Terminologies whose codes are published; local ones (99xxx) may say anything."""
    content = (files(__package__) / "data" / "coding_schemes.txt").read_text("utf-8")
    return frozenset(line for line in content.splitlines() if line and not line.startswith("#"))


def code_items(element: Element) -> list[list[Element]]:
    """Code items with nothing but the code; meanings of local schemes are replaced."""
    made: list[list[Element]] = []
    for item in element.items or []:
        scheme = next((text(e.value) for e in item if e.tag == 0x00080102), "")
        parts = [e for e in item if e.tag in CODE_PARTS and e.items is None]
        if scheme not in _published_schemes():
            parts = [
                Element(e.tag, e.vr, b"Removed") if e.tag == 0x00080104 else e  # Code Meaning
                for e in parts
            ]
        if parts:
            made.append(parts)
    return made


def reference_items(element: Element, map_uid: MapUid) -> list[list[Element]]:
    """References to instances: classes, frames and purposes stay, UIDs are replaced, the rest goes."""
    made: list[list[Element]] = []
    for item in element.items or []:
        kept: list[Element] = []
        for e in item:
            if e.tag in _REFERENCE_PLAIN and e.items is None:
                kept.append(e)
            elif e.tag in _REFERENCE_UIDS and e.items is None:
                kept.append(Element(e.tag, "UI", map_uid(text(e.value)).encode()))
            elif e.tag in _REFERENCE_SEQUENCES and e.items is not None:
                kept.append(Element(e.tag, "SQ", b"", reference_items(e, map_uid)))
            elif e.tag == PURPOSE_CODE and e.items is not None:
                kept.append(Element(e.tag, "SQ", b"", code_items(e)))
        if kept:
            made.append(kept)
    return made


def code(value: str, scheme: str, meaning: str) -> list[Element]:
    """One code item."""
    return [
        Element(0x00080100, "SH", value.encode()),
        Element(0x00080102, "SH", scheme.encode()),
        Element(0x00080104, "LO", meaning.encode()),
    ]


def _filled(*parts: tuple[int, str]) -> list[Element]:
    return [Element(tag, vr, dummy(vr)) for tag, vr in parts]


def _annotation(element: Element, little: bool) -> list[Element]:
    first = element.items[0] if element.items else []
    layer = next((text(e.value) for e in first if e.tag == 0x00700002 and e.items is None), "")
    if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", layer):  # PS3.5 6.2, CS
        layer = "REMOVED"
    order = "little" if little else "big"
    one = b"\0\0\x80\x3f" if little else b"\x3f\x80\0\0"  # 1.0 as FL
    point = [
        Element(0x00700005, "CS", b"PIXEL"),
        Element(0x00700020, "US", (2).to_bytes(2, order)),  # type: ignore[arg-type]
        Element(0x00700021, "US", (1).to_bytes(2, order)),  # type: ignore[arg-type]
        Element(0x00700022, "FL", one + one),
        Element(0x00700023, "CS", b"POINT"),
    ]
    return [Element(0x00700002, "CS", layer.encode()), Element(0x00700009, "SQ", b"", [point])]


def dummy_items(element: Element, map_uid: MapUid, little: bool) -> list[list[Element]]:
    """Items for action D on a sequence: conformant and empty of meaning."""
    match element.tag:
        case 0x00401101 | 0x00080082:  # Person Identification Code, Institution Code Sequence
            return [code("REMOVED", "99FIONA", "Removed")]
        case 0x0040A073:  # Verifying Observer Sequence: who, and the organization (PS3.3 table C.17-2)
            return [
                [
                    *_filled((0x0040A027, "LO"), (0x0040A030, "DT"), (0x0040A075, "PN")),
                    Element(0x0040A088, "SQ", b"", []),
                ]
            ]
        case 0x00700001:  # Graphic Annotation Sequence: one point, no text
            return [_annotation(element, little)]
        case 0x00340001:  # Flow Identifier Sequence
            return [[Element(0x00340002, "OB", b"\0\0")]]
        case 0x00081072:  # Operator Identification Sequence
            return [[Element(0x00401101, "SQ", b"", [code("REMOVED", "99FIONA", "Removed")])]]
        case 0x0040B020:  # Waveform Annotation Sequence
            one = b"\1\0" if little else b"\0\1"
            channels = Element(0x0040A0B0, "US", one + bytes(2))  # all of the first multiplex group
            return [[channels, Element(0x0040A180, "US", one), Element(0x00700006, "ST", b"REMOVED")]]
        case _:
            return reference_items(element, map_uid)


DOCUMENT, _DOCUMENT_TYPE, _DOCUMENT_LENGTH = 0x00420011, 0x00420012, 0x00420015
_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)
"""A document without pages."""


def dummy_document(source: DicomFile) -> Element:
    """What stands in the place of an encapsulated document."""
    kind = source.find(_DOCUMENT_TYPE)
    return Element(DOCUMENT, "OB", _PDF if kind and text(kind.value) == "application/pdf" else dummy("OB"))


def fit_document_length(elements: list[Element], little: bool) -> None:
    """Encapsulated Document Length says how long the stand-in is (PS3.3 C.24.2)."""
    document = next((e for e in elements if e.tag == DOCUMENT), None)
    for place, e in enumerate(elements):
        if e.tag == _DOCUMENT_LENGTH and document is not None:
            length = len(document.value).to_bytes(4, "little" if little else "big")
            elements[place] = Element(e.tag, "UL", length)
