"""Writing data sets: elements to bytes (PS3.5 section 7), in pieces, so that pixels never stand in memory."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from fiona_dagster.deid.elements import (
    SHORT,
    TEXT,
    UNDEFINED,
    Element,
    FileRange,
    Streamed,
    Value,
    name_of,
)
from fiona_dagster.errors import RefusedDicom

SPACED = TEXT - {"UI"}
"""VRs whose values are padded with a space (PS3.5 6.2), all others with zero."""


def encode(elements: list[Element], implicit: bool, little: bool) -> list[Value | Streamed | FileRange]:
    """The bytes of a data set in pieces; large values are passed through as they are."""
    order = "<" if little else ">"
    chunks: list[Value | Streamed | FileRange] = []
    _encode(elements, implicit, order, chunks)
    return chunks


def flat(chunks: Iterable[Value | Streamed | FileRange]) -> Iterator[Value | FileRange]:
    """The pieces with every streamed value made."""
    for chunk in chunks:
        if isinstance(chunk, Streamed):
            yield from chunk.blocks
        else:
            yield chunk


def in_memory(chunks: Iterable[Value | Streamed | FileRange]) -> Iterator[Value]:
    """The pieces of elements that are no ranges of a file.

    Raises:
        TypeError: one is.
    """
    for chunk in flat(chunks):
        if isinstance(chunk, FileRange):
            raise TypeError("a range of the original has no bytes here")
        yield chunk


def written(elements: list[Element], implicit: bool, little: bool) -> bytes:
    """The bytes of elements that are no pixel data of a file."""
    return b"".join(in_memory(encode(elements, implicit, little)))


def _encode(
    elements: list[Element], implicit: bool, order: str, chunks: list[Value | Streamed | FileRange]
) -> int:
    total = 0
    short, long = struct.Struct(order + "HH2sH").pack, struct.Struct(order + "HH2sHI").pack
    plain = struct.Struct(order + "HHI").pack
    for element in elements:
        tag, vr, value = element.tag, element.vr.encode(), element.value
        at = len(chunks)
        chunks.append(b"")
        if element.items is not None:
            vr, length = b"SQ", 0
            for item in element.items:
                place = len(chunks)
                chunks.append(b"")
                size = _encode(item, implicit, order, chunks)
                chunks[place] = plain(0xFFFE, 0xE000, size)
                length += size + 8
        elif element.streamed:
            chunks.append(element.streamed)
            length = element.streamed.length
        else:
            length = len(value)
            chunks.append(FileRange(element.at, length) if element.at >= 0 else value)
            if length & 1:
                chunks.append(b" " if element.vr in SPACED else b"\0")
                length += 1
        total += length
        written = UNDEFINED if element.encapsulated else length
        if implicit:
            header = plain(tag >> 16, tag & 0xFFFF, written)
        elif vr in SHORT:
            if length > 0xFFFF:
                raise RefusedDicom(f"element {name_of(tag)} is too long for its value representation")
            header = short(tag >> 16, tag & 0xFFFF, vr, length)
        else:
            header = long(tag >> 16, tag & 0xFFFF, vr, 0, written)
        chunks[at] = header
        total += len(header)
    return total
