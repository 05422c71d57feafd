"""Clean Descriptors: free text stays, without what identifies the person of this study (PS3.15 E.3.5).

What is known of the person (``terms``: names, ids, dates, institution, physicians, telephone numbers) goes in
every notation that the residual search knows; besides, what looks like identity whoever it is about: dates
with a year, e-mail and web addresses, telephone and national numbers, labelled ids, names after a title. The
rest of the text stays, anatomical and DICOM words (``data/common_words.txt``) above all.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

from fiona_dagster.deid import calendars, dates
from fiona_dagster.deid.elements import Element
from fiona_dagster.deid.folding import decode, encode, fold_with_places
from fiona_dagster.deid.leftovers import LONGEST, REPLACEMENT, without
from fiona_dagster.deid.plan import Context, Work
from fiona_dagster.deid.terms import Terms
from fiona_dagster.deid.words import common_words

CLEANABLE = frozenset(["LO", "SH", "ST", "LT", "UT", "UC", "CS", "AE", "UR"])
"""VRs whose values can be cleaned as text."""
_SINGLE = frozenset(["CS", "AE", "UR"])
"""A part of these means nothing: the value is kept or emptied."""

_ADDRESS = re.compile(r"(?<![\w.+\-])[\w.+\-]+@[\w\-]+\.[\w.\-]+|\b(?:https?://|www\.)\S+", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w.])\+\d[\d \-().]{6,}\d"
    r"|\b(?:tele(?:ph|f)on|phone|tel|tlf|mob|fax|pager)[.: ]*\+?\d[\d \-/().]{4,}\d",
    re.IGNORECASE,
)
_NATIONAL = re.compile(r"(?<![\d.])(?:\d{6}[ \-]?\d{5}|\d{3}-\d{2}-\d{4}|\d{6}[\-+]\d{4})(?![\d.]|\.\d)")
_LABELLED = re.compile(
    r"\b(?:mrn|ssn|pid|fnr|pat(?:ient)?[ .\-]*(?:id|nr|no)|acc(?:ession)?(?:[ .\-]*(?:nr|no|number|#))?"
    r"|case[ .\-]*(?:nr|no))\.?[ :#=]+([A-Za-z]{0,4}[\-/]?\d[\w\-/]{2,})",
    re.IGNORECASE,
)
_TITLED = re.compile(
    r"\b(?:(?:Dr|Prof|Mr|Mrs|Ms|Miss|Herr|Frau|Fru|Mme|Dott|Dra|Sr|Sra)\b\.?"
    r"|(?:DR|PROF|MRS?|MS|DOTT|DRA|SRA?)\.|(?:MISS|HERR|FRAU|FRU|MME)\b\.?)"
    r"((?:[ ]+(?:med\.?|von|van|de|der|[A-Z]\.))*"
    r"(?:[ ]+[A-ZÀ-ÞŁŠŽ][^\W\d_]+(?:['\-][^\W\d_]+)*){1,3})"
)
_WORD = re.compile(r"[^\W\d_]+(?:['\-][^\W\d_]+)*")
_ABBREVIATIONS = frozenset(
    (
        *("TE", "TR", "TI", "TSE", "FSE", "GRE", "EPI", "FLAIR", "STIR", "MPRAGE", "DWI", "ADC", "SWI"),
        *("MR", "CT", "PET", "AX", "SAG", "TRA", "MIP", "MPR", "FOV"),
    )
)
"""What may stand behind a name and is none. Other capitals there may be a surname (``Eva KOH``)."""


def cleaned(text: str, terms: Terms, longest: int | None = None, *, keep_dates: bool = False) -> str:
    """The text with ``REMOVED`` in place of what identifies.

    Args:
        text: decoded.
        terms: what identified the person.
        longest: characters that a value may have; then what would be too long is cut out instead.
        keep_dates: dates of others than this person stay.
    """
    folded, places = fold_with_places(text)
    if terms.is_value(folded):
        return REPLACEMENT
    spans = [(places[hit.start], places[hit.end]) for hit in terms.find(folded, True) if hit.term.strong]
    spans += _patterns(text)
    if not keep_dates:
        spans += [(places[start], places[end]) for start, end in _dates(folded)]
    return without(text, spans, longest) if spans else text


def _patterns(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_ADDRESS, _PHONE, _NATIONAL):
        for found in pattern.finditer(text):
            yield found.span()
    for found in _LABELLED.finditer(text):
        yield found.span(1)
    for found in _TITLED.finditer(text):
        yield from _names_in(found[1], found.start(1))


def _names_in(words: str, at: int) -> Iterator[tuple[int, int]]:
    """The names behind a title, up to a word of the field: a common one, or an abbreviation like ``TE``."""
    mixed = False
    for word in _WORD.finditer(words):
        if word[0].lower() in common_words() or (mixed and word[0] in _ABBREVIATIONS):
            break
        mixed = mixed or not (word[0].isupper() or word[0].islower())
        yield at + word.start(), at + word.end()


def _dates(folded: str) -> Iterator[tuple[int, int]]:
    """Days with a year of four digits, or with the month in letters."""
    for reader in (dates.compact, dates.separated, dates.named, calendars.abroad):
        for start, end, (year, month, day) in reader(folded):
            if year < 100 and reader is not dates.named:
                continue
            try:
                datetime.date(year if year >= 100 else 2000 + year, month, day)
            except ValueError:
                continue
            if year < 100 or 1900 <= year < 2100:
                yield start, end


def cleaner(*, keep_dates: bool) -> Work:
    """The work of action ``clean``: the element with its text cleaned, ``None`` if it has no text."""

    def work(element: Element, context: Context) -> Element | None:
        vr = element.vr
        if element.items is not None or vr not in CLEANABLE:
            return None
        value = bytes(element.value)
        text = decode(value, context.charset, vr)
        new = cleaned(text, context.terms, LONGEST.get(vr), keep_dates=keep_dates)
        if new == text:
            return Element(element.tag, vr, value)
        if vr in _SINGLE:
            return Element(element.tag, vr)
        made = encode(new, context.charset)
        return Element(element.tag, vr, made if made is not None else REPLACEMENT.encode())

    return work
