"""Whether a value may be imported into a field: categories and text validations."""

from __future__ import annotations

import re
from datetime import datetime

from fiona_dagster.redcap.dictionary import Field

_WRONG_FORMAT = (
    "The value you provided could not be validated because it does not follow the expected format. "
    "Please try again."
)
_NOT_A_CATEGORY = "The value is not a valid category for {}"
_PATTERNS = {
    "integer": re.compile(r"[-+]?\d+"),
    "number": re.compile(r"[-+]?(\d+\.?\d*|\.\d+)"),
    "time": re.compile(r"([01]?\d|2[0-3]):[0-5]\d"),
    "email": re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+"),
}
_TIMES = (
    ("datetime_seconds_", "%Y-%m-%d %H:%M:%S", 19),
    ("datetime_", "%Y-%m-%d %H:%M", 16),
    ("date_", "%Y-%m-%d", 10),
)
_DATE = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})(.*)", re.DOTALL)


def problem(column: str, field: Field, value: str) -> str | None:
    """Why a value that isn't empty can't be imported, in REDCap's words; None when it can."""
    if field.type == "checkbox":
        return None if value in ("0", "1") else _NOT_A_CATEGORY.format(column)
    if field.choices:
        codes = {code for code, _ in field.choices}
        return None if value in codes else _NOT_A_CATEGORY.format(column)
    if field.validation and not _follows(field.validation, value):
        return _WRONG_FORMAT
    return None


def is_date(field: Field) -> bool:
    """Whether the field holds a date or a date and time."""
    return field.validation.startswith(("date_", "datetime_"))


def to_ymd(value: str, date_format: str) -> str:
    """A date written as DMY or MDY in REDCap's own order; anything else unchanged."""
    match = _DATE.fullmatch(value)
    if date_format == "YMD" or match is None:
        return value
    first, second, year, rest = match.groups()
    day, month = (first, second) if date_format == "DMY" else (second, first)
    return f"{year}-{month:0>2}-{day:0>2}{rest}"


def _follows(validation: str, value: str) -> bool:
    for prefix, pattern, length in _TIMES:
        if validation.startswith(prefix):
            return len(value) == length and _is_time(value, pattern)
    known = _PATTERNS.get(validation)
    return known is None or known.fullmatch(value) is not None


def _is_time(value: str, pattern: str) -> bool:
    try:
        datetime.strptime(value, pattern)
    except ValueError:
        return False
    return True
