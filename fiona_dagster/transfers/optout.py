"""The hospital's opt-out list: people whose images must not be used for research.

Asked before a study is assigned and again before anything of it is sent. A list that is configured and can't
be read stops both.
"""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path

from fiona_dagster.config import resolve
from fiona_dagster.errors import OptOutUnavailable, RequestRefused
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.intake import person

REASON = "the person does not want images to be used for research (opt-out list)"
COLUMN = "patientid"

_Stamp = tuple[str, int, int, int]
_read: dict[_Stamp, frozenset[str]] = {}


def list_file(gateway: Gateway) -> Path | None:
    """The configured list; None: there is none."""
    name = gateway.settings.opt_out.file
    return resolve(gateway.root, name) if name else None


def stamp(gateway: Gateway) -> _Stamp | None:
    """Changes when the list does; None: none is configured.

    Raises:
        OptOutUnavailable: it can't be read, or is older than ``max_age_hours``.
    """
    path = list_file(gateway)
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise OptOutUnavailable(
            f"{path}: the opt-out list can't be read ({error.strerror}); nothing is assigned or sent"
        ) from None
    hours = gateway.settings.opt_out.max_age_hours
    if hours and time.time() - status.st_mtime > hours * 3600:
        raise OptOutUnavailable(
            f"{path}: the opt-out list is older than {hours:g} hours; nothing is assigned or sent until it "
            "is renewed"
        )
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def has_opted_out(gateway: Gateway, study: str) -> bool:
    """Whether one of the study's patient ids stands on the list.

    Raises:
        OptOutUnavailable: the list is configured and can't be used.
    """
    seen = stamp(gateway)
    if seen is None:
        return False
    if seen not in _read:
        found = _ids(Path(seen[0]))
        _read.clear()
        _read[seen] = found
    derived = gateway.ledger.derived.recognise(study)
    values: list[str] = []
    for uid in (study, derived.original) if derived else (study,):
        known = person(gateway, uid)
        values += [*known.patient_ids, *known.other_ids]
    return any(normal(value) in _read[seen] for value in values)


def require_willing(gateway: Gateway, study: str) -> None:
    """Refuses a study of somebody who opted out.

    Raises:
        RequestRefused: the person stands on the list.
        OptOutUnavailable: the list is configured and can't be used.
    """
    if has_opted_out(gateway, study):
        raise RequestRefused(REASON)


def normal(value: str) -> str:
    """An id as it is compared: without blanks, hyphens and the difference of capitals."""
    return re.sub(r"[\s\-]", "", value).casefold()


def _ids(path: Path) -> frozenset[str]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise OptOutUnavailable(
            f"{path}: the opt-out list is no readable UTF-8 text; nothing is assigned or sent meanwhile"
        ) from None
    first = text.partition("\n")[0]
    dialect = next((sign for sign in "\t;" if sign in first), ",")
    rows = [
        row for row in csv.reader(text.splitlines(), delimiter=dialect) if any(cell.strip() for cell in row)
    ]
    if not rows:  # perhaps somebody is writing it at this moment
        raise OptOutUnavailable(
            f"{path}: the opt-out list is empty; nothing is assigned or sent meanwhile. "
            "Where nobody opted out it has one line, PatientID"
        )
    header = [normal(cell) for cell in rows[0]]
    if COLUMN in header:
        place = header.index(COLUMN)
        values = [row[place] for row in rows[1:] if len(row) > place]
    elif any(len(row) > 1 for row in rows):
        raise OptOutUnavailable(
            f"{path}: the opt-out list has several columns, none of them PatientID; nothing is assigned "
            "or sent meanwhile"
        )
    else:
        values = [row[0] for row in rows]
    return frozenset(normal(value) for value in values) - {""}
