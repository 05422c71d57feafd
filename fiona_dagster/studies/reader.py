"""Reads the header of one file once, and says what is damaged in it.

Nothing here raises for what stands in a file: an instance that can't be read has ``damage`` and few elements.
A file whose structure is plain is read by :func:`~fiona_dagster.dicom.scan.scan`; everything else by the
walker, which knows why. Pixels are never decoded; whether they are all there is judged from lengths.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from fiona_dagster.dicom.scan import Scanned
from fiona_dagster.dicom.uids import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    clean_uid,
    encoding_of,
    is_uid,
)
from fiona_dagster.dicom.walker import (
    ITEM,
    MAX_DEPTH,
    PIXEL_DATA,
    UNDEFINED,
    Element,
    FileSource,
    InflateSource,
    Source,
    Walk,
)
from fiona_dagster.studies import plain
from fiona_dagster.studies.header import InstanceHeader, stamp_of
from fiona_dagster.studies.keeping import PIXELS, Keeper
from fiona_dagster.studies.plain import is_known, sniff
from fiona_dagster.studies.values import MAX_TEXT, number

_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
_META = frozenset((0x00020002, 0x00020003, 0x00020010))
_PIXEL_URL = 0x00287FE0
_SHAPE = (0x00280010, 0x00280011, 0x00280100, 0x00280002, 0x00280008, 0x00280004)
_LONG_FORM = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])


def read_instance(path: Path, tags: Collection[int] | None = None) -> InstanceHeader:
    """Reads one file.

    Args:
        path: a DICOM file (PS3.10), with or without preamble.
        tags: which top-level elements to keep besides those that every step needs
            (:data:`~fiona_dagster.studies.keeping.BASIC_TAGS`); ``None``: all short ones.
            Private creators of wanted private elements are kept with them.

    Returns:
        The header; ``damage`` holds ``unreadable``, ``empty_file``, ``not_dicom``, ``truncated``,
        ``truncated_pixel_data``, ``pixel_data_short``, ``pixel_data_missing``, ``structure_broken``,
        ``nested_too_deep``, ``too_many_elements``, ``deflate_broken``, ``inflated_too_large``,
        ``transfer_syntax_unknown``, ``transfer_syntax_lies``, ``meta_disagrees``; ``broken_at`` says where.
    """
    header = InstanceHeader(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
    except (OSError, ValueError):
        header.flag("unreadable")
        return header
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            header.flag("unreadable")
            return header
        header.size, header.stamp = status.st_size, stamp_of(status)
        wanted = tags if tags is None or isinstance(tags, frozenset) else frozenset(tags)
        found = plain.read(descriptor, header, wanted)
        if found is not None:
            _judge(header, found.scanned, found.said, whole=True)
        else:
            with open(descriptor, "rb", closefd=False) as file:
                _Reader(file, header, wanted).read()
    except OSError:
        header.flag("unreadable")
    finally:
        os.close(descriptor)
    return header


class _Reader:
    """One careful pass over one file."""

    def __init__(self, file: BinaryIO, header: InstanceHeader, tags: frozenset[int] | None) -> None:
        self._file = file
        self._header = header
        self._tags = tags
        self._meta: dict[int, bytes] = {}

    def read(self) -> None:
        header = self._header
        if header.size == 0:
            return header.flag("empty_file")
        start = self._read_meta()
        if start is None:
            return header.flag("not_dicom")
        syntax = clean_uid(self._meta.get(0x00020010, b""))
        header.transfer_syntax = syntax if is_uid(syntax) else ""
        header.media_class = clean_uid(self._meta.get(0x00020002, b""))
        if syntax and not is_known(syntax):
            header.flag("transfer_syntax_unknown")
        source: Source = FileSource(self._file, header.size)
        if encoding_of(syntax).deflated:
            source, start = InflateSource(self._file, start), 0
        self._walk(source, start, syntax)
        return None

    def _read_meta(self) -> int | None:
        """File meta information (PS3.10 section 7.1); gives where the data set begins."""
        head = self._file.read(140)
        if head[128:132] == b"DICM":
            start = 132
        elif head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and sniff(head) is not None:
            start = 0
        else:
            return None
        walk = Walk(FileSource(self._file, self._header.size), start, explicit=True)
        for element in walk:
            if element.tag >> 16 != 2:
                return element.offset - (12 if element.vr in _LONG_FORM else 8)
            if element.length > MAX_TEXT or walk.problem:
                break
            if element.tag in _META:
                self._meta[element.tag] = walk.value(element)
        if walk.problem is not None and walk.end < self._header.size:
            return walk.end  # an implicit or big endian data set begins here
        self._header.flag("truncated")
        self._header.broken_at = walk.end
        return self._header.size

    def _walk(self, source: Source, start: int, syntax: str) -> None:
        header = self._header
        encoding = encoding_of(syntax)
        explicit, big = encoding.explicit is not False, encoding.big_endian
        looks = sniff(source.read(start, 12))
        if looks is not None and looks != (explicit, big):
            if syntax and encoding.explicit is not None:
                header.flag("transfer_syntax_lies")
            explicit, big = looks
        header.big = big
        walk = Walk(source, start, explicit=explicit, big=big)
        keeper = Keeper(self._tags, lambda offset, n: walk.value(Element(0, "", offset, n, 0)), big=big)
        scanned, last = self._follow(walk, keeper)
        if isinstance(source, InflateSource) and source.problem:
            header.flag(source.problem)
            header.broken_at = walk.end
        elif walk.problem is not None:
            header.broken_at = walk.problem.position
            in_pixels = last is not None and last is scanned.pixels
            header.flag(_pixel_reason(walk.problem.reason) if in_pixels else walk.problem.reason)
        if walk.deepest > MAX_DEPTH:
            header.flag("nested_too_deep")
            header.broken_at = walk.deep_at
        keeper.hand_over(header, sealed=False)
        _judge(header, scanned, self._meta.get(0x00020003, b""), whole=walk.problem is None)

    @staticmethod
    def _follow(walk: Walk, keeper: Keeper) -> tuple[Scanned, Element | None]:
        """Gives the keeper what the walk meets; the last top-level element tells where it ended."""
        pixels: Element | None = None
        last: Element | None = None
        fragments = 0
        sequences: dict[int, int] = {}
        for element in walk:
            if element.depth == 0:
                last = element
                if element.tag in PIXELS:
                    pixels = element
                keeper.take(element, whole=walk.problem is None)
            elif last is pixels:
                fragments += element.length
            elif element.tag == ITEM:
                if element.depth == 1:
                    keeper.found_item(sequences.get(1, 0))
            elif walk.problem is None and element.depth <= MAX_DEPTH:
                keeper.take_inside(sequences.get(element.depth, 0), element)
            if element.vr in ("SQ", "") or element.length == UNDEFINED:
                sequences[element.depth + 1] = element.tag
        return Scanned(pixels, fragments), last


def _judge(header: InstanceHeader, scanned: Scanned, said: bytes, *, whole: bool) -> None:
    """Whether the pixels are there, and whether file meta (``said``) and data set name the same instance."""
    pixels, needed = scanned.pixels, _pixel_bytes(header)
    if needed is not None and whole:
        if pixels is None:
            if _PIXEL_URL not in header.elements:
                header.flag("pixel_data_missing")
        elif pixels.length == UNDEFINED:
            if not scanned.fragments:
                header.flag("pixel_data_short")
        elif pixels.length < needed and header.transfer_syntax in _NATIVE and pixels.tag == PIXEL_DATA:
            header.flag("pixel_data_short")
    named = header.elements.get(0x00080018, ("", b""))[1]
    if said != named:
        instance = clean_uid(said)
        if (
            instance
            and instance != clean_uid(named)
            and header.sop_instance
            and instance != header.sop_instance
        ):
            header.flag("meta_disagrees")


def _pixel_reason(reason: str) -> str:
    return "truncated_pixel_data" if reason == "truncated" else "pixel_data_broken"


def _pixel_bytes(header: InstanceHeader) -> int | None:
    """Bytes that native pixel data must have (PS3.5 section 8.1.1); ``None`` for what is no image."""
    elements = header.elements
    return _shape_bytes(header.big, *(elements.get(tag) for tag in _SHAPE))


@functools.lru_cache(maxsize=1024)
def _shape_bytes(big: bool, *shape: tuple[str, bytes] | None) -> int | None:
    header = InstanceHeader(Path(), big=big)
    header.elements = {tag: found for tag, found in zip(_SHAPE, shape, strict=True) if found is not None}
    rows, columns, bits = (number(header.value(tag)) for tag in _SHAPE[:3])
    if not rows or not columns or not bits:
        return None
    samples = number(header.value(0x00280002)) or 1
    frames = number(header.value(0x00280008)) or 1
    total = rows * columns * samples * max(frames, 1) * bits / 8
    if header.value(0x00280004) in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        total = total * 2 / 3
    elif header.value(0x00280004) == "YBR_PARTIAL_420":
        total = total / 2
    return int(total)
