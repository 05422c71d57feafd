"""Compressed images, as far as what is no picture is concerned: comments, EXIF, boxes, bytes after the end.

Belongs here: where in a JPEG (ISO 10918-1), JPEG-LS (14495-1), JPEG 2000 (15444-1) or RLE (PS3.5 annex G)
image such bytes stand. Stays out: fragments and files (``pixels``). Nothing is decoded. Bytes that may carry
text are to be *zeroed in place*: lengths, offsets and the picture stay as they are.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

Image = bytes | memoryview
Span = tuple[int, int]

_JPEG = frozenset([f"1.2.840.10008.1.2.4.{number}" for number in (*range(50, 67), 70)])
_JPEG_LS = frozenset(["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"])
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 92, 93, 201, 202, 203))
IDLE = b"\x80"
"""The run of RLE that makes no bytes (PS3.5 G.3.1)."""
RLE, DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"

_SEGMENTS = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDA, 0xE0), 0xF7, 0xF8))
"""Frame, scan, tables, restart interval; the last two are JPEG-LS."""
_JPEG_SCAN_END = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_LS_SCAN_END = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_JP2_KEPT = frozenset([b"jP  ", b"ftyp", b"jp2h", b"jp2c"])
_JP2_HEADER_KEPT = frozenset([b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef", b"res "])


class NotUnderstood(Exception):
    """The image is not built as its standard says."""


@dataclass
class Layout:
    """What a compressed image consists of.

    Attributes:
        foreign: bytes to be zeroed.
        idle: bytes between and after runs, to be filled with the run that makes nothing.
        headers: bytes that are kept and are no compressed picture: to be searched.
    """

    foreign: list[Span] = field(default_factory=list)
    idle: list[Span] = field(default_factory=list)
    headers: list[Span] = field(default_factory=list)

    def drop(self, start: int, end: int) -> None:
        """Adds bytes to be zeroed."""
        if end > start:
            self.foreign.append((start, end))


Parser = Callable[[Image], Layout]
_STEP = 1 << 20


def parser_of(transfer_syntax: str, plane: int, frame: int) -> Parser | None:
    """What takes images of a transfer syntax apart; ``None``: nothing here can.

    Args:
        transfer_syntax: UID.
        plane: bytes of a decoded byte plane, for RLE.
        frame: bytes of a decoded frame, for deflated frames.
    """
    if transfer_syntax in _JPEG or transfer_syntax in _JPEG_LS:
        return lambda image: jpeg(image, transfer_syntax in _JPEG_LS)
    if transfer_syntax in _JPEG_2000:
        return jpeg_2000
    if transfer_syntax == RLE and plane:
        return lambda image: rle(image, plane)
    if transfer_syntax == DEFLATED_FRAMES and frame:
        return lambda image: deflated(image, frame)
    return None


def foreign_bytes(image: Image, layout: Layout) -> list[tuple[int, int, bytes]]:
    """Bytes of an image that may say something: where, and what belongs there instead."""
    found = [(start, end, b"") for start, end in layout.foreign if any(image[start:end])]
    for start, end in layout.idle:
        there = bytes(image[start:end])
        if there.strip(b"\0") and there.strip(IDLE):
            found.append((start, end, IDLE * (end - start)))
    return found


def begins(transfer_syntax: str, fragment: Image) -> bool:
    """Whether an image begins with this fragment."""
    start = bytes(fragment[:12])
    if transfer_syntax in _JPEG_2000:
        return start.startswith(b"\xff\x4f\xff\x51") or start == _JP2_SIGNATURE
    return transfer_syntax in (RLE, DEFLATED_FRAMES) or start.startswith(b"\xff\xd8")


def _u16(image: Image, pos: int) -> int:
    if pos + 2 > len(image):
        raise NotUnderstood
    return image[pos] << 8 | image[pos + 1]


def _segment(image: Image, pos: int) -> tuple[int, int, int]:
    """Marker, begin and end of the payload of the marker segment at ``pos`` (ISO 10918-1 B.1.1.4)."""
    while _u16(image, pos) == 0xFFFF:  # fill bytes
        pos += 1
    code = _u16(image, pos)
    if code == 0xFFD9:
        return 0xD9, pos + 2, pos + 2
    end = pos + 2 + _u16(image, pos + 2)
    if code < 0xFF00 or end < pos + 4 or end > len(image):
        raise NotUnderstood
    return code & 0xFF, pos + 4, end


def jpeg(image: Image, lossless_ls: bool = False) -> Layout:
    """JPEG and JPEG-LS: comments and application data go, but for JFIF, Adobe and HP colour transforms.

    Raises:
        NotUnderstood: damaged, cut off, or with segments that no part of the standard knows.
    """
    layout, scan_end = Layout(), _JPEG_LS_SCAN_END if lossless_ls else _JPEG_SCAN_END
    if _u16(image, 0) != 0xFFD8:
        raise NotUnderstood
    pos = 2
    while True:
        marker, start, end = _segment(image, pos)
        pos = end
        if marker == 0xD9:
            layout.drop(end, len(image))
            return layout
        if marker == 0xFE or 0xE0 <= marker <= 0xEF:
            kept = start + _needed(marker, bytes(image[start : min(end, start + 16)]))
            layout.headers.append((start, kept))
            layout.drop(kept, end)
        elif marker not in _SEGMENTS:
            raise NotUnderstood
        else:
            layout.headers.append((start, end))
            if marker == 0xDA:
                found = scan_end.search(image, end)
                if found is None:
                    raise NotUnderstood
                pos = found.start()


def _needed(marker: int, payload: bytes) -> int:
    """How many bytes of an application segment a decoder needs to get the colours right."""
    if marker == 0xE0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
        return 12  # version, units, densities; the size of the thumbnail is zeroed with the thumbnail
    if marker == 0xEE and payload.startswith(b"Adobe") and len(payload) >= 12:
        return 12
    if marker == 0xE8 and payload.startswith(b"mrfx") and len(payload) >= 5:
        return 5
    return 0


def jpeg_2000(image: Image) -> Layout:
    """JPEG 2000, bare or as JP2: comments go, and every box that the picture does not need.

    Raises:
        NotUnderstood: damaged or cut off.
    """
    layout = Layout()
    if bytes(image[:12]) == _JP2_SIGNATURE:
        _boxes(image, 0, len(image), _JP2_KEPT, layout)
    else:
        _codestream(image, 0, len(image), layout)
    return layout


def _boxes(image: Image, pos: int, end: int, kept: frozenset[bytes], layout: Layout) -> None:
    """ISO 15444-1 annex I.4: length, type, content."""
    seen = False
    while pos < end:
        if end - pos < 8:
            if seen and not any(image[pos:end]):
                return  # padding
            raise NotUnderstood
        size, kind, head = int.from_bytes(image[pos : pos + 4], "big"), bytes(image[pos + 4 : pos + 8]), 8
        if size == 1:
            size, head = int.from_bytes(image[pos + 8 : pos + 16], "big"), 16
        stop = end if size == 0 else pos + size
        if stop > end or stop < pos + head:
            raise NotUnderstood
        if kind == b"jp2c":
            seen = True
            layout.headers.append((pos, pos + head))
            _codestream(image, pos + head, stop, layout)
        elif kind == b"jp2h":
            layout.headers.append((pos, pos + head))
            _boxes(image, pos + head, stop, _JP2_HEADER_KEPT, layout)
        elif kind in kept:
            layout.headers.append((pos, stop))
        elif re.fullmatch(rb"[ -~]{4}", kind):  # the type stays: readers skip what they don't know
            layout.headers.append((pos, pos + head))
            layout.drop(pos + head, stop)
        else:
            raise NotUnderstood
        pos = stop


def _codestream(image: Image, pos: int, end: int, layout: Layout) -> None:
    """ISO 15444-1 annex A: main header, tile-parts, end."""
    if _u16(image, pos) != 0xFF4F:
        raise NotUnderstood
    pos = _markers(image, pos + 2, end, layout, until=0xFF90)
    while _u16(image, pos) == 0xFF90:  # SOT
        size = int.from_bytes(image[pos + 6 : pos + 10], "big")
        layout.headers.append((pos, pos + 12))
        data = _markers(image, pos + 12, end, layout, until=0xFF93) + 2
        last = size == 0
        pos = _end_of_image(image, data, end) if last else pos + size
        if pos < data or pos + 2 > end:
            raise NotUnderstood
    if _u16(image, pos) != 0xFFD9:
        raise NotUnderstood
    layout.drop(pos + 2, end)


def _markers(image: Image, pos: int, end: int, layout: Layout, until: int) -> int:
    while True:
        marker = _u16(image, pos)
        if marker == until:
            return pos
        stop = pos + 2 + _u16(image, pos + 2)
        if not 0xFF50 <= marker <= 0xFF8F or stop < pos + 4 or stop > end:
            raise NotUnderstood
        if marker == 0xFF64:  # COM: its registration stays, which says binary or text
            layout.headers.append((pos, min(pos + 6, stop)))
            layout.drop(pos + 6, stop)
        else:
            layout.headers.append((pos, stop))
        pos = stop


def _end_of_image(image: Image, start: int, end: int) -> int:
    """Where the end marker stands when the last tile-part does not say how long it is."""
    begin = max(start, end - 4096)
    at = bytes(image[begin:end]).rfind(b"\xff\xd9")
    if at < 0:
        raise NotUnderstood
    return begin + at


def rle(image: Image, plane: int) -> Layout:
    """RLE: what stands in unused places of the header, and between and after the segments, goes.

    Raises:
        NotUnderstood: damaged or cut off.
    """
    layout, end = Layout(), len(image)
    if end < 64:
        raise NotUnderstood
    count = int.from_bytes(image[:4], "little")
    offsets = [
        int.from_bytes(image[4 * n : 4 * n + 4], "little") for n in range(1, count + 1 if count < 16 else 1)
    ]
    if not offsets or offsets != sorted(offsets) or offsets[0] < 64 or offsets[-1] > end:
        raise NotUnderstood
    layout.headers.append((0, 4 + 4 * count))
    layout.drop(4 + 4 * count, offsets[0])
    for start, stop in zip(offsets, [*offsets[1:], end], strict=True):
        done = _runs(image, start, stop, plane)
        if done < stop:
            layout.idle.append((done, stop))
    return layout


def _runs(image: Image, pos: int, end: int, plane: int) -> int:
    """Where the runs that fill a byte plane end (PS3.5 G.3.1)."""
    made = 0
    while made < plane:
        if pos >= end:
            raise NotUnderstood
        code = image[pos]
        if code < 128:
            made += code + 1
            pos += code + 2
        elif code > 128:
            made += 257 - code
            pos += 2
        else:
            pos += 1
    if pos > end:
        raise NotUnderstood
    return pos


def deflated(image: Image, frame: int) -> Layout:
    """Deflated Image Frame Compression (PS3.5 A.4.12): bytes after the stream go.

    Raises:
        NotUnderstood: damaged, or not exactly one frame.
    """
    layout, stream, made, fed = Layout(), zlib.decompressobj(-zlib.MAX_WBITS), 0, bytes(0)
    try:
        for start in range(0, len(image), _STEP):
            fed = bytes(image[start : start + _STEP])
            while fed and not stream.eof and made <= frame + 1:
                made += len(stream.decompress(fed, _STEP))
                fed = stream.unconsumed_tail
            if stream.eof or made > frame + 1:
                break
    except zlib.error:
        raise NotUnderstood from None
    if not stream.eof or made not in (frame, frame + frame % 2):
        raise NotUnderstood
    rest = len(stream.unused_data)
    layout.drop(min(start + _STEP, len(image)) - rest, len(image))
    return layout
