"""DICOM data sets as lists of elements over the very bytes of the file.

Belongs here: reading a data set (PS3.5 section 7), strictly: what can't be understood is refused, never
copied. Stays out: files and their meta information (``files``), what happens to an element, writing
(``encoding``). Values stay slices of the mapped file until they are written, so that memory does not grow
with the pixels. (pydicom reads the outputs again: ``verify``.)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fiona_dagster.dicom.dictionary import dictionary_vr
from fiona_dagster.dicom.walker import MAX_DEPTH
from fiona_dagster.errors import RefusedDicom, UnreadableDicom

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PIXELS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
"""Float, Double Float and plain Pixel Data: the last element of an object that is read."""

IMPLICIT = "1.2.840.10008.1.2"
DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95"})
BIG_ENDIAN = "1.2.840.10008.1.2.2"

LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs with a length of four bytes (PS3.5 table 7.1-1)."""
SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
TEXT = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
"""VRs whose values are characters."""
_NUMBERS = {2: "US SS OW", 4: "UL SL FL AT OL OF", 8: "FD SV UV OD OV"}
SIZES = {vr: size for size, vrs in _NUMBERS.items() for vr in vrs.split()}
"""Bytes of one number, by VR."""

Value = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Streamed:
    """A large value that is made while it is written.

    Attributes:
        length: bytes of the whole value.
        blocks: the bytes, in pieces of any size; can be gone through more than once.
    """

    length: int
    blocks: Iterable[Value]


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of the original that are written as they stand.

    Attributes:
        start: place in the file.
        length: how many.
    """

    start: int
    length: int

    def __len__(self) -> int:
        return self.length


@dataclass(slots=True)
class Element:
    """One data element.

    Attributes:
        tag: group and element as one number.
        vr: value representation; of implicit files the dictionary's, "UN" if it has none.
        value: bytes of the value; of encapsulated pixel data everything from the first item to the delimiter.
        items: the items of a sequence that was looked into, else ``None``.
        encapsulated: the value is written with undefined length.
        streamed: written in place of ``value``.
        at: where the value begins in the original, so that the kernel can copy it; -1: it can't.
    """

    tag: int
    vr: str
    value: Value = b""
    items: list[list[Element]] | None = None
    encapsulated: bool = False
    streamed: Streamed | None = None
    at: int = -1


def may_be(value: Value, vr: str, little: bool) -> bool:
    """Whether a value of which the file does not say the VR can be one of this VR."""
    fits = len(value) < 0xFFFF or vr.encode() not in SHORT
    return fits and not len(value) % SIZES.get(vr, 1) and (little or vr in TEXT)


def nothing() -> None:
    """Where no file is mapped."""


@dataclass
class DicomFile:
    """A file that was read: transfer syntax, ascending elements, SOP class (if need be, of the meta)."""

    transfer_syntax: str
    elements: list[Element]
    sop_class: str
    release: Callable[[], None] = field(default=nothing, repr=False, compare=False)
    """Gives the memory back that the mapped file takes by now; its bytes stay readable."""

    @property
    def implicit(self) -> bool:
        """Implicit VR (PS3.5 A.1)."""
        return self.transfer_syntax == IMPLICIT

    @property
    def little(self) -> bool:
        """Little endian."""
        return self.transfer_syntax != BIG_ENDIAN

    def find(self, tag: int) -> Element | None:
        """The top-level element of that tag."""
        return next((e for e in self.elements if e.tag == tag), None)


def name_of(tag: int) -> str:
    """``(gggg,eeee)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def text(value: Value) -> str:
    """A value of the default repertoire without padding; what is not ASCII becomes a replacement sign."""
    return bytes(value).decode("ascii", "replace").rstrip("\0 ").strip()


class Reader:
    """Reads data sets of one byte order and VR encoding."""

    def __init__(
        self, data: memoryview, opaque: Callable[[int], bool], *, little: bool = True, implicit: bool = False
    ) -> None:
        self.data = data
        self.opaque = opaque
        self.release = nothing
        self.in_file = False
        self.implicit = implicit
        order = "<" if little else ">"
        self.tag_vr_short = struct.Struct(order + "HH2sH").unpack_from
        self.tag_long = struct.Struct(order + "HHI").unpack_from
        self.long = struct.Struct(order + "I").unpack_from

    def data_set(self, pos: int, end: int, depth: int, open_item: bool = False) -> tuple[list[Element], int]:
        """Elements from ``pos`` to ``end``, or to the item delimiter; and where reading stopped."""
        if depth > MAX_DEPTH:
            raise RefusedDicom(f"sequences are nested deeper than {MAX_DEPTH}; it is not passed on")
        found: list[Element] = []
        ordered, last = True, -1
        while pos < end:
            if end - pos < 8:
                if not depth and not any(self.data[pos:end]):
                    break
                raise UnreadableDicom(f"byte {pos}: an element is cut off")
            group, number, length = self.tag_long(self.data, pos)
            tag = group << 16 | number
            if tag == ITEM_END and open_item:
                return (found if ordered else _sorted(found)), pos + 8
            if not tag and not depth and not any(self.data[pos:end]):
                break  # zeros after the data set
            if group == 0xFFFE:
                raise UnreadableDicom(
                    f"byte {pos}: item delimiter {name_of(tag)} where an element is expected"
                )
            pos, element = self.element(pos, end, tag, length, depth)
            ordered = ordered and tag > last
            last = tag
            found.append(element)
            if not depth and tag in PIXELS:
                if self.in_file:
                    element.at = pos - len(element.value)
                self.after_pixels(pos, end)
                break  # what follows is padding, signatures, or no part of the data set; none of it is kept
        else:
            if open_item:
                raise UnreadableDicom(f"byte {pos}: an item does not end")
        return (found if ordered else _sorted(found)), pos

    def after_pixels(self, pos: int, end: int) -> None:
        """Elements after the pixel data must be whole: a file that ends within one was cut off.

        Elements that belong before the pixel data could say whom the object shows, and nobody would know.
        """
        while end - pos >= 8:
            group, number, size = self.tag_long(self.data, pos)
            _, _, code, _ = self.tag_vr_short(self.data, pos)
            tag = group << 16 | number
            if 8 <= group <= 0x7FE0 and self._is_element(tag, code, size, end - pos - 8):
                raise RefusedDicom(
                    f"byte {pos}: element {name_of(tag)} stands after the pixel data, out of "
                    "order; it is not passed on"
                )
            looks_right = group > 0x7FE0 and (group & 1 or group in (0xFFFA, 0xFFFC))
            if not looks_right or (not self.implicit and code not in LONG and code not in SHORT):
                return  # no element: trailing bytes
            (length,) = self.long(self.data, pos + 4)
            pos, _ = self.element(pos, end, group << 16 | number, length, 0)

    def _is_element(self, tag: int, code: bytes, size: int, left: int) -> bool:
        if not self.implicit:
            return code in LONG or code in SHORT
        return bool(dictionary_vr(tag)) and size <= left

    def element(self, pos: int, end: int, tag: int, length: int, depth: int) -> tuple[int, Element]:
        """The element whose header begins at ``pos``; where it stops comes first."""
        start = pos
        if self.implicit:
            vr = dictionary_vr(tag) or "UN"
            pos += 8
        else:
            _, _, code, length = self.tag_vr_short(self.data, pos)
            pos += 8
            if code in LONG:
                if end - pos < 4:
                    raise UnreadableDicom(f"byte {start}: element {name_of(tag)} is cut off")
                (length,) = self.long(self.data, pos)
                pos += 4
            elif code not in SHORT:
                raise UnreadableDicom(f"byte {start}: element {name_of(tag)} has no known VR")
            vr = code.decode()
        if length == UNDEFINED:
            return self._undefined(pos, end, tag, vr, depth)
        stop = pos + length
        if stop > end:
            raise UnreadableDicom(
                f"byte {start}: element {name_of(tag)} says {length} bytes, {end - pos} are left: cut off"
            )
        if vr == "SQ" and not self.opaque(tag):
            items, _ = self.items(pos, stop, depth + 1, False)
            return stop, Element(tag, vr, b"", items)
        return stop, Element(tag, vr, self.data[pos:stop])

    def _undefined(self, pos: int, end: int, tag: int, vr: str, depth: int) -> tuple[int, Element]:
        if tag == PIXEL_DATA and vr in ("OB", "OW") and not self.implicit:
            stop = self._fragments(pos, end)
            return stop, Element(tag, "OB", self.data[pos:stop], None, True)
        if vr == "UN" and not self.implicit:  # PS3.5 6.2.2 note 4: implicit little endian inside
            reader = Reader(self.data, self.opaque, implicit=True)
            items, stop = reader.items(pos, end, depth + 1, True)
            return stop, Element(tag, "UN", b"", items)
        if vr not in ("SQ", "UN"):
            raise UnreadableDicom(f"byte {pos}: element {name_of(tag)} ({vr}) has undefined length")
        items, stop = self.items(pos, end, depth + 1, True)
        return stop, Element(tag, "SQ" if dictionary_vr(tag) == "SQ" else vr, b"", items)

    def items(self, pos: int, end: int, depth: int, delimited: bool) -> tuple[list[list[Element]], int]:
        """The items of a sequence, up to its delimiter if it is ``delimited``; and where reading stopped."""
        items: list[list[Element]] = []
        while pos < end:
            if end - pos < 8:
                raise UnreadableDicom(f"byte {pos}: an item is cut off")
            group, number, length = self.tag_long(self.data, pos)
            tag = group << 16 | number
            pos += 8
            if tag == SEQUENCE_END and (delimited or pos == end):
                return items, pos
            if tag != ITEM:
                raise UnreadableDicom(f"byte {pos - 8}: {name_of(tag)} where an item is expected")
            if length == UNDEFINED:
                item, pos = self.data_set(pos, end, depth, True)
            elif pos + length > end:
                raise UnreadableDicom(f"byte {pos - 8}: an item says {length} bytes, {end - pos} are left")
            else:
                item, _ = self.data_set(pos, pos + length, depth)
                pos += length
            items.append(item)
        if delimited:
            raise UnreadableDicom(f"byte {pos}: a sequence does not end")
        return items, pos

    def _fragments(self, pos: int, end: int) -> int:
        number_of = 0
        while end - pos >= 8:
            number_of += 1
            if not number_of % 16:
                self.release()
            group, number, length = self.tag_long(self.data, pos)
            tag = group << 16 | number
            pos += 8
            if tag == SEQUENCE_END:
                return pos
            if tag != ITEM or length > end - pos:
                raise UnreadableDicom(f"byte {pos - 8}: a fragment of the pixel data is damaged or cut off")
            pos += length
        raise UnreadableDicom(f"byte {pos}: the pixel data do not end")


def _sorted(elements: list[Element]) -> list[Element]:
    found: dict[int, Element] = {}
    for e in elements:
        there = found.setdefault(e.tag, e)
        if there is not e and not e.tag >> 16 & 1 and (e.items is not None or there.value != e.value):
            raise RefusedDicom(
                f"element {name_of(e.tag)} stands twice with different values; it is not passed on"
            )
    return sorted(found.values(), key=lambda e: e.tag)


def parse_implicit_items(
    value: Value, opaque: Callable[[int], bool], depth: int
) -> list[list[Element]] | None:
    """The items in a UN value of defined length, or ``None`` when it is no sequence (PS3.5 6.2.2 note 2)."""
    view = memoryview(value)
    try:
        return Reader(view, opaque, implicit=True).items(0, len(view), depth + 1, False)[0]
    except UnreadableDicom:
        return None
