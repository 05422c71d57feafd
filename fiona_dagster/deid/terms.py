"""What identified the person of a study, as search terms: taken from the originals, searched in the copies.

Design section 8: terms have a kind, a minimum length and word boundaries; weak ones (initials, common words) only warn.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, private_dictionary_VR  # noqa: F401
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

WALK_DEPTH = 80
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_SPLIT_NAME = re.compile(rb"[\^=\\ ,;/]+|\x1b\([A-Z]|\x1b\$\)?[A-Z]|\x1b-[A-Z]")
_WORD = re.compile(r"[^\W\d_]+")
BINARY = frozenset("OB OD OF OL OV OW UN FL FD SL SS SV UL US UV AT".split())
DUMMIES = frozenset((b"19000101", b"REMOVED", b"000000", b"ANONYMIZED", b"ANONYMOUS"))


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
    """All search terms of one study. ``uids`` are compared as whole numbers, ``words`` as bytes."""

    words: dict[bytes, Term] = field(default_factory=dict, repr=False)
    uids: set[bytes] = field(default_factory=set, repr=False)
    exempt: frozenset[bytes] = field(default=frozenset(), repr=False)

    def add(self, value: bytes, kind: str, strong: bool) -> None:
        """Adds a term; a strong one wins over a weak one of the same letters."""
        value = value.strip(b" \0\r\n\t").lower()
        if not value or value in self.exempt or value.upper() in DUMMIES:
            return
        there = self.words.get(value)
        if there is None or (strong and not there.strong):
            self.words[value] = Term(kind, strong)

    def pattern(self) -> re.Pattern[bytes] | None:
        """One expression for all words, longest first, with word boundaries."""
        if not self.words:
            return None
        ordered = sorted(self.words, key=lambda word: (-len(word), word))
        body = b"|".join(re.escape(word) for word in ordered)
        return re.compile(rb"(?<![0-9A-Za-z])(?:" + body + rb")(?![0-9A-Za-z])", re.IGNORECASE)

    def learn(self, data_set: Dataset, dates: bool) -> None:
        """Takes the terms from one original.

        Args:
            data_set: read by pydicom.
            dates: dates and times were removed (not shifted), so they are searched everywhere.
        """
        charset = "latin-1"
        for found in walk(data_set):
            value, vr = found.value, found.vr
            if not value:
                continue
            if found.tag == 0x00080005:
                charset = python_encoding.get(value.split(b"\\")[0].decode("ascii", "replace").strip(), charset)
            if vr == "PN":
                self._name(value, charset)
            kind, minimum = _identifying().get(found.tag, ("", 0))
            if kind == "birth_date":
                self._date(value[:8], "birth_date", charset)
            elif kind:
                for part in value.split(b"\\"):
                    self._text(part.strip(b" \0"), kind, minimum, charset)
            elif vr in ("DA", "DT") and not found.tag >> 16 & 1:
                self._date(value[:8], "date", charset)

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
        return any(len(word) > 2 and word not in common_words() for word in words) or not words

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

    def _date(self, value: bytes, kind: str, charset: str) -> None:
        digits = value.replace(b".", b"").decode("ascii", "replace")
        try:
            day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            return
        y, m, d = f"{day.year:04d}", f"{day.month:02d}", f"{day.day:02d}"
        month = _MONTHS[day.month - 1]
        forms = [f"{y}{m}{d}", f"{y}-{m}-{d}", f"{y}.{m}.{d}", f"{y}/{m}/{d}"]
        for s in ".-/":
            forms += [f"{d}{s}{m}{s}{y}", f"{m}{s}{d}{s}{y}"]
        forms += [f"{d}{m}{y}", f"{d}-{month}-{y}", f"{d} {month} {y}", f"{month} {d}, {y}", f"{month} {day.day}, {y}"]
        forms += [f"{day.day}/{day.month}/{y}", f"{day.month}/{day.day}/{y}", f"{day.day}.{day.month}.{y}"]
        for form in forms:
            self.add(form.encode(), kind, True)


@dataclass(frozen=True)
class Found:
    """One element as pydicom reads it.

    Attributes:
        path: sequences above it.
        tag: group and element.
        vr: as written, or of the dictionary.
        value: raw bytes ("" of a sequence).
        where: offset of the value in the file, -1 when not known.
        items: number of items of a sequence, else -1.
    """

    path: tuple[int, ...]
    tag: int
    vr: str
    value: bytes
    where: int
    items: int = -1


def walk(data_set: Dataset, path: tuple[int, ...] = ()) -> Iterator[Found]:
    """Every element at every depth; sequences before their content. Nothing is decoded but sequences."""
    for key in sorted(data_set.keys()):
        tag = int(key)
        item = data_set.get_item(key)
        raw = item if isinstance(item, RawDataElement) else None
        vr = (raw.VR if raw else str(item.VR)) or _vr(tag)
        if vr == "SQ" or (vr == "UN" and _vr(tag) == "SQ") or (raw is None and isinstance(item.value, list)):
            children = _children(data_set, key) if len(path) < WALK_DEPTH else None
            if children is not None:
                yield Found(path, tag, "SQ", b"", -1, len(children))
                for child in children:
                    yield from walk(child, (*path, tag))
                continue
        value = raw.value if raw else item.value
        where = raw.value_tell if raw else -1
        yield Found(path, tag, vr, value if isinstance(value, bytes) else str(value or "").encode(), where)


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _children(data_set: Dataset, key: object) -> list[Dataset] | None:
    try:
        value = data_set[key].value  # type: ignore[index]
    except (RecursionError, ValueError, OSError, NotImplementedError, EOFError, AttributeError, KeyError):
        return None  # what pydicom can't read as a sequence is searched as bytes
    return list(value) if not isinstance(value, bytes | str) and value is not None else None
