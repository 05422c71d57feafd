"""How much a word tells: whether it blocks when it is found, or only warns."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.deid.folding import IDEOGRAPHS, fold

_WORD = re.compile(r"[^\W\d_]+")
GLUED = 6
"""Names of so many letters are found inside longer words, numbers of so many digits in any grouping."""


@lru_cache(maxsize=1)
def common_words() -> frozenset[str]:
    """Words that warn instead of blocking."""
    content = (files(__package__) / "data" / "common_words.txt").read_text("utf-8")
    lines = (line for line in content.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


@lru_cache(maxsize=1)
def _of_institutions() -> re.Pattern[str]:
    content = (files(__package__) / "data" / "institution_words.txt").read_text("utf-8")
    lines = (line for line in content.splitlines() if not line.startswith("#"))
    return re.compile("|".join(word for line in lines for word in line.split()))


def is_of_institutions(word: str) -> bool:
    """Whether a folded word stands in the names of many institutions, and tells none of them."""
    return word in common_words() or bool(_of_institutions().search(word))


@lru_cache(maxsize=1)
def _of_addresses() -> frozenset[str]:
    content = (files(__package__) / "data" / "address_words.txt").read_text("utf-8")
    lines = (line for line in content.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


def is_of_addresses(word: str) -> bool:
    """Whether a folded word stands in many addresses, or in text of the field, and tells no place."""
    return word in _of_addresses() or is_of_institutions(word)


def is_strong(value: str, kind: str, minimum: int) -> bool:
    """Whether a value tells enough to block: long enough, and no word that stands in harmless text."""
    text = fold(value)
    words = _WORD.findall(text)
    if not any(letter >= IDEOGRAPHS for letter in text) and len(text) < minimum:
        return False
    if kind == "name" and any(letter > "\x7f" and not letter.isalpha() for letter in text):
        return len(text) >= minimum  # read in a character set that it was not written in: nothing can be told
    if text.isdigit():
        bare = text.lstrip("0")
        return len(set(bare)) > 1 and len(bare) >= (GLUED if kind != "name" else 8)
    if kind == "department":
        return False
    if any(letter.isdigit() for letter in text) and kind in ("id", "device", "phone", "address"):
        return True
    telling = (w for w in words if len(w) > (1 if w[0] >= IDEOGRAPHS else 2) and w not in common_words())
    return any(telling) or not words
