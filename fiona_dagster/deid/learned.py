"""What identified the person of a study, as search terms: taken from originals.

Design section 8: terms have a kind, a minimum length and word boundaries; weak ones (initials, common words)
only warn. Belongs here: making terms of values, in all their spellings. Stays out: finding them (``terms``).
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

from fiona_dagster.deid import alike, spread
from fiona_dagster.deid.dates import Day
from fiona_dagster.deid.defined import MODALITY, is_defined
from fiona_dagster.deid.folding import (
    IDEOGRAPHS,
    decode,
    encode,
    fold,
    in_encodings,
    misread,
    other_readings,
    raw_view,
    spellings,
    undeclared_reading,
)
from fiona_dagster.deid.places import of_address, of_institution
from fiona_dagster.deid.spread import Term
from fiona_dagster.deid.words import GLUED, common_words, is_strong

_SPLIT_NAME = re.compile(r"[\^=\\ ,;/]+")
_LINES = re.compile(r"[,;^=\r\n]+")
_OF_WORDS = ("name", "institution", "address")
_SHORTEST = 3
"""Letters of a name that is found with another ending."""
_GROUPS = re.compile(r"[=\\]")
_OF_IDEOGRAPHS = ("gb18030", "big5", "euc_kr", "euc_jp", "shift_jis", "iso2022_jp")
"""Encodings of names, whatever a file declares."""
_SPLIT_PART = re.compile(r"[-'.]+")
_ESCAPE = re.compile(rb"\x1b[ -/]+[0-~]")
_WORD = re.compile(r"[^\W\d_]+")
_DUMMIES = frozenset(("19000101", "removed", "000000", "anonymized", "anonymous"))
_BUDDHIST = 543
"""Years of Thailand's calendar are so many more."""
_NUMBERED = re.compile(r"[^\W\d_]{5,}\d+[a-z]?")
"""A street and its number."""


def _with_initials(parts: list[str]) -> Iterator[str]:
    """Surname and initials in one word, as in names of accounts: ``jsmith``, ``smithjq``."""
    surname, *given = parts
    if is_strong(surname, "name", 4):
        for initials in {given[0][0], "".join(part[0] for part in given[:2])}:
            yield initials + surname
            yield surname + initials


@lru_cache(maxsize=1)
def _identifying() -> dict[int, tuple[str, int]]:
    content = (files(__package__) / "data" / "identifying.csv").read_text("utf-8")
    return {int(r["tag"], 16): (r["kind"], int(r["minimum"])) for r in csv.DictReader(content.splitlines())}


def tells(tag: int, vr: str) -> bool:
    """Whether an attribute is one that terms are taken from."""
    return tag in _identifying() or vr in ("PN", "DA", "DT")


def _stronger(table: dict[str, Term], key: str, term: Term) -> bool:
    there = table.get(key)
    if there is None or (term.strong and not there.strong):
        table[key] = term
        return True
    return False


@dataclass
class Learned:
    """Search terms of one study.

    Attributes:
        words: folded text, or bytes as :func:`raw_view` shows them -> term, found as whole words.
        glued: names that are found inside longer words too.
        alike: names as :func:`alike.likened` has them.
        sounds: names of other scripts, as :func:`alike.sounding` has them in Latin letters.
        latin: names in Latin letters likewise, for text of other scripts.
        numbers: digits without leading zeros -> term, found in any grouping.
        compact: letters and digits of an id without the signs between them.
        single: names of one letter in scripts that have such, found where they stand by themselves.
        days: dates.
        values: folded ids that must not be the whole value of an attribute.
        exempt: what the request assigns, folded: never a term.
    """

    words: dict[str, Term] = field(default_factory=dict, repr=False)
    glued: dict[str, Term] = field(default_factory=dict, repr=False)
    alike: dict[str, Term] = field(default_factory=dict, repr=False)
    sounds: dict[str, Term] = field(default_factory=dict, repr=False)
    latin: dict[str, Term] = field(default_factory=dict, repr=False)
    numbers: dict[str, Term] = field(default_factory=dict, repr=False)
    compact: dict[str, Term] = field(default_factory=dict, repr=False)
    single: dict[str, Term] = field(default_factory=dict, repr=False)
    days: dict[Day, Term] = field(default_factory=dict, repr=False)
    values: set[str] = field(default_factory=set, repr=False)
    exempt: frozenset[str] = field(default=frozenset(), repr=False)
    _index: dict[str, list[str]] | None = field(default=None, repr=False)
    _loose: list[str] = field(default_factory=list, repr=False)
    _names: dict[str, Term] = field(default_factory=dict, repr=False)

    def add(self, value: str, kind: str, strong: bool) -> None:
        """Adds a word; a strong one wins over a weak one of the same letters."""
        value = value.strip(" \0\r\n\t")
        if not value or value in self.exempt or value in _DUMMIES:
            return
        if not strong and is_defined(MODALITY, value.upper().encode("ascii", "replace")):
            return  # CT, MR and the like stand in every second header
        if _stronger(self.words, value, Term(kind, strong)):
            self._index = None

    def update(self, other: Learned) -> None:
        """Takes over the terms of another study."""
        for mine, theirs in zip(self.tables(), other.tables(), strict=True):
            mine.update(theirs)
        self.days.update(other.days)
        self.values |= other.values
        self._index = None

    def tables(self) -> tuple[dict[str, Term], ...]:
        """All terms of letters and digits."""
        tables = (self.words, self.glued, self.alike, self.sounds, self.latin, self.numbers, self.compact)
        return (*tables, self.single)

    def counts(self) -> Iterator[str]:
        """The kind of every term."""
        for term in (*self.words.values(), *self.days.values()):
            yield term.kind

    def learn(self, elements: Iterable[tuple[int, str, bytes, bytes]]) -> None:
        """Takes the terms from one original.

        Args:
            elements: tag, VR, raw value and Specific Character Set in force, of every element at every depth.
        """
        identifying = _identifying()
        for tag, vr, value, charset in elements:
            if not value:
                continue
            kind, minimum = identifying.get(tag, ("", 0))
            if vr == "PN" or kind == "name":
                self._name(value, charset)
            elif kind == "birth_date":
                self._date(value, "birth_date")
            elif kind:
                for part in decode(value, charset).split("\\"):
                    self._text(part.strip(" \0"), kind, minimum, charset)
            elif vr in ("DA", "DT") and not tag >> 16 & 1:
                self._date(value, "date")

    def _name(self, value: bytes, charset: bytes) -> None:
        text = decode(value, charset, "PN")
        for other in (text, *other_readings(value, charset)):
            self._ideographs(other, charset)
        for reading in filter(None, (text, undeclared_reading(value, charset))):
            self._parts_of_name(reading, charset)

    def _parts_of_name(self, text: str, charset: bytes) -> None:
        parts = [part.strip(" .-\0") for part in _SPLIT_NAME.split(text)]
        for part in parts:
            for piece in {part, *_SPLIT_PART.split(part)}:
                self._spelled(piece, "name", is_strong(piece, "name", 4), charset)
        long = [part for part in parts if len(part) > 1]
        if len(long) > 1 and any(is_strong(part, "name", 3) for part in long):
            first, second, *rest = long
            for form in (
                *(" ".join(long), " ".join([second, *rest, first])),
                *(f"{first}, {second}", f"{first}^{second}"),
            ):
                self._spelled(form, "name", len(form) >= GLUED, charset)
            for form in (first + second, second + first, *map("".join, pairwise(long))):
                self._glue(form, "name")
                if len(form) == GLUED - 1:  # too short to be found inside of words
                    self._spelled(form, "name", is_strong(form, "name", 4), charset)
            for form in _with_initials(long):
                self._spelled(form, "name", is_strong(form, "name", 4), charset)

    def _ideographs(self, text: str, charset: bytes) -> None:
        """Names in scripts that need no blank: family and given name may have one letter each (王^芳)."""
        for group in _GROUPS.split(text):
            parts = [part for part in _SPLIT_NAME.split(group.strip(" \0")) if part]
            if not parts or not all(letter >= IDEOGRAPHS for part in parts for letter in part):
                continue
            first, second = parts[0], "".join(parts[1:])
            for form in {first, second, first + second, second + first, f"{first} {second}"}:
                self._spelled(form, "name", True, charset)
            for letter in {fold(part) for part in parts if len(part) == 1}:
                if len(letter) == 1 and letter not in self.exempt:
                    self.single[letter] = Term("name", letter not in common_words())

    def _spelled(self, value: str, kind: str, strong: bool, charset: bytes) -> None:
        """A value in its spellings; of what is not ASCII also the bytes of usual encodings."""
        if len(value) < 2:
            return
        for form in spellings(value):
            self.add(form, kind, strong)
        if strong and kind == "name":
            self._glue(value, kind)
        if kind in _OF_WORDS and _WORD.fullmatch(value):
            self._similar(value, kind, strong)
        if value.isascii():
            return
        if len(value) >= 4:
            for form in misread(value):
                self.add(form, kind, strong)
        for case in {value, value.lower(), value.upper()}:
            own = encode(case, charset) or b""
            bare = _ESCAPE.sub(b"", own)  # some programs forget the escape
            wide = [case.encode("utf-16-le"), case.encode("utf-16-be")]
            for made in (
                own,
                bare if not bare.isascii() else b"",
                case.encode("utf-8"),
                case.encode("latin-1", "ignore"),
                *(two for two in wide if b"\0" in two or not two.isascii()),  # else it may be any word
                *(in_encodings(case, _OF_IDEOGRAPHS) if value >= IDEOGRAPHS else ()),
            ):
                if len(made) > 2:
                    self.add(raw_view(made), kind, strong)

    def _similar(self, value: str, kind: str, strong: bool) -> None:
        """One word as others spell it, in another script, inflected, or damaged."""
        for form in spellings(value):
            if form in self.exempt or form in common_words():
                continue
            if len(form) >= _SHORTEST and (own := alike.genitive(form)):
                self.add(own, kind, strong and is_strong(own, kind, 4))
            if strong:
                self._sounding(form, kind)
        for sound in alike.foreign_forms(value) if strong else ():
            for form in {sound, alike.stem(sound)}:
                if len(form) >= _SHORTEST:
                    self.sounds[form] = Term(kind, True)
        for form in alike.damaged(value):
            if len(form) >= spread.SHORTEST_SPACED:
                letters = "".join(_WORD.findall(form))
                self.add(form, kind, strong and is_strong(letters, kind, 4))

    def _sounding(self, form: str, kind: str) -> None:
        like, term = alike.likened(form), Term(kind, True)
        longest = alike.stem(form) or form
        if kind == "name" or len(longest) > GLUED:  # towns and hospitals stand in compounds
            self._glue(longest, kind)
            self._glue(like, kind)
        if form.isascii() and len(like) >= spread.SHORTEST_SPACED:
            self.alike[like] = self.latin[alike.sounding(form)] = term
        elif form.isascii():
            self.add(like, kind, False)

    def _glue(self, value: str, kind: str) -> None:
        for form in spellings(value):
            letters = "".join(_WORD.findall(form))
            least = GLUED if letters < IDEOGRAPHS else 2
            if len(letters) >= least and letters not in common_words() and letters not in self.exempt:
                self.glued[letters] = Term(kind, True)

    def _text(self, value: str, kind: str, minimum: int, charset: bytes) -> None:
        if len(value) < 3:
            return
        strong, folded = is_strong(value, kind, minimum), fold(value)
        self._spelled(value, kind, strong, charset)
        if kind == "phone":
            self._phone(value)
        if kind == "address":
            self._address(value, minimum, charset)
        if kind == "institution":
            self._institution(value, charset)
        if kind not in ("id", "device") or folded in self.exempt:
            return
        digits = re.search(r"[0-9]", value)
        squeezed = spread.joined(folded)
        if squeezed.isdigit():
            self._number(squeezed, kind)
        elif len(squeezed) >= GLUED and digits and strong:
            self.compact[squeezed] = Term(kind, True)
            core = re.fullmatch(r"[a-z]*(\d{6,})[a-z]*", squeezed)
            if core:
                self._number(core[1], kind)
        if kind == "id" and len(folded) >= 4 and (digits or folded not in common_words()):
            self.values.add(folded)

    def _address(self, value: str, minimum: int, charset: bytes) -> None:
        kind = "address"
        for part in map(str.strip, _LINES.split(value)):
            if minimum <= len(part) < len(value):
                self._spelled(part, kind, is_strong(part, kind, minimum), charset)
            together = spread.joined(fold(part))
            if minimum <= len(part) and _NUMBERED.fullmatch(together) and together not in self.exempt:
                self.compact[together] = Term(kind, True)
        for word in of_address(value):
            self._spelled(word, kind, True, charset)

    def _institution(self, value: str, charset: bytes) -> None:
        """The name of an institution without signs, and the words of it that no other one has."""
        self._spelled(
            re.sub(r"['.]", "", fold(value)), "institution", is_strong(value, "institution", 8), charset
        )
        for word in of_institution(value):
            self._spelled(word, "institution", True, charset)

    def _phone(self, value: str) -> None:
        """A telephone number by its digits, and without the code of its country."""
        digits = re.sub(r"[^0-9]", "", value)
        if len(digits) < 7:
            return
        self._number(digits, "phone")
        if len(digits) >= 9 and value.startswith(("+", "00")):
            for code in (1, 2, 3):  # digits of a country's code
                self._number(digits.lstrip("0")[code:], "phone")

    def _number(self, digits: str, kind: str) -> None:
        bare = digits.lstrip("0")
        if len(bare) < 3 or any(bare == exempt.lstrip("0") for exempt in self.exempt):
            return
        strong = len(bare) >= GLUED and len(set(bare)) > 1
        _stronger(self.numbers, bare, Term(kind, strong))

    def _date(self, value: bytes, kind: str) -> None:
        digits = value.strip(b" \0").replace(b".", b"")[:8].decode("ascii", "replace")
        try:
            day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            return
        if digits in _DUMMIES:
            return
        term = Term(kind, True)
        for year in (day.year, day.year % 100, day.year + _BUDDHIST):
            there = self.days.get((year, day.month, day.day))
            if there is None or there.kind == "date":
                self.days[year, day.month, day.day] = term
