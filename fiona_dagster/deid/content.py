"""Content items of structured reports, by concept (PS3.15 table E.3.4-1).

Content Sequence has action D: the tree stays (measurements, codes, references with new UIDs); everything that
a person wrote, every name, date and identifier goes. With Clean Structured Content the columns of the options
count too: what an option keeps stays, and text is cleaned where Clean Descriptors is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fiona_dagster.deid import options
from fiona_dagster.deid.concepts import CONTENT_SEQUENCE, concepts
from fiona_dagster.deid.descriptors import cleaned
from fiona_dagster.deid.elements import Element, text
from fiona_dagster.deid.folding import decode, encode
from fiona_dagster.deid.identities import Identities, dummy
from fiona_dagster.deid.plan import Context, Work
from fiona_dagster.deid.stand_ins import code_items, reference_items
from fiona_dagster.deid.terms import Terms

if TYPE_CHECKING:
    from fiona_dagster.deid.profile import Profile

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
_DATED = frozenset(["DATE", "TIME", "DATETIME"])
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
    terms: Terms | None = None
    charset: bytes = b""
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
        action = self._action(item, kind)
        if action == "X":
            self.removed += 1
            return None
        kept: list[Element] = []
        for e in item:
            new = self._part(e, kind, action)
            if new is not None:
                kept.append(new)
        return kept or None

    @property
    def _by_options(self) -> bool:
        return "clean_structured_content" in self.profile.options

    def _action(self, item: list[Element], kind: str) -> str:
        """X, D, K (the value stays) or C (a date is moved, text is cleaned) for an item of this kind."""
        name = next((e for e in item if e.tag == CONCEPT_NAME and e.items), None)
        parts = (
            {e.tag: text(e.value) for e in name.items[0] if e.items is None} if name and name.items else {}
        )
        key = (parts.get(0x00080100, ""), parts.get(0x00080102, ""), kind)
        basic, columns = concepts().get(key, ("", {}))
        if kind in _DATED:
            return self._of_date(basic, columns)
        if self._by_options:
            option, cell = options.choose(columns, self.profile.options)
            if option != options.MODIFIED and cell:
                return cell
            if kind == "TEXT" and not basic and "clean_descriptors" in self.profile.options:
                return "C"
        if kind == "UIDREF" and options.UIDS in self.profile.options and not basic:
            return "K"
        return "D" if "/" in basic or not basic else basic

    def _of_date(self, basic: str, columns: Mapping[str, str]) -> str:
        listed = not basic or options.MODIFIED in columns
        if self.profile.modified_dates and listed:
            return "C"
        if self.profile.full_dates and listed:
            return "K"
        return "X" if basic == "X" else "D"

    def _part(self, e: Element, kind: str, action: str) -> Element | None:
        tag = e.tag
        if e.items is not None:
            return self._sequence(e)
        if tag in _PLAIN:
            return e
        wanted = _VALUES.get(kind)
        if wanted and tag == wanted[0] and kind != "UIDREF":
            return self._value(e, wanted[1], action)
        if tag in _UIDS:
            kept = options.UIDS in self.profile.options
            return Element(
                tag, "UI", text(e.value).encode() if kept else self.map_uid(text(e.value)).encode()
            )
        if tag == 0x0040A032:  # Observation DateTime: X/D, kept or shifted where dates are
            if self.profile.full_dates:
                return e
            value = self.identities.shifted("DT", text(e.value)) if self.profile.modified_dates else None
            return Element(tag, "DT", value.encode()) if value else None
        return None

    def _value(self, e: Element, vr: str, action: str) -> Element:
        """The value of an item: as it is, moved, cleaned, or a dummy."""
        if action == "K" and vr != "PN":
            return Element(e.tag, vr, e.value)
        self.replaced += 1
        made: bytes | None = None
        if action == "C" and vr in ("DA", "TM", "DT"):
            moved = self.identities.shifted(vr, text(e.value))
            made = moved.encode() if moved else None
        elif action == "C" and vr == "UT" and self.terms is not None:
            written = decode(bytes(e.value), self.charset, vr)
            keep_dates = self.profile.full_dates
            made = encode(cleaned(written, self.terms, keep_dates=keep_dates), self.charset)
        return Element(e.tag, vr, dummy(vr) if made is None else made)

    def _sequence(self, e: Element) -> Element | None:
        if e.tag == CONTENT_SEQUENCE:
            return Element(e.tag, "SQ", b"", self.items(e))
        if e.tag == 0x00081199:  # Referenced SOP Sequence
            kept = options.UIDS in self.profile.options
            return Element(e.tag, "SQ", b"", reference_items(e, _same if kept else self.map_uid))
        if e.tag in _CODES:
            return Element(e.tag, "SQ", b"", code_items(e))
        if e.tag in _PARTS:
            items = [[new for part in item if (new := self._part(part, "", "D"))] for item in e.items or []]
            return Element(e.tag, "SQ", b"", [item for item in items if item])
        return None


def _same(uid: str) -> str:
    return uid


def cleaner(profile: Profile) -> Work:
    """The work of Clean Structured Content on a sequence of content items."""

    def work(element: Element, context: Context) -> Element | None:
        if element.items is None:
            return None
        content = ContentCleaner(profile, context.identities, context.map_uid, context.terms, context.charset)
        return Element(element.tag, "SQ", b"", content.items(element))

    return work
