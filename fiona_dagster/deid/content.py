"""Content items of structured reports, by concept (PS3.15 table E.3.4-1, basic column).

Content Sequence has action D: the tree stays (measurements, codes, references with new UIDs); everything that
a person wrote, every name, date and identifier goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fiona_dagster.deid.elements import Element, text
from fiona_dagster.deid.identities import Identities, dummy
from fiona_dagster.deid.profile import CONTENT_SEQUENCE, Profile, concepts
from fiona_dagster.deid.stand_ins import code_items, reference_items

VALUE_TYPE, CONCEPT_NAME, CONCEPT_CODE = 0x0040A040, 0x0040A043, 0x0040A168
_VALUES = {
    "TEXT": (0x0040A160, "UT"),
    "PNAME": (0x0040A123, "PN"),
    "DATE": (0x0040A121, "DA"),
    "TIME": (0x0040A122, "TM"),
    "DATETIME": (0x0040A120, "DT"),
    "UIDREF": (0x0040A124, "UI"),
}
"""Value type -> attribute that holds the value, and its VR (PS3.3 C.17.3.2)."""
_OTHERS = frozenset(
    ["CONTAINER", "CODE", "NUM", "IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D", "TCOORD", "TABLE"]
)
_PLAIN = frozenset(
    (
        *(0x0040A010, VALUE_TYPE, 0x0040A050, 0x0040A130, 0x0040A132, 0x0040A136, 0x0040A138, 0x0040A161),
        *(0x0040A162, 0x0040A163, 0x0040A30A, 0x0040DB73, 0x0040DB00, 0x00080105, 0x00700022, 0x00700023),
    )
)
"""Kept as they are: relationship, continuity, ranges, numbers, coordinates, template identifier."""
_CODES = frozenset((CONCEPT_NAME, CONCEPT_CODE, 0x0040A301, 0x004008EA))
_PARTS = frozenset((0x0040A300, 0x0040A504))
"""Measured Value and Content Template Sequence: their items hold parts of the same lists."""
_UIDS = frozenset((0x30060024, 0x0040A171, 0x0040A124))


@dataclass
class ContentCleaner:
    """Cleans content items; ``removed`` and ``replaced`` count them."""

    profile: Profile
    identities: Identities
    map_uid: Callable[[str], str]
    removed: int = 0
    replaced: int = 0

    def items(self, element: Element) -> list[list[Element]]:
        """The items of a Content Sequence that may stay."""
        made = (self._item(item) for item in element.items or [])
        return [item for item in made if item]

    def _item(self, item: list[Element]) -> list[Element] | None:
        kind = next((text(e.value) for e in item if e.tag == VALUE_TYPE and e.items is None), "")
        if kind and kind not in _VALUES and kind not in _OTHERS:
            self.removed += 1
            return None
        action, shift = self._action(item, kind)
        if action == "X":
            self.removed += 1
            return None
        kept: list[Element] = []
        for e in item:
            new = self._part(e, kind, shift)
            if new is not None:
                kept.append(new)
        return kept or None

    def _action(self, item: list[Element], kind: str) -> tuple[str, bool]:
        """Action of the concept, and whether its dates are shifted."""
        name = next((e for e in item if e.tag == CONCEPT_NAME and e.items), None)
        parts = (
            {e.tag: text(e.value) for e in name.items[0] if e.items is None} if name and name.items else {}
        )
        key = (parts.get(0x00080100, ""), parts.get(0x00080102, ""), kind)
        basic, options = concepts().get(key, ("", {}))
        shift = self.profile.modified_dates and options.get("retain_long_modified_dates", "C") == "C"
        if shift and basic and kind in ("DATE", "TIME", "DATETIME"):
            return "C", True
        return ("D" if "/" in basic else basic), shift

    def _part(self, e: Element, kind: str, shift: bool) -> Element | None:
        tag = e.tag
        if e.items is not None:
            return self._sequence(e)
        if tag in _PLAIN:
            return e
        if tag in _UIDS:
            return Element(tag, "UI", self.map_uid(text(e.value)).encode())
        wanted = _VALUES.get(kind)
        if wanted and tag == wanted[0]:
            self.replaced += 1
            value = self.identities.shifted(wanted[1], text(e.value)) if shift else None
            return Element(tag, wanted[1], value.encode() if value else dummy(wanted[1]))
        if tag == 0x0040A032:  # Observation DateTime: X/D, shifted where dates are
            value = self.identities.shifted("DT", text(e.value)) if self.profile.modified_dates else None
            return Element(tag, "DT", value.encode()) if value else None
        return None

    def _sequence(self, e: Element) -> Element | None:
        if e.tag == CONTENT_SEQUENCE:
            return Element(e.tag, "SQ", b"", self.items(e))
        if e.tag == 0x00081199:  # Referenced SOP Sequence
            return Element(e.tag, "SQ", b"", reference_items(e, self.map_uid))
        if e.tag in _CODES:
            return Element(e.tag, "SQ", b"", code_items(e))
        if e.tag in _PARTS:
            items = [[new for part in item if (new := self._part(part, "", False))] for item in e.items or []]
            return Element(e.tag, "SQ", b"", [item for item in items if item])
        return None
