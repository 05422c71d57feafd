"""Identity that stands where the table does not look: own UIDs and own names in attributes that are kept.

The Basic Profile keeps what it does not list (a document title, a code meaning, a comment of a newer module).
If such a value holds what identified this very person, the word goes; the independent search (``verify``)
blocks what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator

from fiona_dagster.deid.binary_numbers import WIDE_NUMBERS, numbers_of
from fiona_dagster.deid.defined import MODALITY, is_defined
from fiona_dagster.deid.elements import PIXELS, TEXT, Element, Value
from fiona_dagster.deid.folding import decode, encode, fold, fold_with_places, printed
from fiona_dagster.deid.learned import tells
from fiona_dagster.deid.spread import Hit
from fiona_dagster.deid.terms import Terms
from fiona_dagster.deid.words import GLUED
from fiona_dagster.dicom.dictionary import dictionary_vr

CHARACTER_SET = 0x00080005
UID_LIKE = re.compile(rb"[0-9]+(?:\.[0-9]+){3,}")
"""Shorter ones can't be told from numbers."""
_UID_WRITTEN = re.compile(rb"[0-9]+(?:[_\-][0-9]+){3,}")
"""The points are other signs in names of files."""
_OTHER_SIGNS = bytes.maketrans(b"_-", b"..")
WORDS = frozenset(["LO", "SH", "ST", "LT", "UT", "UC"])
SYMBOLS = frozenset(["CS", "AE", "UR"])
NUMBERS = frozenset(["DS", "IS"])
MOMENTS = {
    vr: re.compile(rf"(?:(?:\A|\\) *+[{signs}]*+[ \0]*+)*".encode())
    for vrs, signs in (("DA DT TM", "0-9.+:\\-"), ("AS", "0-9DWMY"), ("UI", "0-9."))
    for vr in vrs.split()
}
"""VRs of few signs, and what their values look like."""
_LETTERS = re.compile(r"[^0-9.+\-\\ \0e]")
REPLACEMENT = "REMOVED"
LONGEST = {"SH": 16, "LO": 64}


_DAY = re.compile(rb"\d{8}")
Keeps = Callable[[int, str, tuple[int, ...]], bool]
"""Whether the rules keep what stands in a tag, by its VR and the sequences around it."""


def source_values(
    elements: list[Element], keeps: Keeps, charset: bytes = b"", within: tuple[int, ...] = ()
) -> Iterator[tuple[int, str, bytes, bytes]]:
    """Tag, VR, value and character set of everything that was looked into and may tell who it is.

    What the rules keep tells nothing that must go (design section 8), and is left out.
    """
    charset = charset_of(elements) or charset
    for e in elements:
        if e.items is not None:
            for item in e.items:
                yield from source_values(item, keeps, charset, (*within, e.tag))
        elif tells(e.tag, e.vr) and len(e.value) <= 0x10000 and not keeps(e.tag, e.vr, within):
            yield e.tag, e.vr, what_tells(e.tag, e.vr, bytes(e.value)), charset


def what_tells(tag: int, vr: str, value: bytes) -> bytes:
    """The part of a value that terms are taken from: of a moment its day, which is that of all slices."""
    return value[:8] if vr == "DT" and _DAY.match(value) and not tells(tag, "") else value


def charset_of(elements: list[Element]) -> bytes:
    """Specific Character Set of a data set or item; empty when it does not say."""
    return next((bytes(e.value) for e in elements if e.tag == CHARACTER_SET), b"")


def stray_uids(text: bytes, originals: Iterable[bytes]) -> set[bytes]:
    """UIDs in a text that are no original of this object, but look like instances of the same place.

    Such are UIDs below the first four components of an original, and all of eight components or more.
    """
    found = set()
    roots: set[bytes] = set()
    for uid in UID_LIKE.findall(text):
        parts = uid.split(b".")
        if len(parts) < 5 or uid.startswith((b"2.25.", b"1.2.840.10008.")):
            continue
        roots = roots or {b".".join(original.split(b".")[:4]) for original in originals}
        if len(parts) >= 8 or b".".join(parts[:4]) in roots:
            found.add(uid)
    return found


def uids_in(data: bytes, originals: Collection[bytes]) -> set[bytes]:
    """Which of these UIDs stand in bytes, with points or with other signs between their components."""
    found = set(UID_LIKE.findall(data))
    found.update(written.translate(_OTHER_SIGNS) for written in _UID_WRITTEN.findall(data))
    return found.intersection(originals)


def is_moment(vr: str, value: bytes) -> bool:
    """Whether a value of DA, DT, TM, AS or UI has none but the signs that such values have (PS3.5 6.2)."""
    return bool(MOMENTS[vr].fullmatch(value))


def is_creator(tag: int, value: Value, creators: frozenset[str]) -> bool:
    """Whether a value is one of these private creators, in the element of one (PS3.5 7.8.1)."""
    if not tag >> 16 & 1 or not 0x10 <= tag & 0xFFFF <= 0xFF:
        return False
    return bytes(value).decode("latin-1").strip(" \0") in creators


class Leftovers:
    """Replaces leftovers of one object.

    Args:
        terms: what identified the person.
        originals: UIDs of the original that were replaced.
        map_uid: gives the new ones.
        little: whether numbers are little endian.
        creators: private creators that tell nobody, whatever a patient is called.
    """

    def __init__(
        self,
        terms: Terms,
        originals: set[str],
        map_uid: Callable[[str], str],
        little: bool = True,
        creators: frozenset[str] = frozenset(),
    ) -> None:
        self.terms, self.map_uid, self.little, self.creators = terms, map_uid, little, creators
        self.originals = {uid.encode("utf-8", "surrogateescape") for uid in originals}
        self.cleaned = 0

    def clean(self, elements: list[Element]) -> list[Element]:
        """The elements without leftovers; the same list when there are none."""
        texts: list[bytes] = []
        others: list[bytes] = []
        folded: list[str] = []
        suspicious = False
        for tag, vr, value, charset in kept_values(elements):
            if is_creator(tag, value, self.creators):
                continue
            if vr in WORDS or (vr in SYMBOLS and not is_defined(tag, value)):
                texts.append(value)
                as_read = fold(decode(value, charset))
                folded.append(as_read)
                suspicious = suspicious or self.terms.is_value(as_read)
            else:
                others.append(value)
                suspicious = suspicious or (vr in NUMBERS and self._tells(value))
                suspicious = suspicious or self._are_telling(vr, value)
                suspicious = suspicious or (vr in MOMENTS and not is_moment(vr, value))
                suspicious = suspicious or self._hides(tag, vr, value)
        text = b"\n".join(texts)
        uids = uids_in(text + b"\n" + b"\n".join(others), self.originals)
        uids |= stray_uids(text, self.originals)
        hits = (*self.terms.hits(text), *self.terms.find("\n".join(folded), True))
        if not uids and not suspicious and not any(hit.term.strong for hit in hits):
            return elements
        pattern = None
        if uids:
            ordered = sorted((uid.replace(b".", rb"[._\-]") for uid in uids), key=len, reverse=True)
            pattern = re.compile(rb"(?<![0-9.])(?:" + b"|".join(ordered) + rb")(?![0-9]|\.[0-9])")
        return self._elements(elements, pattern, b"")

    def harmless(self, tag: int, vr: str, value: bytes, charset: bytes) -> bool:
        """Whether a kept value stays as it is; its UIDs were looked at elsewhere."""
        if is_creator(tag, value, self.creators):
            return True
        if self._hides(tag, vr, value):
            return False
        if vr in WORDS or (vr in SYMBOLS and not is_defined(tag, value)):
            return self._text(value, vr, charset) == value
        if vr in NUMBERS:
            return not self._tells(value)
        return not self._are_telling(vr, value) and (vr not in MOMENTS or is_moment(vr, value))

    def _elements(
        self, elements: list[Element], pattern: re.Pattern[bytes] | None, charset: bytes
    ) -> list[Element]:
        charset = charset_of(elements) or charset
        left = [new for e in elements if (new := self._element(e, pattern, charset)) is not None]
        return left if len(left) == len(elements) else without_lone_creators(left)

    def _element(self, e: Element, pattern: re.Pattern[bytes] | None, charset: bytes) -> Element | None:
        if e.items is not None:
            return Element(e.tag, e.vr, b"", [self._elements(item, pattern, charset) for item in e.items])
        if e.tag in PIXELS or is_creator(e.tag, e.value, self.creators):
            return e
        vr = dictionary_vr(e.tag) or e.vr
        value = bytes(e.value)
        if pattern and pattern.search(value):
            self.cleaned += 1
            if vr not in TEXT:
                return None
            value = pattern.sub(
                lambda found: self.map_uid(found[0].translate(_OTHER_SIGNS).decode()).encode(), value
            )
        if self._hides(e.tag, vr, value):
            self.cleaned += 1
            return None
        told = (vr in NUMBERS and self._tells(value)) or self._are_telling(vr, value)
        if told or (vr in MOMENTS and not is_moment(vr, value)):
            self.cleaned += 1
            return Element(e.tag, e.vr)
        if vr in WORDS or (vr in SYMBOLS and not is_defined(e.tag, value)):
            new = self._text(value, vr, charset)
            if new != value:
                self.cleaned += 1
                empty = b"OT" if e.tag == MODALITY else b""
                return Element(e.tag, e.vr, empty if vr in SYMBOLS else new)
        return e if value == e.value else Element(e.tag, e.vr, value)

    def _tells(self, value: bytes) -> bool:
        """Whether a number is an id, or holds words."""
        text = value.decode("latin-1").lower()
        words = _LETTERS.search(text) and any(
            not text[hit.start : hit.end].isdigit() for hit in self._strong(text, False)
        )
        return bool(words) or self.terms.is_number(text)

    def _hides(self, tag: int, vr: str, value: bytes) -> bool:
        """Whether a private value that is no text holds words of the person: it goes as a whole.

        Short words stand in bytes by chance; what is written in another way has no length.
        """
        if not tag >> 16 & 1 or vr in TEXT:
            return False
        hits = (*self.terms.hits(value), *self.terms.find(printed(value), True))
        return any(hit.term.strong for hit in hits if not 0 < hit.end - hit.start < GLUED)

    def _are_telling(self, vr: str, value: bytes) -> bool:
        """Whether a binary number is an id or a date."""
        return vr in WIDE_NUMBERS and self.terms.are_numbers(numbers_of(vr, value, self.little))

    def _text(self, value: bytes, vr: str, charset: bytes) -> bytes:
        """The text without what identified the person."""
        text = decode(value, charset)
        folded, places = fold_with_places(text)
        if self.terms.is_value(folded):
            return REPLACEMENT.encode()
        spans = [(places[h.start], places[h.end]) for h in self._strong(folded, True)]
        if spans:
            new = encode(without(text, spans, LONGEST.get(vr)), charset)
            value = new if new is not None else REPLACEMENT.encode()
        if any(hit.term.strong for hit in self.terms.hits(value)):
            return REPLACEMENT.encode()  # in another encoding than the one that is declared
        return value

    def _strong(self, text: str, thorough: bool) -> list[Hit]:
        return [hit for hit in self.terms.find(text, thorough) if hit.term.strong]


def without_lone_creators(elements: list[Element]) -> list[Element]:
    """The elements of a data set without private creators (gggg,00xx) whose block is empty (PS3.5 7.8.1)."""
    blocks = {e.tag >> 8 & 0xFF | e.tag & 0xFFFF0000 for e in elements if e.tag >> 16 & 1 and e.tag & 0xFF00}
    return [
        e for e in elements if not e.tag >> 16 & 1 or not 0x10 <= e.tag & 0xFFFF <= 0xFF or e.tag in blocks
    ]


def kept_values(elements: list[Element], charset: bytes = b"") -> Iterator[tuple[int, str, bytes, bytes]]:
    """Tag, VR of the dictionary, value and character set of everything but pixels."""
    charset = charset_of(elements) or charset
    for e in elements:
        if e.items is not None:
            for item in e.items:
                yield from kept_values(item, charset)
        elif e.tag not in PIXELS:
            yield e.tag, dictionary_vr(e.tag) or e.vr, bytes(e.value), charset


def without(text: str, spans: list[tuple[int, int]], longest: int | None) -> str:
    """The text with a neutral word in each span, or without the spans where that would be too long."""
    for word in (REPLACEMENT, ""):
        made, at = "", 0
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if start >= at:
                made += text[at:start] + word
            at = max(at, end)
        made += text[at:]
        if longest is None or all(len(part) <= longest for part in made.split("\\")):
            return made
    return REPLACEMENT
