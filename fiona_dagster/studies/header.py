"""Reads the header of one file once, and says what is damaged in it.

Nothing here raises for what stands in a file: an instance that can't be read has ``damage`` and few elements.
Pixels are never decoded; whether they are all there is judged from lengths.
"""

from __future__ import annotations

import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import UID

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
    MAX_DEPTH,
    PIXEL_DATA,
    UNDEFINED,
    Element,
    FileSource,
    InflateSource,
    Source,
    Walk,
)
from fiona_dagster.studies.values import MAX_TEXT, Value, decode, number, printed, vr_of

_NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
_GE_PRIVATE = "1.2.840.113619.5.2"  # implicit little endian with big endian pixels; old GE archives hold it
_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"  # PS3.5 A.4.12, newer than pydicom's dictionary

MAX_KEPT = 16 * 1024
"""Values longer than so many bytes count as present but are not kept."""
MAX_KEPT_FILE = 2**20
"""Bytes of values that are kept of one file."""
MAX_KEPT_ELEMENTS = 5000
"""Elements that are kept of one file; none has so many at the top level."""
_SPECIFIC_CHARACTER_SET = 0x00080005
_META = frozenset((0x00020002, 0x00020003, 0x00020010))
_PIXELS = frozenset((PIXEL_DATA, 0x7FE00008, 0x7FE00009))
_PIXEL_REPRESENTATION = 0x00280103
_PIXEL_URL = 0x00287FE0
_PIXEL_SHAPE = (0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100)
BASIC_TAGS = frozenset(
    (
        _SPECIFIC_CHARACTER_SET,
        0x00080016,
        0x00080018,
        0x00080021,
        0x00080060,
        0x00100010,
        0x00100020,
        0x00100021,
        0x00100030,
        0x0020000D,
        0x0020000E,
        0x00200013,
        _PIXEL_REPRESENTATION,
        _PIXEL_URL,
        *_PIXEL_SHAPE,
    )
)
"""Tags that are kept whatever the rules want: identities and the shape of the pixels."""


@dataclass
class InstanceHeader:
    """What is known of one file.

    Attributes:
        path: the file.
        size: its bytes.
        transfer_syntax: as the file says it; empty without file meta.
        media_class: Media Storage SOP Class UID (0002,0002); empty without file meta.
        damage: codes of what is wrong, none of them with a value from the file.
    """

    path: Path
    size: int = 0
    transfer_syntax: str = ""
    damage: list[str] = field(default_factory=list)
    media_class: str = ""
    big: bool = False
    elements: dict[int, tuple[str, bytes]] = field(default_factory=dict, repr=False)

    def value(self, tag: int) -> Value | None:
        """Decoded value of a top-level element; ``None`` if it is missing, ``EMPTY`` if it has no value."""
        found = self.elements.get(tag)
        if found is None:
            return None
        charset = self.elements.get(_SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
        vr, data = found
        if vr in ("", "UN"):
            signed = self.elements.get(_PIXEL_REPRESENTATION, ("", b""))[1][:2].strip(b"\0") == b"\1"
            vr = vr_of(tag, self._creator(tag), signed=signed)
        return decode(vr, data, charset, big=self.big)

    def text(self, tag: int) -> str:
        """Printed value; empty if it is missing."""
        value = self.value(tag)
        return "" if value is None else printed(value)

    def _creator(self, tag: int) -> str:
        if not tag >> 16 & 1 or tag & 0xFFFF < 0x1000:
            return ""
        found = self.elements.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF)
        return found[1].decode("latin-1").strip(" \0") if found else ""

    @property
    def sop_instance(self) -> str:
        """SOPInstanceUID (0008,0018)."""
        return self.text(0x00080018)

    @property
    def sop_class(self) -> str:
        """SOPClassUID (0008,0016)."""
        return self.text(0x00080016)

    @property
    def study(self) -> str:
        """StudyInstanceUID (0020,000D)."""
        return self.text(0x0020000D)

    @property
    def series(self) -> str:
        """SeriesInstanceUID (0020,000E)."""
        return self.text(0x0020000E)

    @property
    def instance_number(self) -> float:
        """InstanceNumber (0020,0013); infinite without one."""
        value = number(self.value(0x00200013))
        return float("inf") if value is None else value

    def flag(self, code: str) -> None:
        """Notes a damage once."""
        if code not in self.damage:
            self.damage.append(code)


def read_instance(path: Path, tags: Collection[int] | None = None) -> InstanceHeader:
    """Reads one file.

    Args:
        path: a DICOM file (PS3.10), with or without preamble.
        tags: which top-level elements to keep besides :data:`BASIC_TAGS`; ``None``: all short ones.
            Private creators of wanted private elements are kept with them.

    Returns:
        The header; ``damage`` holds ``unreadable``, ``empty_file``, ``not_dicom``, ``truncated``,
        ``truncated_pixel_data``, ``pixel_data_short``, ``pixel_data_missing``, ``structure_broken``,
        ``nested_too_deep``, ``too_many_elements``, ``deflate_broken``, ``inflated_too_large``,
        ``transfer_syntax_unknown``, ``transfer_syntax_lies``, ``meta_disagrees``.
    """
    header = InstanceHeader(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            header.flag("unreadable")
            return header
        header.size = status.st_size
        with path.open("rb") as file:
            _Reader(file, header, None if tags is None else BASIC_TAGS | wanted_with_creators(tags)).read()
    except OSError:
        header.flag("unreadable")
    return header


def wanted_with_creators(tags: Collection[int]) -> frozenset[int]:
    """The tags and the private creators (PS3.5 section 7.8.1) of those that are private."""
    creators = {
        tag & 0xFFFF0000 | tag >> 8 & 0xFF for tag in tags if tag >> 16 & 1 and tag & 0xFFFF >= 0x1000
    }
    return frozenset(tags) | creators


class _Reader:
    """One pass over one file."""

    def __init__(self, file: BinaryIO, header: InstanceHeader, tags: frozenset[int] | None) -> None:
        self._file = file
        self._header = header
        self._tags = tags
        self._meta: dict[int, bytes] = {}
        self._room = MAX_KEPT_FILE

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
        if syntax and not _is_known(syntax):
            header.flag("transfer_syntax_unknown")
        source: Source = FileSource(self._file, header.size)
        if encoding_of(syntax).deflated:
            source, start = InflateSource(self._file, start), 0
        self._walk(source, start, syntax)
        self._compare_meta()
        return None

    def _read_meta(self) -> int | None:
        """File meta information (PS3.10 section 7.1); gives where the data set begins."""
        head = self._file.read(140)
        if head[128:132] == b"DICM":
            start = 132
        elif head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and _sniff(head) is not None:
            start = 0
        else:
            return None
        walk = Walk(FileSource(self._file, self._header.size), start, explicit=True)
        for element in walk:
            if element.tag >> 16 != 2:
                return self._meta_end(element)
            if element.length > MAX_TEXT or walk.problem:
                break
            if element.tag in _META:
                self._meta[element.tag] = walk.value(element)
        if walk.problem is not None and walk.end < self._header.size:
            return walk.end  # an implicit or big endian data set begins here
        self._header.flag("truncated")
        return self._header.size

    def _meta_end(self, element: Element) -> int:
        long_form = element.vr in (
            "OB",
            "OD",
            "OF",
            "OL",
            "OV",
            "OW",
            "SQ",
            "SV",
            "UC",
            "UN",
            "UR",
            "UT",
            "UV",
        )
        return element.offset - (12 if long_form else 8)

    def _walk(self, source: Source, start: int, syntax: str) -> None:
        header = self._header
        encoding = encoding_of(syntax)
        explicit, big = encoding.explicit is not False, encoding.big_endian
        looks = _sniff(source.read(start, 12))
        if looks is not None and looks != (explicit, big):
            if syntax and encoding.explicit is not None:
                header.flag("transfer_syntax_lies")
            explicit, big = looks
        header.big = big
        walk = Walk(source, start, explicit=explicit, big=big)
        pixels: Element | None = None
        last: Element | None = None
        fragments = 0
        for element in walk:
            if element.depth == 0:
                last = element
                if element.tag in _PIXELS:
                    pixels = element
                self._keep(walk, element)
            elif last is pixels:
                fragments += element.length
        if isinstance(source, InflateSource) and source.problem:
            header.flag(source.problem)
        elif walk.problem is not None:
            in_pixels = last is not None and last is pixels
            header.flag(_pixel_reason(walk.problem.reason) if in_pixels else walk.problem.reason)
        if walk.deepest > MAX_DEPTH:
            header.flag("nested_too_deep")
        self._judge_pixels(pixels, fragments, whole=walk.problem is None)

    def _keep(self, walk: Walk, element: Element) -> None:
        tag = element.tag
        kept = self._header.elements
        if tag not in (self._tags or BASIC_TAGS) and (self._tags or len(kept) >= MAX_KEPT_ELEMENTS):
            return
        if element.length == UNDEFINED or element.vr == "SQ" or tag in _PIXELS:
            kept[tag] = ("SQ", b"")
        elif walk.problem is None and tag not in kept:
            keep = element.length <= min(MAX_KEPT, self._room)
            self._room -= element.length if keep else 0
            kept[tag] = (element.vr, walk.value(element) if keep else b"")

    def _judge_pixels(self, pixels: Element | None, fragments: int, *, whole: bool) -> None:
        header = self._header
        needed = _pixel_bytes(header)
        if needed is None or not whole:
            return
        if pixels is None:
            if _PIXEL_URL not in header.elements:
                header.flag("pixel_data_missing")
        elif pixels.length == UNDEFINED:
            if not fragments:
                header.flag("pixel_data_short")
        elif header.transfer_syntax in _NATIVE and pixels.tag == PIXEL_DATA and pixels.length < needed:
            header.flag("pixel_data_short")

    def _compare_meta(self) -> None:
        header = self._header
        said = clean_uid(self._meta.get(0x00020003, b""))
        if said and header.sop_instance and said != header.sop_instance:
            header.flag("meta_disagrees")


def _pixel_reason(reason: str) -> str:
    return "truncated_pixel_data" if reason == "truncated" else "pixel_data_broken"


def _is_known(syntax: str) -> bool:
    """Whether a transfer syntax is one of the standard's, or a private one that we can read."""
    return syntax in (_GE_PRIVATE, _DEFLATED_FRAMES) or (
        is_uid(syntax) and UID(syntax).type == "Transfer Syntax"
    )


def _sniff(head: bytes) -> tuple[bool, bool] | None:
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


def _pixel_bytes(header: InstanceHeader) -> int | None:
    """Bytes that native pixel data must have (PS3.5 section 8.1.1); ``None`` for what is no image."""
    rows, columns, bits = (number(header.value(tag)) for tag in (0x00280010, 0x00280011, 0x00280100))
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
