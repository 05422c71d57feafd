"""Flat record rows: what identifies one, what REDCap can hold, how lists and batches are sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

Row = dict[str, str]
"""A flat record row: export field name -> value, always text."""

INSTRUMENT = "redcap_repeat_instrument"
INSTANCE = "redcap_repeat_instance"
EVENT = "redcap_event_name"
PSEUDO_FIELDS = (EVENT, INSTRUMENT, INSTANCE, "redcap_data_access_group")
"""Columns of a row that are no fields; ``fields[i]`` refuses them."""

BATCH = 100
"""Records per call; larger exports and imports run into servers' limits (redcap-api.md section 3)."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def indexed(name: str, values: Collection[str]) -> dict[str, str]:
    """A list as REDCap takes it: ``name[0]=…``, ``name[1]=…``."""
    return {f"{name}[{index}]": value for index, value in enumerate(values)}


def clean_value(value: object) -> str:
    """A value as REDCap can hold it: no control characters, no broken surrogates, lines end in LF."""
    text = "" if value is None else str(value).replace("\r\n", "\n").replace("\r", "\n")
    return _UNPRINTABLE.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def clean_row(row: Mapping[str, object]) -> Row:
    """The row with every value cleaned by :func:`clean_value`."""
    return {key: clean_value(value) for key, value in row.items()}


def row_key(row: Mapping[str, str], record_id: str) -> tuple[str, str, str, str]:
    """What identifies a row: record, event, instrument, instance (1 where an instrument has none)."""
    instrument = row.get(INSTRUMENT, "")
    number = row.get(INSTANCE, "") or ("1" if instrument else "")
    return row.get(record_id, ""), row.get(EVENT, ""), instrument, number


def same_value(name: str, sent: str, stored: str) -> bool:
    """Whether both mean the same: line ends and outer blanks may differ, an unticked box may be empty."""
    if "___" in name:
        return (sent or "0") == (stored or "0")
    return sent.replace("\r\n", "\n").strip() == stored.replace("\r\n", "\n").strip()


def batches(items: Sequence[str]) -> Iterator[list[str]]:
    """Lists of BATCH items at most."""
    for start in range(0, len(items), BATCH):
        yield list(items[start : start + BATCH])


def record_batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows in batches of BATCH records; a record is never split between calls."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(next(iter(row.values())), []).append(row)
    for names in batches(list(grouped)):
        yield [row for name in names for row in grouped[name]]
