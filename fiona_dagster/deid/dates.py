"""Dates in text, in every notation that people and programs use.

Belongs here: which days a text may name. Stays out: further languages, other calendars
(``calendars``), and which of them matter (``terms``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Day = tuple[int, int, int]
"""Year, month, day; a year below 100 has lost its century."""

_MONTHS = {
    name: number
    for number, names in enumerate(
        ["jan", "feb fev", "mar mae", "apr avr", "may mai", "jun jui", "jul", "aug aou", "sep", "oct okt"], 1
    )
    for name in names.split()
} | {"nov": 11, "dec": 12, "dez": 12, "des": 12}
"""Months by their first three letters; ``jui`` is taken for June and, see ``named``, for July."""
_NAMES = "|".join(_MONTHS)
_COMPACT = re.compile(r"(?<!\d)\d{8}(?=(?:\d\d){0,3}(?!\d))")
_SEPARATED = re.compile(r"(?=(\d{1,4})([./\-_ \\])(\d{1,2})\2(\d{1,4})(?!\d))")
_DAY, _YEAR = r"(\d{1,2})(?:st|nd|rd|th)?", r"(\d{4}|\d{2})(?!\d)"
_DAY_FIRST = re.compile(rf"(?<!\d){_DAY}[ .\-/,]*(?:of |de |den )?({_NAMES})[a-z]*[ .\-/,']*(?:de )?{_YEAR}")
_MONTH_FIRST = re.compile(rf"\b({_NAMES})[a-z]*[ .\-/]*(?:{_DAY}[ ,.\-/']+|(\d\d)(?=\d{{4}}(?!\d))){_YEAR}")
_YEAR_FIRST = re.compile(rf"(?<!\d)(\d{{4}})[ .\-/,]*({_NAMES})[a-z]*[ .\-/,]*(\d{{1,2}})(?!\d)")
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?"
_WITH_CLOCK = re.compile(rf"\b({_NAMES})[a-z]* +(\d{{1,2}})[ ,]+{_CLOCK} +(?:[a-z]{{2,4}} +)?(\d{{4}})(?!\d)")
_IDEOGRAPHIC = re.compile(
    r"(?<!\d)(\d{2,4}) ?[\u5e74\ub144] ?(\d{1,2}) ?[\u6708\uc6d4] ?(\d{1,2}) ?[\u65e5\uc77c]"
)
_LOOSE = re.compile(r"(?<!\d)(\d{1,4})(?: ([./\-]) ?| ?([./\-]) )(\d{1,2}) ?(?:\2|\3) ?(\d{2,4})(?!\d)")
_SIGN = r"([./\-,;:|~'\\ \r\n]{1,3})"
_MIXED = re.compile(rf"(?=(?<!\d)(\d{{1,4}}){_SIGN}(\d{{1,2}}){_SIGN}(\d{{1,4}})(?!\d))")
_SIX = re.compile(r"(?<![\d.])\d{6}(?![\d.]|\.\d)")
_APART = re.compile(r"(?<![\d.])(?<!\d )(\d\d) (\d\d) (\d\d)(?! ?\d|\.\d)")
_ELEVEN = re.compile(r"(?<!\d)(\d{6})\d{5}(?!\d)")

Found = tuple[int, int, Day]


def compact(text: str) -> Iterator[Found]:
    """Days of eight digits, alone or before a time of day."""
    for match in _COMPACT.finditer(text):
        digits, start = match[0], match.start()
        yield start, match.end(), (int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        yield start, match.end(), (int(digits[4:]), int(digits[2:4]), int(digits[:2]))
        yield start, match.end(), (int(digits[4:]), int(digits[:2]), int(digits[2:4]))


def separated(text: str) -> Iterator[Found]:
    """Days of three numbers with the same sign between them."""
    for match in _SEPARATED.finditer(text):
        start, end, sign = match.start(), match.end(4), match[2]
        if start and text[start - 1].isdigit():
            continue
        parts = (match[1], match[3], match[4])
        a, b, c = map(int, parts)
        sizes = tuple(map(len, parts))
        if sizes[0] == 4 and sizes[2] <= 2:
            yield start, end, (a, b, c)
        elif sizes[2] == 4 and sizes[0] <= 2:
            yield start, end, (c, b, a)
            yield start, end, (c, a, b)
        elif sizes[2] == 3 and sizes[0] <= 2 and sign == "/" and c < 200:  # years since 1900, as C counts
            yield start, end, (1900 + c, b, a)
            yield start, end, (1900 + c, a, b)
        elif _short_year(text, start, end, sign, sizes):
            yield start, end, (c, b, a)
            yield start, end, (c, a, b)
            yield start, end, (a, b, c)


def _short_year(text: str, start: int, end: int, sign: str, sizes: tuple[int, ...]) -> bool:
    """Whether three short numbers look like a day rather than a version or an address."""
    if sign not in "./-" or sizes[2] != 2 or sizes[0] > 2 or (sign != "/" and sizes != (2, 2, 2)):
        return False
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    longer = re.fullmatch(r"\d" + re.escape(sign), before) or re.fullmatch(re.escape(sign) + r"\d", after)
    return not longer


def named(text: str) -> Iterator[Found]:
    """Days with the month in letters, English, German, French, Spanish or Norwegian."""
    for match in _DAY_FIRST.finditer(text):
        yield from _of_month(match, match[3], match[2], match[1])
    for match in _MONTH_FIRST.finditer(text):
        yield from _of_month(match, match[4], match[1], match[2] or match[3])
    for match in _WITH_CLOCK.finditer(text):
        yield from _of_month(match, match[3], match[1], match[2])
    for match in _YEAR_FIRST.finditer(text):
        yield from _of_month(match, match[1], match[2], match[3])


def loose(text: str) -> Iterator[Found]:
    """Days of three numbers with blanks beside the signs, or with Chinese, Japanese or Korean signs."""
    for match in _IDEOGRAPHIC.finditer(text):
        yield match.start(), match.end(), (int(match[1]), int(match[2]), int(match[3]))
    for match in _LOOSE.finditer(text):
        a, b, c = int(match[1]), int(match[4]), int(match[5])
        days = [(a, b, c)] if len(match[1]) == 4 else [(c, b, a), (c, a, b)]
        for day in days:
            yield match.start(), match.end(), day


def mixed(text: str) -> Iterator[Found]:
    """Days of three numbers with whatever signs between them: ``14/3-1972``, ``14|03|1972``."""
    for match in _MIXED.finditer(text):
        first, one, second, two, third = match.groups()
        a, b, c, place = int(first), int(second), int(third), (match.start(), match.end(5))
        match len(first), len(third):
            case 4, 1 | 2:
                days = [(a, b, c), (a, c, b)]
            case 1 | 2, 4:
                days = [(c, b, a), (c, a, b)]
            case 1 | 2, 2 if {one, two} in ({"/", "-"}, {"/", "."}, {"/", " "}):
                days = [(c, b, a), (c, a, b)]
            case _:
                continue
        for day in days:
            yield *place, day


def _of_month(match: re.Match[str], year: str, month: str, day: str) -> Iterator[Found]:
    months = (6, 7) if month == "jui" else (_MONTHS[month],)
    for number in months:
        yield match.start(), match.end(), (int(year), number, int(day))


def six_digits(text: str) -> Iterator[Found]:
    """Days of six digits: alone, in pairs, or at the start of a national number of eleven."""
    for match in (*_SIX.finditer(text), *_ELEVEN.finditer(text), *_APART.finditer(text)):
        digits = match[0].replace(" ", "")[:6]
        a, b, c = int(digits[:2]), int(digits[2:4]), int(digits[4:])
        for day in ((a, b, c), (c, b, a), (c, a, b)):
            yield match.start(), match.end(), day
