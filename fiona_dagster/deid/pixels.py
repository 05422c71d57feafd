"""Pixel data without what is no pixel: bytes after the image, comments, EXIF, overlays in unused bits.

Belongs here: native data (PS3.5 8.2) and fragments (PS3.5 A.4) of one object. Stays out: how a compressed
image is built (``codestreams``), text in the picture itself (kinds that may show it are held: ``kinds``).
Pixel values are never changed, and large data never stand in memory: what is kept is a slice of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fiona_dagster.deid.codestreams import Layout, NotUnderstood, Parser, begins, foreign_bytes, parser_of
from fiona_dagster.deid.elements import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    PIXEL_DATA,
    UNDEFINED,
    DicomFile,
    Element,
    Streamed,
    Value,
    nothing,
    text,
)

FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA = 0x7FE00008, 0x7FE00009
OFFSET_TABLE, OFFSET_LENGTHS, TOTAL_LENGTH = 0x7FE00001, 0x7FE00002, 0x7FE00003
NATIVE = frozenset([IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN, *DEFLATED])
USUAL_VRS = frozenset(("OB", "OW", "OF", "OD"))
VRS = {PIXEL_DATA: "OW", FLOAT_PIXEL_DATA: "OF", DOUBLE_PIXEL_DATA: "OD"}
JOINED_LIMIT = 32 << 20
"""An image in several fragments is put together to be looked at, up to so many bytes."""
_BLOCK = 1 << 20
_RELEASED = 16
"""Fragments after which mapped memory is given back: the kernel maps pages around each that is looked at."""
_ZEROS = bytes(_BLOCK)
_HALVED = {"YBR_FULL_422": (2, 3), "YBR_PARTIAL_422": (2, 3), "YBR_PARTIAL_420": (1, 2)}
"""Photometric interpretations with fewer samples than Samples per Pixel says (PS3.3 C.7.6.3.1.2)."""


@dataclass(frozen=True)
class Geometry:
    """What the header says about native pixel data; zeros where it says nothing.

    Attributes:
        rows, columns, frames, samples: the picture.
        allocated, stored, high: bits.
        signed: Pixel Representation is 1.
        photometric: Photometric Interpretation.
    """

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str

    @property
    def frame(self) -> int:
        """Bytes of one decoded frame."""
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8

    @property
    def plane(self) -> int:
        """Bytes of one decoded byte plane (PS3.5 G.2)."""
        return (self.rows * self.columns * min(self.allocated, 8) + 7) // 8

    def sizes(self, tag: int) -> list[int]:
        """Bytes of the value without padding, the usual number first; empty when it can't be told."""
        bits = {FLOAT_PIXEL_DATA: 32, DOUBLE_PIXEL_DATA: 64}.get(tag, self.allocated)
        count = self.rows * self.columns * self.frames * self.samples
        if not count or not bits:
            return []
        part, whole = _HALVED.get(self.photometric, (1, 1)) if self.samples == 3 else (1, 1)
        full = (count * bits + 7) // 8
        return [full] if part == whole else [(count * part // whole * bits + 7) // 8, full]

    def size(self, tag: int, length: int) -> int:
        """The bytes that belong to the picture, of a value of so many; 0 when it can't be told."""
        return max((size for size in self.sizes(tag) if size <= length), default=0)


def number_of_frames(said: str) -> int:
    """Number of Frames (IS) as a number: 1 where it does not say, 0 where it says nonsense."""
    if not said:
        return 1
    return int(said) if re.fullmatch(r"[0-9]{1,12}", said) else 0


def geometry(source: DicomFile) -> Geometry:
    """Reads the Image Pixel module of an object."""
    order = "little" if source.little else "big"

    def number(tag: int, default: int = 0) -> int:
        e = source.find(tag)
        return int.from_bytes(bytes(e.value), order) if e and len(e.value) == 2 else default  # type: ignore[arg-type]

    frames = source.find(0x00280008)
    said = text(frames.value) if frames else ""
    shown = source.find(0x00280004)
    return Geometry(
        number(0x00280010),
        number(0x00280011),
        number_of_frames(said),
        number(0x00280002, 1),
        number(0x00280100),
        number(0x00280101),
        number(0x00280102),
        number(0x00280103) == 1,
        text(shown.value) if shown else "",
    )


@dataclass
class Cleaned:
    """Pixel data after cleaning.

    Attributes:
        element: what is written.
        done: what was done, for the report.
        unchecked: not built as the header says: what it holds besides pixels is not known.
        images: (offset from the first fragment, length) of each compressed image, when each is one fragment.
    """

    element: Element
    done: list[str] = field(default_factory=list)
    unchecked: bool = False
    images: list[tuple[int, int]] = field(default_factory=list)


def clean(element: Element, source: DicomFile) -> Cleaned:
    """Pixel data of one object without what is no pixel."""
    shape = geometry(source)
    if not element.encapsulated:
        if source.transfer_syntax not in NATIVE:
            return Cleaned(element, unchecked=True)
        return _native(element, source, shape)
    if source.transfer_syntax in NATIVE:
        return Cleaned(element, unchecked=True)
    made = _encapsulated(element, source, shape)
    made.unchecked = made.unchecked or _embedded(source)
    return made


def plain_padding(tag: int, length: int, source: DicomFile) -> int | None:
    """Bytes behind the picture in native pixel data of this length, 0 or 1; ``None``: they hold more."""
    wanted = geometry(source).size(tag, length) if source.transfer_syntax in NATIVE else 0
    plain = wanted and length == wanted + (wanted & 1) and not (tag == PIXEL_DATA and _embedded(source))
    return length - wanted if plain else None


def _embedded(source: DicomFile) -> bool:
    overlays = ((e.tag, bytes(e.value[:2])) for e in source.elements if e.tag >> 24 == 0x60)
    return has_embedded_overlay(overlays, source.little)


def has_embedded_overlay(elements: Iterable[tuple[int, bytes]], little: bool) -> bool:
    """Whether an overlay may stand in unused bits of the pixels (retired; PS3.5-2003 section 8.1.2).

    Args:
        elements: tag and value of top-level elements of groups 60xx.
        little: their byte order.
    """
    parts: dict[int, dict[int, bytes]] = {}
    for tag, value in elements:
        parts.setdefault(tag >> 16, {})[tag & 0xFFFF] = value[:2]
    for found in parts.values():
        own = 0x3000 in found or not found.keys() & {0x0010, 0x0100, 0x0102}
        order = "little" if little else "big"
        bits = int.from_bytes(found.get(0x0100, b""), order)  # type: ignore[arg-type]
        place = int.from_bytes(found.get(0x0102, b""), order)  # type: ignore[arg-type]
        if not own and (bits != 1 or place):
            return True
    return False


def _native(element: Element, source: DicomFile, shape: Geometry) -> Cleaned:
    value, made = element.value, Cleaned(element)
    wanted = shape.size(element.tag, len(value))
    if not wanted:
        sizes = shape.sizes(element.tag)
        made.unchecked = not sizes
        if sizes:
            made.done.append("pixel data shorter than the image")
        wanted = len(value)
    pieces: list[Value] = [value[:wanted]]
    if len(value) > wanted:
        if len(value) > wanted + (wanted & 1) or any(value[wanted:]):
            made.done.append("bytes after the image removed")
        pieces.append(bytes(wanted & 1))
    if element.tag == PIXEL_DATA and _embedded(source):
        if shape.stored < shape.allocated and shape.allocated in (8, 16, 32):
            made.done.append("overlay in unused bits removed")
            made.element = _streamed(
                element, wanted + (wanted & 1), _Masked(value[:wanted], shape, source.little)
            )
            return made
        made.unchecked = True
    if made.done and len(value) > wanted:
        made.element = _streamed(element, wanted + (wanted & 1), _Parts(pieces))
    return made


def _streamed(element: Element, length: int, blocks: _Parts | _Masked) -> Element:
    return Element(element.tag, element.vr, b"", None, element.encapsulated, Streamed(length, blocks))


@dataclass
class _Parts:
    """Slices of the file, one after the other."""

    pieces: list[Value]

    def __iter__(self) -> Iterator[Value]:
        return iter(self.pieces)


@dataclass
class _Masked:
    """Native pixels with nothing in the bits that they don't use."""

    value: Value
    shape: Geometry
    little: bool

    def __iter__(self) -> Iterator[Value]:
        import numpy as np

        shape, order = self.shape, "<" if self.little else ">"
        size = shape.allocated // 8
        kind = np.dtype(f"{order}u{size}")
        low = shape.high + 1 - shape.stored
        mask = ((1 << shape.stored) - 1) << max(low, 0)
        sign = 1 << shape.high if shape.signed and not low else 0
        above = (1 << shape.allocated) - (1 << (shape.high + 1))
        for start in range(0, len(self.value), _BLOCK):
            block = self.value[start : start + _BLOCK]
            whole = len(block) // size * size
            cells = np.frombuffer(block[:whole], kind) & kind.type(mask)
            if sign:  # of negative values all bits above are set, as readers expect that look at no mask
                cells = np.where(cells & kind.type(sign), cells | kind.type(above), cells)
            yield cells.astype(kind, copy=False).tobytes()
            if whole < len(block):
                yield bytes(len(block) - whole)
        if len(self.value) & 1:
            yield b"\0"


def _encapsulated(element: Element, source: DicomFile, shape: Geometry) -> Cleaned:
    value = memoryview(element.value)
    table, fragments = split(value, source.release)
    made = Cleaned(element)
    groups = grouped(value, fragments, source.transfer_syntax, source.release)
    parse = parser_of(source.transfer_syntax, shape.plane, shape.frame)
    edits: list[tuple[int, int, bytes]] = []
    told = len(groups) == shape.frames  # otherwise what follows an image might be the next one
    made.unchecked = not told
    seen = 0
    for group in groups if told else ():
        layout = look(value, group, parse) if parse else None
        if group[-1][1] - seen > _BLOCK:
            source.release()
            seen = group[-1][1]
        if layout is None:
            made.unchecked = True
        else:
            edits += _in_value(group, foreign_bytes(image_of(value, group), layout))
    foreign = bool(edits)
    first = table[1]
    if told and all(len(group) == 1 for group in groups):
        made.images = [(group[0][0] - 8 - first, group[0][1] - group[0][0]) for group in groups]
    starts = [group[0][0] - 8 - first for group in (groups if told else [[each] for each in fragments])]
    if table[1] > table[0] and not _true_table(bytes(value[table[0] : table[1]]), starts, told):
        edits.append((table[0] - 4, table[1], bytes(4)))  # an empty table is always right (PS3.5 A.4)
        made.done.append("offset table emptied")
    if any(value[-4:]):
        edits.append((len(value) - 4, len(value), b""))
    if foreign:
        made.done.append("comments in compressed images removed")
    if edits:
        pieces, length = _edited(value, sorted(edits))
        made.element = _streamed(element, length, _Parts(pieces))
    return made


def split(
    value: memoryview, release: Callable[[], None] = nothing
) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Where the offset table and the fragments of encapsulated pixel data stand in their value."""
    spans: list[tuple[int, int]] = []
    pos = 0
    while len(value) - pos >= 8:
        if not len(spans) % _RELEASED:
            release()
        length = int.from_bytes(value[pos + 4 : pos + 8], "little")
        if bytes(value[pos : pos + 4]) == b"\xfe\xff\xdd\xe0" or length == UNDEFINED:
            break
        spans.append((pos + 8, pos + 8 + length))
        pos += 8 + length
    return (spans[0] if spans else (8, 8)), spans[1:]


def grouped(
    value: memoryview,
    fragments: list[tuple[int, int]],
    transfer_syntax: str,
    release: Callable[[], None] = nothing,
) -> list[list[tuple[int, int]]]:
    """The fragments of each image."""
    groups: list[list[tuple[int, int]]] = []
    for number, span in enumerate(fragments):
        if not number % _RELEASED:
            release()
        if groups and not begins(transfer_syntax, value[span[0] : span[1]]):
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def look(value: memoryview, group: list[tuple[int, int]], parse: Parser) -> Layout | None:
    """What the image in these fragments consists of; ``None``: it can't be told."""
    if len(group) > 1 and sum(end - start for start, end in group) > JOINED_LIMIT:
        return None
    try:
        return parse(image_of(value, group))
    except (NotUnderstood, IndexError):
        return None


def image_of(value: memoryview, group: list[tuple[int, int]]) -> Value:
    """The bytes of the image in these fragments."""
    parts = [value[start:end] for start, end in group]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _in_value(
    group: list[tuple[int, int]], edits: list[tuple[int, int, bytes]]
) -> Iterator[tuple[int, int, bytes]]:
    """Places in the image as places in the value."""
    offset = 0
    for start, end in group:
        size = end - start
        for begin, stop, new in edits:
            low, high = max(begin - offset, 0), min(stop - offset, size)
            if low < high:
                yield start + low, start + high, new[: high - low]
        offset += size


def _true_table(table: bytes, starts: list[int], told: bool) -> bool:
    """Whether a table names these starts of images, or, where they can't be told, some of the fragments."""
    if not told:
        named = [int.from_bytes(table[at : at + 4], "little") for at in range(0, len(table), 4)]
        known = {start & 0xFFFFFFFF for start in starts}
        starts = sorted(known.intersection(named))
    return table == b"".join((start & 0xFFFFFFFF).to_bytes(4, "little") for start in starts)


def _edited(value: memoryview, edits: list[tuple[int, int, bytes]]) -> tuple[list[Value], int]:
    """The value with zeros (or the bytes that an edit brings) in place of spans; and its length."""
    pieces: list[Value] = []
    at = 0
    for start, end, new in edits:
        pieces.append(value[at:start])
        left = 0 if new else end - start
        pieces.append(new)
        while left > 0:
            pieces.append(_ZEROS[:left])
            left -= _BLOCK
        at = end
    pieces.append(value[at:])
    pieces = [piece for piece in pieces if len(piece)]
    return pieces, sum(len(piece) for piece in pieces)


def fit_offset_tables(elements: list[Element], images: list[tuple[int, int]]) -> list[Element]:
    """Extended offset tables stay only where they say what is there (PS3.3 C.7.6.3.1.8)."""
    found = {e.tag: bytes(e.value) for e in elements if e.tag in (OFFSET_TABLE, OFFSET_LENGTHS, TOTAL_LENGTH)}
    if not found:
        return elements
    offsets = b"".join(start.to_bytes(8, "little") for start, _ in images)
    exact = found.get(OFFSET_TABLE) == offsets
    told = found.get(OFFSET_LENGTHS, b"")
    said = [int.from_bytes(told[n : n + 8], "little") for n in range(0, len(told), 8)]
    sizes = [size for _, size in images]
    fits = len(said) == len(sizes) and all(b - 1 <= a <= b for a, b in zip(said, sizes, strict=True))
    if exact and fits and images and TOTAL_LENGTH not in found:
        return elements
    return [
        e for e in elements if e.tag not in found or (exact and fits and images and e.tag != TOTAL_LENGTH)
    ]
