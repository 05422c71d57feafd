"""Reads a file in which nothing is odd, which nearly all are; any other is left to the careful reader.

What repeats from file to file is judged once: the file meta information but for its instance, and the layout
of the data set (:mod:`~fiona_dagster.dicom.layouts`).
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Callable
from typing import NamedTuple

from pydicom.uid import UID

from fiona_dagster.dicom.layouts import Layouts
from fiona_dagster.dicom.scan import Met, Scanned, scan
from fiona_dagster.dicom.uids import clean_uid, encoding_of, is_uid
from fiona_dagster.dicom.walker import is_sequence
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.keeping import Keeper, Plan

_FIRST = 16 * 1024
"""Bytes that are read at first: a header without a vendor's own."""
_HEAD = struct.Struct("<HH2sH")
_START = b"DICM\x02\0\0\0UL\x04\0"
_INSTANCE = b"\x02\0\x03\0UI"
_GE_PRIVATE = "1.2.840.113619.5.2"  # implicit little endian with big endian pixels; old GE archives hold it
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # PS3.5 A.4.12, newer than pydicom's dictionary


class Plain(NamedTuple):
    """What was read besides the header: the pixels, and the instance that the file meta names."""

    scanned: Scanned
    said: bytes


class _Meta(NamedTuple):
    """What file meta information says; ``explicit`` is None where the data set is not plain."""

    syntax: str
    media_class: str
    said: bytes
    explicit: bool | None


def read(descriptor: int, header: InstanceHeader, tags: frozenset[int] | None) -> Plain | None:
    """Reads a file in which nothing is odd.

    Args:
        descriptor: of the file.
        header: gets what was read; its size is known.
        tags: see :func:`~fiona_dagster.studies.reader.read_instance`.

    Returns:
        ``None`` for any other file; the header is then untouched.
    """
    data = os.pread(descriptor, _FIRST, 0)
    if data[128:140] != _START:
        return None
    start = 144 + int.from_bytes(data[140:144], "little")
    if start + 12 > len(data) or data[start : start + 2] == b"\2\0":
        return None
    meta = _meta(data[144:start])
    if meta is None or sniff(data[start : start + 8]) != (meta.explicit, False):
        return None

    def bytes_of(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    keeper = Keeper(tags, bytes_of, big=False)
    scanned = _scan(bytes_of, data, start, header.size, keeper, explicit=bool(meta.explicit))
    if scanned is None:
        return None
    header.transfer_syntax = meta.syntax
    header.media_class = meta.media_class
    keeper.hand_over(header, sealed=True)
    return Plain(scanned, meta.said)


def _scan(
    bytes_of: Callable[[int, int], bytes],
    data: bytes,
    start: int,
    size: int,
    keeper: Keeper,
    *,
    explicit: bool,
) -> Scanned | None:
    """Scans a data set; what is like other files of its series is followed at once."""
    if keeper.plan is None:
        return scan(
            bytes_of, start, size, keeper, explicit=explicit, is_sequence=is_sequence, first=data[start:]
        )
    layouts = _layouts(keeper.plan, explicit)
    known = layouts.follow(bytes_of, data, 0, start, size, keeper)
    if known.whole:
        return known.scanned
    series = _series(data, explicit=explicit)
    trace: list[Met] | None = [] if layouts.wants(series) else None
    scanned = scan(
        bytes_of,
        known.base + known.at,
        size,
        keeper,
        explicit=explicit,
        is_sequence=is_sequence,
        first=known.data[known.at :],
        trace=trace,
    )
    if scanned is None:
        return None
    if trace is not None:
        layouts.learn(series, known, trace, bytes_of, keeper.anew(known.wanted))
    return scanned if known.scanned.pixels is None else known.scanned


def _series(data: bytes, *, explicit: bool) -> bytes:
    """Most probably the SeriesInstanceUID; only to know files that are alike."""
    at = data.find(b"\x20\0\x0e\0UI" if explicit else b"\x20\0\x0e\0", 0, -8)
    length = data[at + 6 if explicit else at + 4] if at >= 0 else 0
    return data[at + 8 : at + 8 + length]


@functools.lru_cache(maxsize=8)
def _layouts(_plan: Plan, _explicit: bool) -> Layouts:
    """The layouts learned for what is wanted, in an encoding."""
    return Layouts()


def forget() -> None:
    """Forgets what was learned, as when a process starts."""
    _layouts.cache_clear()
    _parsed.cache_clear()


def _meta(data: bytes) -> _Meta | None:
    """File meta information behind its group length; ``None`` where it is not sound.

    All but the instance repeats from file to file and is read once.
    """
    at = data.find(_INSTANCE)
    if at < 0:
        return _parsed(data, len(data))
    begin = at + 8
    end = begin + int.from_bytes(data[at + 6 : begin], "little")
    if end > len(data):
        return None
    found = _parsed(data[: at + 6] + b"\0\0" + data[end:], at)
    return None if found is None else found._replace(said=data[begin:end])


@functools.lru_cache(maxsize=256)
def _parsed(data: bytes, instance: int) -> _Meta | None:
    """Reads file meta information from which the instance that stands at ``instance`` was cut out."""
    syntax = media_class = b""
    at, met = 0, False
    while at < len(data):
        met |= at == instance
        if at + 8 > len(data):
            return None
        group, element, vr, length = _HEAD.unpack_from(data, at)
        at += 8
        if vr in (b"OB", b"UN"):
            length = int.from_bytes(data[at : at + 4], "little")
            at += 4
        elif vr not in (b"UI", b"SH", b"AE", b"UL"):
            return None
        value = data[at : at + length]
        at += length
        if group != 2 or at > len(data):
            return None
        if element == 0x0010:
            syntax = value
        elif element == 0x0002:
            media_class = value
        elif element == 0x0003 and at - 8 != instance:
            return None  # named twice
    if not met and instance != len(data):
        return None  # what looked like the instance stands inside another value
    text = clean_uid(syntax)
    encoding = encoding_of(text)
    plain = not encoding.big_endian and not encoding.deflated and is_known(text)
    return _Meta(text, clean_uid(media_class), b"", encoding.explicit if plain else None)


@functools.lru_cache(maxsize=256)
def is_known(syntax: str) -> bool:
    """Whether a transfer syntax is one of the standard's, or a private one that we can read."""
    return syntax in (_GE_PRIVATE, _DEFLATED_FRAMES) or (
        is_uid(syntax) and UID(syntax).type == "Transfer Syntax"
    )


def sniff(head: bytes) -> tuple[bool, bool] | None:
    """How a data set that begins with these bytes is encoded: (explicit, big endian); ``None``: can't tell.

    The first group of a data set is small, so its zero byte shows the byte order.
    """
    if len(head) < 8:
        return None
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if head[1] == 0 and head[0] != 0:
        return explicit, False
    if head[0] == 0 and head[1] != 0:
        return explicit, True
    return None
