"""One line of a journal: what was received, when and from whom, with a checksum."""

from __future__ import annotations

import json
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from fiona_dagster.dicom import is_uid

Kind = Literal["stored", "repeat", "conflict", "adopted", "accepted", "rejected", "superseded"]
KINDS: frozenset[str] = frozenset(get_args(Kind))


@dataclass(frozen=True)
class Caller:
    """Who sent something.

    Attributes:
        calling_ae: AE title of the sender.
        called_ae: AE title that it called.
        ip: its address, or ``local`` for an import.
    """

    calling_ae: str
    called_ae: str
    ip: str


IMPORTER = Caller("IMPORT", "FIONA", "local")
"""The sender of what ``fiona import`` files."""

OPERATOR = Caller("OPERATOR", "FIONA", "local")
"""The person who decides about conflicts; not a sender."""

INBOX = Caller("INBOX", "FIONA", "local")
"""The sender of what lay in the drop folder."""

UNKNOWN = Caller("unknown", "unknown", "unknown")
"""The sender of an adopted file; the original used the same word."""


class Receipt(NamedTuple):
    """One accepted instance; durable in a journal before the sender gets Success.

    Attributes:
        time: UTC, ISO 8601 with microseconds and ``Z``.
        kind: ``stored``, ``repeat`` (same data set again), ``conflict`` (other data set, kept aside), or
            ``adopted`` (found in the archive without a line; sender and time of arrival are lost).
            What a person decided about a conflict: ``accepted`` (it is the instance from now on),
            ``superseded`` (the bytes that it displaced), ``rejected``.
        StudyInstanceUID: of the instance, like the following three.
        SeriesInstanceUID: see above.
        SOPInstanceUID: see above.
        SOPClassUID: see above.
        transfer_syntax: UID.
        path: file, relative to the data root; for a conflict the file that was kept aside, also when it
            was accepted or rejected later: this is its name for ever, wherever its bytes went.
        size: bytes of the file.
        calling_ae: AE title of the sender.
        called_ae: AE title that it called.
        caller_ip: its address.
    """

    time: str
    kind: Kind
    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str
    transfer_syntax: str
    path: str
    size: int
    calling_ae: str
    called_ae: str
    caller_ip: str


_quoted = json.encoder.encode_basestring_ascii  # an encoder for the whole takes three times as long
_FIELDS = {name: int if name == "size" else str for name in Receipt._fields}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


def now() -> str:
    """The present time as journals write it: UTC, ISO 8601, microseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def encode_line(receipt: Receipt) -> bytes:
    """One line with its newline: CRC-32 in hex, a blank, JSON in ASCII."""
    when, kind, study, series, instance, sop_class, syntax, path, size, *caller = receipt
    belongs, service, came_from = _of_a_series(study, series, sop_class, syntax, *caller)
    text = (
        f'{{"time":{_quoted(when)},"kind":"{kind}",{belongs},"SOPInstanceUID":{_quoted(instance)},{service},'
        f'"path":{_quoted(path)},"size":{size},{came_from}}}'
    ).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


@lru_cache(maxsize=256)
def _of_a_series(study: str, series: str, sop_class: str, syntax: str, *caller: str) -> tuple[str, str, str]:
    """The parts of a line that are the same for all instances of a series from one sender."""
    calling, called, ip = map(_quoted, caller)
    return (
        f'"StudyInstanceUID":{_quoted(study)},"SeriesInstanceUID":{_quoted(series)}',
        f'"SOPClassUID":{_quoted(sop_class)},"transfer_syntax":{_quoted(syntax)}',
        f'"calling_ae":{calling},"called_ae":{called},"caller_ip":{ip}',
    )


def decode_line(line: bytes) -> Receipt | None:
    """The receipt of a line without its newline, or None if it is damaged in any way."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        document = json.loads(text)
    except ValueError:  # also what is no UTF-8
        return None
    if not isinstance(document, dict) or any(type(document.get(n)) is not t for n, t in _FIELDS.items()):
        return None
    receipt = Receipt(**{name: document[name] for name in _FIELDS})
    sound = receipt.kind in KINDS and all(is_uid(getattr(receipt, name)) for name in _UIDS)
    return receipt if sound else None
