"""The end of a copy under examination: pixel data as long as the picture, and nothing else in them or after.

Belongs here: what stands after the header. Stays out: the header (``inspection``).
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from fiona_dagster.deid.codestreams import foreign_bytes, parser_of
from fiona_dagster.deid.elements import BIG_ENDIAN, IMPLICIT, UNDEFINED
from fiona_dagster.deid.pixels import Geometry, grouped, image_of, look, number_of_frames, split
from fiona_dagster.deid.reading import raw_value

BATCH = 1 << 20
OVERLAP = 256
"""Longer than any term: terms across two pieces are found too."""


def shape_of(data_set: Dataset, big: bool) -> Geometry:
    """The Image Pixel module as pydicom reads it."""

    def number(tag: int, default: int = 0) -> int:
        item = data_set.get_item(tag) if tag in data_set else None
        value = item.value if item is not None else b""
        if isinstance(value, bytes):
            return int.from_bytes(value, "big" if big else "little") if len(value) == 2 else default
        return int(value or default)

    frames = raw_value(data_set, 0x00280008)
    return Geometry(
        number(0x00280010),
        number(0x00280011),
        number_of_frames(frames),
        number(0x00280002, 1),
        number(0x00280100),
        number(0x00280101),
        number(0x00280102),
        number(0x00280103) == 1,
        raw_value(data_set, 0x00280004),
    )


class Tail:
    """Everything from ``start`` on.

    Args:
        view: the whole file, inflated.
        start: where the header ends.
        syntax: transfer syntax.
        data_set: the header.

    Attributes:
        problems: rules that are broken.
    """

    def __init__(self, view: memoryview, start: int, syntax: str, data_set: Dataset) -> None:
        self.view, self.syntax = view, syntax
        self.shape = shape_of(data_set, syntax == BIG_ENDIAN)
        self.problems: list[str] = []
        self._start, self._value, self._encapsulated = start, (start, start), False
        self._layout()

    def _layout(self) -> None:
        view, start = self.view, self._start
        head = bytes(view[start : start + 12])
        if not head.strip(b"\0") and len(view) - start < 2:
            return
        order, at = ("big" if self.syntax == BIG_ENDIAN else "little"), 4 if self.syntax == IMPLICIT else 8
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
        length = int.from_bytes(head[at : at + 4], order)  # type: ignore[arg-type]
        if group != 0x7FE0:
            self.problems.append("bytes after the data set")
        elif length == UNDEFINED:
            self._encapsulated = True
            self._fragments(start + 12)
        else:
            begin = start + at + 4
            if begin + length not in (len(view), len(view) - 1):
                self.problems.append("bytes after the pixel data")
            else:
                self._native(0x7FE00000 | element, begin, begin + length)

    def _native(self, tag: int, begin: int, end: int) -> None:
        self._value = begin, end
        length = end - begin
        wanted = self.shape.size(tag, length) or length  # 0: shorter than the image, or nobody knows
        if length > wanted + (wanted & 1) or any(self.view[begin + wanted : end]):
            self.problems.append("bytes after the image")
        if any(self.view[end:]):
            self.problems.append("bytes after the pixel data")

    def _fragments(self, begin: int) -> None:
        pos, view = begin, self.view
        while bytes(view[pos : pos + 4]) == b"\xfe\xff\x00\xe0":
            pos += 8 + int.from_bytes(view[pos + 4 : pos + 8], "little")
        left = len(view) - pos
        if (
            left not in (8, 9)
            or bytes(view[pos : pos + 8]) != b"\xfe\xff\xdd\xe0\0\0\0\0"
            or any(view[pos + 8 :])
        ):
            self.problems.append("bytes after the pixel data")
        self._value = begin, min(pos + 8, len(view))

    def unused_bits(self) -> bool:
        """Whether anything but the sign stands in bits of native pixels that Bits Stored leaves free."""
        import numpy as np

        shape, (begin, end) = self.shape, self._value
        if self._encapsulated or not 0 < shape.stored < shape.allocated or shape.allocated not in (8, 16, 32):
            return False
        size = shape.allocated // 8
        cell = np.dtype(f"{'>' if self.syntax == BIG_ENDIAN else '<'}u{size}")
        used = ((1 << shape.stored) - 1) << max(shape.high + 1 - shape.stored, 0)
        free = (1 << shape.allocated) - 1 - used
        sign = free & ~((1 << shape.high) - 1) if shape.signed else 0
        for at in range(begin, end - size + 1, BATCH):
            stop = at + (min(at + BATCH, end) - at) // size * size
            left = np.frombuffer(self.view[at:stop], cell) & cell.type(free)
            if ((left != 0) & (left != cell.type(sign))).any():
                return True
        return False

    def pieces(self) -> Iterator[bytes]:
        """The bytes that are no compressed picture and no native pixels, to be searched."""
        if self._encapsulated:
            yield from self._of_images(self.view[self._value[0] : self._value[1]])

    def _of_images(self, value: memoryview) -> Iterator[bytes]:
        table, fragments = split(value)
        parse = parser_of(self.syntax, self.shape.plane, self.shape.frame)
        found = [bytes(value[table[0] : table[1]])]
        groups = grouped(value, fragments, self.syntax)
        if len(groups) != self.shape.frames:
            parse = None
        for group in groups:
            layout = look(value, group, parse) if parse else None
            if layout is None:  # nobody knows what is picture: all of it
                for start, end in group:
                    for at in range(start, end, BATCH):
                        yield bytes(value[max(at - OVERLAP, start) : min(at + BATCH, end)])
                continue
            image = image_of(value, group)
            if foreign_bytes(image, layout):
                self.problems.append("bytes in the compressed image that are no picture")
            found += [bytes(image[start:end]) for start, end in layout.headers]
            if sum(map(len, found)) > BATCH:
                yield b"\n".join(found)
                found = []
        yield b"\n".join(found)
