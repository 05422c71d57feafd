"""Words of institutions and addresses that tell them: nobody else has them in his.

Belongs here: which words of a value tell it. Stays out: making terms of them (``learned``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from fiona_dagster.deid.folding import fold
from fiona_dagster.deid.words import is_of_addresses, is_of_institutions

_WORD = re.compile(r"(?<![^\W_])[^\W\d_]+(?![^\W_])")
_ABBREVIATION = re.compile(r"(?<![^\W_])[^\W\d_a-z]{3}(?![^\W_])")
_SHORTEST = 4
"""Letters of a word of an institution; capitals among small letters may be three."""
_STREET = 6
"""Letters of a word of an address: of a street or town."""
_ENDINGS = (
    (re.compile(r"(?<=...)gat(?:a|e|en)$"), ("gt", "gata", "gate", "gaten")),
    (re.compile(r"(?<=...)ve(?:i|g)(?:en)?$"), ("v", "vn", "vei", "veg", "veien", "vegen")),
    (re.compile(r"(?<=...)stra(?:ss|s|t)e$"), ("str", "strasse")),
)
"""Streets, and how they are abbreviated."""


def of_institution(name: str) -> Iterator[str]:
    """Words of an institution's name, as they stand there."""
    words = _WORD.findall(name)
    short = [] if name.isupper() and len(words) > 1 else _ABBREVIATION.findall(name)
    for word in words:
        if (len(word) >= _SHORTEST or word in short) and not is_of_institutions(fold(word)):
            yield word


def of_address(address: str) -> Iterator[str]:
    """Words of an address, as they stand there, and folded as they are abbreviated."""
    for word in _WORD.findall(address):
        folded = fold(word)
        if len(word) < _STREET or is_of_addresses(folded):
            continue
        yield word
        for ending, others in _ENDINGS:
            if ending.search(folded):
                yield from (ending.sub(other, folded) for other in others)
