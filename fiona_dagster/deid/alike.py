"""Names as others spell them: with other letters, in another script, inflected, or damaged.

Belongs here: the spellings of a name. Stays out: which names there are (``learned``), finding them
(``terms``).
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.deid.folding import IDEOGRAPHS, fold

_TWO = re.compile(r"a[ae]|oe|ue|sz")
"""Two letters for one of another alphabet, and for one that lost its mark."""
_ONE = {"aa": "a", "ae": "a", "oe": "o", "ue": "u", "sz": "ss"}
_SOUNDS = (
    (re.compile("ph"), "f"),
    (re.compile("w"), "v"),
    (re.compile("x"), "ks"),
    (re.compile("[yj]"), "i"),
    (re.compile(r"(?<![^aeou])ie"), "e"),
    (re.compile(r"(.)\1+"), r"\1"),  # as in :func:`said`
)
WORD = re.compile("[a-z]+")
"""A word of Latin letters, folded."""
FOREIGN = re.compile("[\u0370-\u03ff\u0400-\u052f]+")
"""A Greek or Cyrillic word, folded."""
_DOUBLE = re.compile(r"(.)\1+")
_MOST = 400
"""Spellings of one name that are made; those of a long one are too many."""
_ENDING = re.compile(
    "[aeiouy\u0430\u0435\u0438\u043e\u0443\u044b\u044d-\u044f\u03b1\u03b5\u03b7\u03b9\u03bf\u03c5\u03c9\u03c3]{1,2}$"
)
"""Vowels of Latin, Cyrillic and Greek letters, and the small sigma."""
_IO = "\u0451"
_STEM = 6
_SEVEN_BITS = str.maketrans(
    {
        **{"æ": "{", "ø": "|", "å": "}", "Æ": "[", "Ø": "\\", "Å": "]"},
        **{"ä": "{", "ö": "|", "ü": "}", "ß": "~", "Ä": "[", "Ö": "\\", "Ü": "]"},
    }
)
"""Norwegian, Danish and German letters in seven bits (ISO 646)."""


def likened(folded: str) -> str:
    """A folded word with one letter in place of the two that some write for it: ``bjorgard``."""
    return _TWO.sub(lambda two: _ONE[two[0]], folded)


def sounding(word: str) -> str:
    """A word of Latin letters as it sounds, about: ``iuri`` for Yuri, Yury, Iurii and Jurij."""
    for letters, sound in _SOUNDS:
        word = letters.sub(sound, word)
    return word


@lru_cache(maxsize=1)
def _letters() -> tuple[re.Pattern[str], dict[str, tuple[str, ...]]]:
    content = (files(__package__) / "data" / "transliteration.csv").read_text("utf-8")
    table = {
        row["letters"]: tuple(row["sounds"].split()) or ("",) for row in csv.DictReader(content.splitlines())
    }
    return re.compile("|".join(sorted(table, key=len, reverse=True))), table


@lru_cache(maxsize=1024)
def in_latin(word: str) -> frozenset[str]:
    """How a Greek or Cyrillic word sounds in the usual transliterations; nothing of other words.

    Each of them is consistent in itself, and in passports they are mixed: all combinations are made as far as
    there are not too many.
    """
    pattern, table = _letters()
    parts = pattern.findall(word)
    if not parts or sum(map(len, parts)) != len(word):
        return frozenset()
    made = [""]
    for part in parts:
        forms = table[part]
        if len(made) * len(forms) > _MOST:
            forms = forms[:1]
        made = [before + form for before in made for form in forms]
    return frozenset(map(sounding, made))


def said(word: str, names: Iterable[str]) -> str:
    """Which of some names a Greek or Cyrillic word is, in any transliteration; "" if none.

    Args:
        word: folded.
        names: as :func:`sounding` has them.
    """
    pattern, table = _letters()
    word = _DOUBLE.sub(r"\1", word)
    parts = pattern.findall(word)
    if sum(map(len, parts)) != len(word):
        return ""
    for name in names:
        at = {0}
        for part in parts:
            at = {place + len(form) for place in at for form in table[part] if name.startswith(form, place)}
            if not at:
                break
        if len(name) in at:
            return name
    return ""


def foreign_forms(text: str) -> frozenset[str]:
    """How a name with Greek or Cyrillic letters sounds, whatever it is in the end."""
    lower = unicodedata.normalize("NFC", text).lower()
    return in_latin(fold(text)) | in_latin("".join(c if c == _IO else fold(c) for c in lower))


def stem(folded: str) -> str:
    """What is left of a long name when it is inflected (Ivanov-a, -oy; Kowalsk-i, -iego); "" of others."""
    found = _ENDING.search(folded)
    return folded[: found.start()] if found and found.start() >= _STEM else ""


def genitive(folded: str) -> str:
    """A name with the ending of the Germanic languages; "" if it has it."""
    return "" if folded.endswith("s") or not folded.isascii() else folded + "s"


def damaged(text: str) -> Iterator[str]:
    """A name as it stands where its letters beyond ASCII were lost, folded: ``m?ller``, ``m|ller``.

    Args:
        text: of Latin letters; nothing is made of others.
    """
    composed = unicodedata.normalize("NFC", text)
    if composed.isascii() or composed >= IDEOGRAPHS or FOREIGN.search(composed.lower()):
        return
    if sum(letter.isascii() for letter in composed) < 2:
        return
    for sign in ("?", "_", "\ufffd", "??", "\ufffd\ufffd", ""):
        yield "".join(letter if letter.isascii() else sign for letter in composed).lower()
    for case in (composed.lower(), composed.upper()):
        seven = case.translate(_SEVEN_BITS)
        if seven.isascii():
            yield seven.lower()
