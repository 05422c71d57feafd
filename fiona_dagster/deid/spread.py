"""Terms whose letters or digits do not stand together.

Belongs here: what a term and a hit are, and finding terms that are spread. Stays out: making terms, and
finding them as they are (``terms``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

_GROUPED = re.compile(r"(?<!\d)\d++(?:[ .,\-/_():;|\r\n]{1,3}\d+)+")
_SQUEEZED = re.compile(r"[^\W_]+")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_](?:[\W_]{1,3}[^\W\d_]){3,}(?![^\W_])")
_WORD = re.compile(r"[^\W\d_]+")
_BREAK = re.compile(r"-?[ \t]*\r?\n[ \t]*")
_APART = re.compile(r"[ \t\-_.,^/\\]{1,2}")
SHORTEST_APART = 5
"""Letters of a name that is found in two words of one line."""
_LETTERS = re.compile(r"[^\W\d_]+")
LONG = 6
"""Letters of a name that is found inside of longer words."""
_HONORIFICS = "先生|女士|小姐|太太|夫人|さん|さま|様|氏|殿|君|くん|씨|님|医生|醫生|医师|医師|大夫|教授"
"""What stands behind a name, folded; then the name needs no blank before it."""
SHORTEST_SPACED = 4
"""Letters of a name that is found letter by letter."""


@dataclass(frozen=True, slots=True)
class Term:
    """One thing to look for.

    Attributes:
        kind: name, id, birth_date, date, institution, address, phone, device, issuer.
        strong: blocks when found.
    """

    kind: str
    strong: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """A term that was found: where, and what."""

    start: int
    end: int
    term: Term


def joined(text: str) -> str:
    """Letters and digits without the signs between them."""
    return "".join(_SQUEEZED.findall(text))


def grouped(text: str, numbers: Mapping[str, Term]) -> Iterator[Hit]:
    """Numbers whose digits stand in groups.

    Args:
        text: folded.
        numbers: digits without leading zeros.
    """
    if not numbers:
        return
    longest = max(map(len, numbers)) + 8  # leading zeros
    for chain in _GROUPED.finditer(text):
        groups = list(re.finditer(r"\d+", chain[0]))
        for first in range(len(groups)):
            digits = ""
            for group in groups[first : first + 12]:
                digits += group[0]
                if len(digits) > longest:
                    break
                term = numbers.get(digits.lstrip("0"))
                if term and term.strong and digits != group[0]:
                    yield Hit(chain.start() + groups[first].start(), chain.start() + group.end(), term)


def squeezed(text: str, compact: Mapping[str, Term]) -> Iterator[Hit]:
    """Ids of letters and digits with other signs between them, or inside longer words.

    Args:
        text: folded.
        compact: letters and digits of ids.
    """
    if not compact:
        return
    together = joined(text)
    for word, term in compact.items():
        if word not in together:
            continue
        pattern = r"[\W_]{0,3}".join(map(re.escape, word))
        before = r"(?<!\d)" if word[0].isdigit() else ""
        after = r"(?!\d)" if word[-1].isdigit() else ""
        for match in re.finditer(before + pattern + after, text):
            yield Hit(match.start(), match.end(), term)


def spaced(text: str, *names: Mapping[str, Term]) -> Iterator[Hit]:
    """Names whose letters stand one by one, as in a heading.

    Args:
        text: folded.
        names: letters of names; words of other kinds are passed over.
    """
    for match in _SPACED.finditer(text):
        letters = "".join(_LETTERS.findall(match[0]))
        for table in names:
            for name, term in table.items():
                if term.strong and term.kind == "name" and len(name) >= SHORTEST_SPACED and name in letters:
                    yield Hit(match.start(), match.end(), term)


def broken(text: str, names: Mapping[str, Term]) -> Iterator[Hit]:
    """Names that stand in two parts: over the end of a line, with a hyphen or without, or beside another.

    Args:
        text: folded.
        names: letters of strong names.
    """
    if not names:
        return
    words = list(_WORD.finditer(text))
    for one, two in pairwise(words):
        between = text[one.end() : two.start()]
        together = one[0] + two[0]
        if _BREAK.fullmatch(between):
            term = names.get(together) or _over(one[0], two[0], names)
        elif len(together) >= SHORTEST_APART and _APART.fullmatch(between):
            term = names.get(together)
        else:
            continue
        if term:
            yield Hit(one.start(), two.end(), term)


def _over(one: str, two: str, names: Mapping[str, Term]) -> Term | None:
    """The term of a long name that begins in one word and ends in the other."""
    together = one + two
    for start in range(max(len(one) - 30, 0), len(one)):
        for end in range(max(len(one) + 1, start + LONG), min(len(together), len(one) + 30) + 1):
            term = names.get(together[start:end])
            if term:
                return term
    return None


def alone(text: str, names: Mapping[str, Term]) -> Iterator[Hit]:
    """Names of one letter, as Chinese and Korean family names are, that stand by themselves or are addressed.

    Args:
        text: folded.
        names: single letters of such scripts.
    """
    if not names or names.keys().isdisjoint(text):
        return
    letters = f"[{''.join(map(re.escape, names))}]"
    pattern = rf"(?<![^\W\d_]){letters}(?![^\W\d_])|{letters}(?= ?(?:{_HONORIFICS}))"
    for match in re.finditer(pattern, text):
        yield Hit(match.start(), match.end(), names[match[0]])
