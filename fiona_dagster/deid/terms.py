"""What identified the person of a study, as search terms: taken from originals, searched in copies.

Design section 8: terms have a kind, a minimum length and word boundaries; weak ones (initials, common words)
only warn. Belongs here: making and finding terms in bytes. Stays out: reading files.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from pydicom.charset import python_encoding

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_SPLIT_NAME = re.compile(rb"[\^=\\ ,;/]+|\x1b\([A-Z]|\x1b\$\)?[A-Z]|\x1b-[A-Z]")
_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(rb"[0-9a-z]+")
BINARY = frozenset(
    ["OB", "OD", "OF", "OL", "OV", "OW", "UN", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV", "AT"]
)
_IDEOGRAPHS = "\u2e80"
"""From here on, two letters make a word."""
NUMBERS = frozenset(["DS", "IS", "TM", "AS"])
STRUCTURAL = frozenset((0x00080005, 0x00080060, 0x00080064, 0x00280004, 0x0040A010, 0x0040A040, 0x0040A050))
"""Attributes whose few values the standard itself lists: a name can't hide there."""
_DUMMIES = frozenset((b"19000101", b"removed", b"000000", b"anonymized", b"anonymous"))


@lru_cache(maxsize=1)
def _identifying() -> dict[int, tuple[str, int]]:
    content = (files(__package__) / "data" / "identifying.csv").read_text("utf-8")
    return {int(r["tag"], 16): (r["kind"], int(r["minimum"])) for r in csv.DictReader(content.splitlines())}


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """Words that warn instead of blocking."""
    content = (files(__package__) / "data" / "common_words.txt").read_text("utf-8")
    lines = (line for line in content.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


@dataclass(frozen=True)
class Term:
    """One thing to look for.

    Attributes:
        kind: name, id, birth_date, date, institution, address, phone, device, issuer, uid.
        strong: blocks when found.
    """

    kind: str
    strong: bool


@dataclass
class Terms:
    """Search terms of one study.

    Attributes:
        words: lower-case bytes -> term.
        exempt: what the request assigns, lower-case: never a term.
    """

    words: dict[bytes, Term] = field(default_factory=dict, repr=False)
    exempt: frozenset[bytes] = field(default=frozenset(), repr=False)
    _index: dict[bytes, list[bytes]] | None = field(default=None, repr=False)
    _loose: list[bytes] = field(default_factory=list, repr=False)

    def add(self, value: bytes, kind: str, strong: bool) -> None:
        """Adds a term; a strong one wins over a weak one of the same letters."""
        value = value.strip(b" \0\r\n\t").lower()
        if not value or value in self.exempt or value in _DUMMIES:
            return
        there = self.words.get(value)
        if there is None or (strong and not there.strong):
            self.words[value] = Term(kind, strong)
            self._index = None

    def _indexed(self) -> dict[bytes, list[bytes]]:
        """Terms by their first run of letters and digits; others are searched anywhere."""
        if self._index is None:
            index: dict[bytes, list[bytes]] = {}
            self._loose = []
            for word in sorted(self.words, key=lambda word: (-len(word), word)):
                first = _TOKEN.match(word)
                if word.isascii() and first:
                    index.setdefault(first[0], []).append(word)
                else:
                    self._loose.append(word)
            self._index = index
        return self._index

    def hits(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Where terms stand in ``data`` as whole words: start, end, term. Letter case does not matter."""
        index, low = self._indexed(), data.lower()
        found: list[tuple[int, int, bytes]] = []
        get, size = index.get, len(low)
        for token in _TOKEN.finditer(low):
            candidates = get(token[0])
            if candidates is None:
                continue
            start = token.start()
            for word in candidates:
                end = start + len(word)
                if low.startswith(word, start) and (end == size or not _TOKEN.match(low, end)):
                    found.append((start, end, word))
                    break
        for word in self._loose:
            start = low.find(word)
            while start >= 0:
                found.append((start, start + len(word), word))
                start = low.find(word, start + len(word))
        return found

    def learn(self, elements: Iterable[tuple[int, str, bytes]]) -> None:
        """Takes the terms from one original.

        Args:
            elements: tag, VR and raw value of every element at every depth, in order.
        """
        charset = "latin-1"
        identifying = _identifying()
        for tag, vr, value in elements:
            if not value:
                continue
            kind, minimum = identifying.get(tag, ("", 0))
            if tag == 0x00080005:
                first = value.split(b"\\")[0].decode("ascii", "replace").strip()
                charset = python_encoding.get(first, charset)
            elif vr == "PN":
                self._name(value, charset)
            elif kind == "birth_date":
                self._date(value, "birth_date")
            elif kind == "name":
                self._name(value, charset)
            elif kind:
                for part in value.split(b"\\"):
                    self._text(part.strip(b" \0"), kind, minimum, charset)
            elif vr in ("DA", "DT") and not tag >> 16 & 1:
                self._date(value, "date")

    def _name(self, value: bytes, charset: str) -> None:
        whole = value.strip(b" \0")
        parts = [part.strip(b" .-\0") for part in _SPLIT_NAME.split(value)]
        for part in parts:
            self._encoded(part, "name", self._is_strong(part, "name", 4, charset), charset)
        long = [part for part in parts if len(part) > 1]
        if len(long) > 1 and any(self._is_strong(p, "name", 3, charset) for p in long):
            for form in (whole, b" ".join(long), b" ".join([*long[1:], long[0]]), long[0] + b", " + long[1]):
                self._encoded(form, "name", len(form) >= 6, charset)

    def _text(self, value: bytes, kind: str, minimum: int, charset: str) -> None:
        if len(value) < 3:
            return
        self._encoded(value, kind, self._is_strong(value, kind, minimum, charset), charset)
        digits = re.sub(rb"[^0-9]", b"", value)
        if kind == "phone" and len(digits) >= 7:
            self.add(digits, kind, True)

    @staticmethod
    def _is_strong(value: bytes, kind: str, minimum: int, charset: str) -> bool:
        if len(value) < minimum:
            return False
        try:
            text = value.decode(charset, "replace").lower()
        except LookupError:
            text = value.decode("latin-1").lower()
        if text.isdigit():
            return len(set(text)) > 1 and len(text) >= (6 if kind != "name" else 8)
        if kind == "department":
            return False
        words = _WORD.findall(text)
        if any(ch.isdigit() for ch in text) and kind in ("id", "device", "phone", "address"):
            return True
        telling = (w for w in words if len(w) > (1 if w[0] >= _IDEOGRAPHS else 2) and w not in common_words())
        return any(telling) or not words

    def _encoded(self, value: bytes, kind: str, strong: bool, charset: str) -> None:
        """The value in its own bytes; of what is not ASCII also the usual other notations."""
        if len(value) < 2:
            return
        self.add(value, kind, strong)
        if value.isascii():
            return
        try:
            text = value.decode(charset)
        except (UnicodeDecodeError, LookupError):
            return  # its own bytes are searched; other notations of unknown letters can't be made
        for form in {text, text.lower(), text.upper()}:
            for encoding in ("utf-8", "latin-1", charset):
                self.add(form.encode(encoding, "ignore"), kind, strong and len(form) > 1)

    def _date(self, value: bytes, kind: str) -> None:
        digits = value.strip(b" \0").replace(b".", b"")[:8].decode("ascii", "replace")
        try:
            day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            return
        y, m, d = f"{day.year:04d}", f"{day.month:02d}", f"{day.day:02d}"
        month = _MONTHS[day.month - 1]
        forms = [f"{y}{m}{d}", f"{y}-{m}-{d}", f"{y}.{m}.{d}", f"{y}/{m}/{d}"]
        for s in ".-/":
            forms += [f"{d}{s}{m}{s}{y}", f"{m}{s}{d}{s}{y}"]
        forms += [
            f"{d}{m}{y}",
            f"{d}-{month}-{y}",
            f"{d} {month} {y}",
            f"{month} {d}, {y}",
            f"{month} {day.day}, {y}",
        ]
        forms += [f"{day.day}/{day.month}/{y}", f"{day.month}/{day.day}/{y}", f"{day.day}.{day.month}.{y}"]
        for form in forms:
            self.add(form.encode(), kind, True)
