"""Unique identifiers: what is well formed, what names a stored object, how a transfer syntax is encoded."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

UID_PATTERN = re.compile(r"[0-9]+(?:\.[0-9]+)*")
"""PS3.5 section 9.1, without the rule on leading zeros that too many devices break."""

MAX_UID_LENGTH = 64

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known SOP Instance of the push model (PS3.4 section J.3.5)."""
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

_STANDARD_SYNTAX = "1.2.840.10008.1.2."
_IMPLICIT = frozenset({IMPLICIT_LITTLE, "1.2.840.10008.1.20", "1.2.840.113619.5.2"})
# PS3.5 A.5, A.7, A.13: the data set as a whole went through deflate.
_DEFLATED = frozenset({DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})


@lru_cache(maxsize=256)  # every object has its UIDs looked at several times
def is_uid(text: str) -> bool:
    """Whether ``text`` is a UID that may become part of a path.

    Args:
        text: the value without padding.

    Returns:
        True for at most 64 characters of digits in components joined by single points (PS3.5 9.1).
    """
    return len(text) <= MAX_UID_LENGTH and UID_PATTERN.fullmatch(text) is not None


def clean_uid(raw: bytes) -> str:
    """A UID value without its padding; bytes that are no ASCII are replaced, and so fail :func:`is_uid`.

    Args:
        raw: the value as it stands in the element. Trailing blanks are wrong but common, so they go too.
    """
    return raw.rstrip(b"\0 ").decode("ascii", "replace")


@cache
def _not_storage() -> frozenset[str]:
    text = Path(__file__).with_name("not_storage.csv").read_text(encoding="utf-8")
    return frozenset(row["uid"] for row in csv.DictReader(text.splitlines()))


def is_storage_class(uid: str) -> bool:
    """Whether objects of this SOP class are taken.

    All of the standard's storage classes are, and private or unknown ones as well: what is known not to
    be storage (query, print, worklist, ...; PS3.6 annex A) is listed in ``not_storage.csv``.
    """
    return is_uid(uid) and uid not in _not_storage()


@dataclass(frozen=True)
class Encoding:
    """How a data set is written (PS3.5 section 10 and annex A).

    Attributes:
        explicit: elements name their VR; ``None`` when the syntax is unknown and the bytes must tell.
        big_endian: numbers are big endian (retired, still met).
        deflated: the whole data set went through deflate.
    """

    explicit: bool | None
    big_endian: bool = False
    deflated: bool = False


@lru_cache(maxsize=256)
def encoding_of(transfer_syntax: str) -> Encoding:
    """The encoding of a transfer syntax, known or not."""
    if transfer_syntax in _IMPLICIT:
        return Encoding(explicit=False)
    if transfer_syntax == EXPLICIT_BIG:
        return Encoding(explicit=True, big_endian=True)
    if transfer_syntax in _DEFLATED:
        return Encoding(explicit=True, deflated=True)
    if transfer_syntax.startswith(_STANDARD_SYNTAX):
        return Encoding(explicit=True)
    return Encoding(explicit=None)
