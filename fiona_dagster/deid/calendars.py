"""Dates in text in further languages, other calendars, and in forms that look like something else.

Belongs here: what is looked at for a person's own dates besides ``dates``. Stays out: which of them matter
(``terms``).
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files

from fiona_dagster.deid.dates import Found
from fiona_dagster.deid.folding import IDEOGRAPHS


def _months() -> dict[str, tuple[int, ...]]:
    """Months by the first letters of their names, folded; some languages use one name for another month."""
    content = (files(__package__) / "data" / "months.csv").read_text("utf-8")
    return {
        name: tuple(map(int, row["months"].split()))
        for row in csv.DictReader(content.splitlines())
        for name in row["names"].split()
    }


_FOREIGN = _months()
"""Spanish, Italian, Portuguese, Dutch, Danish, Romanian, Polish, Czech, Croatian, Turkish, Finnish,
Hungarian, Russian and Ukrainian; only with a year of four digits."""
_ABROAD = re.compile(
    r"(?<!\d)(\d{1,2})[ .\-/,]*(?:de |di )?(?=[^\W\d_]{3})"
    rf"({'|'.join(sorted(_FOREIGN, key=len, reverse=True))})[^\W\d_]*"
    r"[ .\-/,']*(?:de |di |del )?(\d{4})(?!\d)"
)
_ROMANS = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_ROMAN = re.compile(r"(?<!\d)(\d{1,2})([./\- ]) ?([ivx]{1,4})\2 ?(\d{4}|\d{2})(?!\d)")
_ROMAN_LAST = re.compile(r"(?<!\d)(\d{4})([./\- ]) ?([ivx]{1,4})\2 ?(\d{1,2})(?!\d)")


@lru_cache(maxsize=1)
def _of_birth() -> re.Pattern[str]:
    """What stands before a year of birth, and the year."""
    content = (files(__package__) / "data" / "birth_words.txt").read_text("utf-8")
    words = "|".join(w for line in content.splitlines() if not line.startswith("#") for w in line.split())
    return re.compile(
        rf"(?<![^\W\d_])(?:{words})[^\W\d_]*(?:[\W_]|in|year|i|im|en|el){{0,12}}?((?:18|19|20)\d\d)(?!\d)"
    )


_ERAS = {
    **dict.fromkeys(("明治", "m"), 1867),
    **dict.fromkeys(("大正", "t"), 1911),
    **dict.fromkeys(("昭和", "s"), 1925),
    **dict.fromkeys(("平成", "h"), 1988),
    **dict.fromkeys(("令和", "r"), 2018),
    **dict.fromkeys(("民國", "民国"), 1911),
}
"""Japanese eras and that of the Republic of China: the year before the first."""
_OF_ERA = re.compile(
    rf"({'|'.join(era for era in _ERAS if era > IDEOGRAPHS)})"
    r" ?(\d{1,3}|元) ?年 ?(\d{1,2}) ?月 ?(\d{1,2}) ?日"
)
_OF_ERA_SHORT = re.compile(r"(?<![^\W_])([mtshr]) ?(\d{1,2})([./\-])(\d{1,2})\3(\d{1,2})(?!\d)")
_ORDINAL = re.compile(r"(?<![\d.\-])(\d{4})-(\d{3})(?![\d\-]|\.\d)")


def abroad(text: str) -> Iterator[Found]:
    """Days with the month in letters of further languages or in Roman numerals, and of other eras."""
    for match in _ABROAD.finditer(text):
        for month in _FOREIGN[match[2]]:
            yield match.start(), match.end(), (int(match[3]), month, int(match[1]))
    for match in _ROMAN.finditer(text):
        if match[3] in _ROMANS and (match[2] != " " or len(match[3]) > 1):  # 3 x 20 is none
            yield match.start(), match.end(), (int(match[4]), _ROMANS.index(match[3]), int(match[1]))
    for match in _ROMAN_LAST.finditer(text):
        if match[3] in _ROMANS:
            yield match.start(), match.end(), (int(match[1]), _ROMANS.index(match[3]), int(match[4]))
    for match in _OF_ERA.finditer(text):
        year = _ERAS[match[1]] + int(match[2].replace("元", "1"))
        yield match.start(), match.end(), (year, int(match[3]), int(match[4]))


def coded(text: str) -> Iterator[Found]:
    """Days that look like something else: the letter of a Japanese era, or a year and the number of a day."""
    for match in _OF_ERA_SHORT.finditer(text):
        year = _ERAS[match[1]] + int(match[2])
        yield match.start(), match.end(), (year, int(match[4]), int(match[5]))
    for match in _ORDINAL.finditer(text):
        year, number = int(match[1]), int(match[2])
        if 1 <= number <= 366 and 1850 <= year < 2100:
            of_year = datetime.date(year, 1, 1) + datetime.timedelta(number - 1)
            yield match.start(), match.end(), (of_year.year, of_year.month, of_year.day)


def born(text: str) -> Iterator[tuple[int, int, int]]:
    """Years that a text calls those of a birth: where they begin and end, and the year."""
    for match in _of_birth().finditer(text):
        yield *match.span(1), int(match[1])
