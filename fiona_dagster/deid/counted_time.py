"""Days that stand as a number: of seconds, ticks or days since some beginning, or the day of a year.

Belongs here: which days a number may mean. Stays out: dates that are written as dates (``dates``,
``calendars``), and which of them matter (``terms``).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from itertools import chain

from fiona_dagster.deid.dates import Day, Found

_NUMBER = re.compile(r"(?<![\d.])(-?\d{5,19})(?:\.\d+)?(?![\d.])")
_OF_YEAR = re.compile(r"(?<![\d.\-])(\d{4})[./](\d{3})(?![\d./\-])")
_UNITS = (10**3, 10**6, 10**9)
"""Of a second: JavaScript, Python and Java, Go."""
_TICKS = 10**7
"""Of a second, since 1601 (FILETIME) or since the year 1 (.NET)."""
_SINCE_1601, _SINCE_1 = 11_644_473_600, 62_135_596_800
_ZONE = 14 * 3600
"""Seconds that a place may be away from Greenwich."""
_OF_ZONES = 1800
"""Midnight anywhere is so many seconds, or a multiple of them, from midnight in Greenwich."""
_EPOCH = datetime.date(1970, 1, 1)
_LEAST, _NOW, _END = 10**7, 10**9, 4_102_444_800
"""Smaller numbers of seconds are found by chance; those of this century; those of the next one."""
_BEFORE = 2_400_000
"""Julian days of our time are greater, and less than 100,000 more."""
_ORDINAL = 1_721_425
"""Julian day of noon of the day before the first."""
_EXCEL = datetime.date(1899, 12, 30)


def of_number(number: int) -> Iterator[Day]:
    """Days that a whole number means if it is a time: seconds or parts of them, a Julian day, ``YYYYDDD``.

    A number of seconds before 2001 has to be midnight somewhere, since too many numbers are so small.
    """
    size = abs(number)
    if size < _LEAST:
        if _BEFORE < number < _BEFORE + 100_000:
            for noon in (number, number + 1):  # some cut the half day off
                yield _parts(datetime.date.fromordinal(noon - _ORDINAL))
        if 1850_001 <= number < 2100_000 and 1 <= number % 1000 <= 366:
            yield _parts(datetime.date(number // 1000, 1, 1) + datetime.timedelta(number % 1000 - 1))
        return
    if size < _END:
        yield from _of_seconds(number)
    for unit in _UNITS:
        if _LEAST * unit <= size < _END * unit:
            yield from _of_seconds(number // unit, number % unit == 0)
    for since in (_SINCE_1601, _SINCE_1):
        if -_END < number // _TICKS - since < _END and number >= _TICKS * _SINCE_1601:
            yield from _of_seconds(number // _TICKS - since, number % _TICKS == 0)


def _of_seconds(seconds: int, whole: bool = True) -> Iterator[Day]:
    if seconds >= _NOW:
        days = {(seconds + zone) // 86400 for zone in (-_ZONE, 0, _ZONE)}
    elif whole and seconds % _OF_ZONES == 0:
        days = {(seconds + zone) // 86400 for zone in (-12 * 3600, 0, 12 * 3600)}
        days = {day for day in days if abs(day * 86400 - seconds) <= _ZONE}
    else:
        return
    for day in sorted(days):
        yield _parts(_EPOCH + datetime.timedelta(day))


def of_sheet(number: int) -> Day | None:
    """The day that a number of five digits means in a sheet (Excel, LibreOffice)."""
    return _parts(_EXCEL + datetime.timedelta(number)) if 10_000 <= number < 100_000 else None


def written(text: str) -> Iterator[tuple[Found, bool]]:
    """Days that numbers in a text mean, and whether a sheet counts so: many numbers have five digits.

    Args:
        text: folded.
    """
    for match in _NUMBER.finditer(text):
        number, place = int(match[1]), match.span()
        sheet = of_sheet(abs(number))
        if sheet:
            yield (*place, sheet), True
        for day in chain.from_iterable(map(of_number, {number, abs(number)})):  # or a hyphen stands before
            yield (*place, day), False
    for match in _OF_YEAR.finditer(text):
        for day in of_number(int(match[1] + match[2])):
            yield (*match.span(), day), False


def _parts(day: datetime.date) -> Day:
    return day.year, day.month, day.day
