"""Identity that stands where the table does not look: own UIDs and own names in attributes that are kept.

The Basic Profile keeps what it does not list (a document title, a code meaning, a comment of a newer module).
If such a value holds what identified this very person, the word goes; the independent search (``verify``)
blocks what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fiona_dagster.deid.elements import PIXELS, TEXT, Element, dictionary_vr
from fiona_dagster.deid.terms import STRUCTURAL, Terms

_UID_LIKE = re.compile(rb"[0-9]+(?:\.[0-9]+){3,}")
"""Shorter ones can't be told from numbers."""
_WORDS = frozenset(["LO", "SH", "ST", "LT", "UT", "UC"])
_SYMBOLS = frozenset(["CS", "AE", "UR"])
REPLACEMENT = b"REMOVED"
_LONGEST = {"SH": 16, "LO": 64}


def source_values(elements: list[Element]) -> Iterator[tuple[int, str, bytes]]:
    """Tag, VR and value of everything that was looked into."""
    for e in elements:
        if e.items is not None:
            for item in e.items:
                yield from source_values(item)
        elif e.tag not in PIXELS and len(e.value) <= 0x10000:
            yield e.tag, e.vr, bytes(e.value)


class Leftovers:
    """Replaces leftovers of one object.

    Args:
        terms: what identified the person.
        originals: UIDs of the original that were replaced.
        map_uid: gives the new ones.
    """

    def __init__(self, terms: Terms, originals: set[str], map_uid: Callable[[str], str]) -> None:
        self.terms, self.map_uid = terms, map_uid
        self.originals = {uid.encode("utf-8", "surrogateescape") for uid in originals}
        self.cleaned = 0

    def clean(self, elements: list[Element]) -> list[Element]:
        """The elements without leftovers; the same list when there are none."""
        texts: list[bytes] = []
        others: list[bytes] = []
        for tag, vr, value in _kept_values(elements):
            (texts if vr in _WORDS or (vr in _SYMBOLS and tag not in STRUCTURAL) else others).append(value)
        text = b"\n".join(texts)
        uids = self.originals.intersection(_UID_LIKE.findall(text + b"\n" + b"\n".join(others)))
        words = any(self.terms.words[word].strong for _, _, word in self.terms.hits(text))
        if not uids and not words:
            return elements
        pattern = None
        if uids:
            ordered = sorted((re.escape(uid) for uid in uids), key=len, reverse=True)
            pattern = re.compile(rb"(?<![0-9.])(?:" + b"|".join(ordered) + rb")(?![0-9]|\.[0-9])")
        return [new for e in elements if (new := self._element(e, pattern)) is not None]

    def _element(self, e: Element, pattern: re.Pattern[bytes] | None) -> Element | None:
        if e.items is not None:
            cleaned = ((self._element(x, pattern) for x in item) for item in e.items)
            return Element(e.tag, e.vr, b"", [[new for new in item if new is not None] for item in cleaned])
        if e.tag in PIXELS:
            return e
        vr = dictionary_vr(e.tag) or e.vr
        value = bytes(e.value)
        if pattern and pattern.search(value):
            self.cleaned += 1
            if vr not in TEXT:
                return None
            value = pattern.sub(lambda found: self.map_uid(found[0].decode()).encode(), value)
        if vr in _WORDS or (vr in _SYMBOLS and e.tag not in STRUCTURAL):
            words = self.terms.words
            spans = [(start, end) for start, end, word in self.terms.hits(value) if words[word].strong]
            if spans:
                self.cleaned += 1
                if vr in _SYMBOLS:
                    return Element(e.tag, e.vr)
                value = _without(value, spans, _LONGEST.get(vr))
        return e if value == e.value else Element(e.tag, e.vr, value)


def _kept_values(elements: list[Element]) -> Iterator[tuple[int, str, bytes]]:
    for e in elements:
        if e.items is not None:
            for item in e.items:
                yield from _kept_values(item)
        elif e.tag not in PIXELS:
            yield e.tag, dictionary_vr(e.tag) or e.vr, bytes(e.value)


def _without(value: bytes, spans: list[tuple[int, int]], longest: int | None) -> bytes:
    """The value with a neutral word in each span, or without the spans where that would be too long."""
    for word in (REPLACEMENT, b""):
        made, at = b"", 0
        for start, end in sorted(spans):
            if start >= at:
                made += value[at:start] + word
                at = end
        made += value[at:]
        if longest is None or all(len(part) <= longest for part in made.split(b"\\")):
            return made
    return REPLACEMENT
