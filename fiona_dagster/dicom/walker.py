"""Walks the elements of a DICOM data set: no decoding, no recursion, bounded in memory and time.

Belongs here: the structure of the encoded data set (PS3.5 section 7). Stays out: values and their meaning.

:class:`Walk` yields an :class:`Element` for every element, item and pixel fragment, in file order. It never
raises for what stands in the file: where the structure breaks, iteration ends and :attr:`Walk.problem` says
why and where.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, NamedTuple, Protocol

UNDEFINED = 0xFFFFFFFF
"""Value length that means "until the delimiter" (PS3.5 section 7.1.1)."""
MAX_DEPTH = 100
"""Sequences in sequences beyond which an object is nested too deep; pydicom fails below 200.

The one limit of reading and of de-identification, which refuses deeper objects; real ones reach about 12.
"""
WALK_DEPTH = 20_000
"""Depth at which a walk gives up: deep enough to read what stands behind a hostile nesting."""
MAX_ELEMENTS = 2_000_000
"""Elements, items and fragments after which a walk gives up (some ten seconds)."""
MAX_INFLATED = 128 * 2**20
"""Bytes that a deflated data set may grow to."""
PIXEL_DATA = 0x7FE00010

ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_WINDOW = 32 * 1024
_DATASET, _ITEMS, _FRAGMENTS = range(3)


class Element(NamedTuple):
    """One element, item (tag FFFE,E000, no VR) or fragment.

    ``vr`` is empty where the file doesn't say it (implicit VR, items). ``length`` may be :data:`UNDEFINED`.
    ``depth`` counts the sequences around it: 0 at the top level.
    """

    tag: int
    vr: str
    offset: int
    length: int
    depth: int


class Problem(NamedTuple):
    """Why and where (byte position in the data set's file, or in the inflated stream) a walk ended early."""

    reason: str
    position: int


class Source(Protocol):
    """Bytes with positions."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer at the end."""

    def reaches(self, offset: int) -> bool:
        """Whether at least ``offset`` bytes are there."""


class FileSource:
    """Bytes of an open file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`Source`."""
        self._file.seek(offset)
        return self._file.read(length)

    def reaches(self, offset: int) -> bool:
        """See :class:`Source`."""
        return offset <= self._size


class BytesSource:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`Source`."""
        return self._data[offset : offset + length]

    def reaches(self, offset: int) -> bool:
        """See :class:`Source`."""
        return offset <= len(self._data)


class InflateSource:
    """A deflated data set (PS3.5 section A.5), inflated forwards in small steps, never held whole.

    Attributes:
        problem: ``deflate_broken`` or ``inflated_too_large`` once that was met, else empty.
    """

    def __init__(self, file: BinaryIO, start: int, limit: int = MAX_INFLATED) -> None:
        self._file = file
        self._next = start
        self._limit = limit
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._base = 0
        self._buffer = b""
        self.problem = ""

    def read(self, offset: int, length: int) -> bytes:
        """See :class:`Source`; ``offset`` may go back by no more than one window."""
        self._advance(offset + length, keep_from=max(0, offset - _WINDOW))
        index = offset - self._base
        return self._buffer[index : index + length] if index >= 0 else b""

    def reaches(self, offset: int) -> bool:
        """See :class:`Source`."""
        self._advance(offset, keep_from=max(0, offset - 2 * _WINDOW))
        return offset <= self._base + len(self._buffer)

    def _advance(self, until: int, keep_from: int) -> None:
        while self._base + len(self._buffer) < until and not self.problem and not self._inflate.eof:
            self._buffer += self._step()
            drop = min(keep_from - self._base, len(self._buffer))
            if drop > 4 * _WINDOW:
                self._buffer = self._buffer[drop:]
                self._base += drop
            if self._base + len(self._buffer) > self._limit:
                self.problem = "inflated_too_large"

    def _step(self) -> bytes:
        data = self._inflate.unconsumed_tail
        if not data:
            self._file.seek(self._next)
            data = self._file.read(_WINDOW)
            self._next += len(data)
            if not data:
                self.problem = "deflate_broken"
        try:
            return self._inflate.decompress(data, 4 * _WINDOW)
        except zlib.error:
            self.problem = "deflate_broken"
            return b""


@functools.lru_cache(maxsize=4096)
def is_sequence(tag: int) -> bool:
    """Whether the dictionary has VR SQ for a tag; private ones are unknown."""
    from pydicom.datadict import dictionary_VR  # costs a tenth of a second: only for implicit VR

    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


class _Frame(NamedTuple):
    """Where the walk stands: in a data set, between items, or between fragments."""

    kind: int
    end: int
    explicit: bool
    depth: int


class Walk:
    """One pass over a data set; iterate once.

    Args:
        source: where the bytes are.
        start: position of the first element.
        explicit: explicit VR (else implicit).
        big: big endian (PS3.5 section 7.3).
        max_depth: sequences in sequences at which the walk gives up.
        is_sequence: whether a tag is a sequence, asked in implicit VR; the default is pydicom's dictionary,
            which costs memory.

    Attributes:
        problem: why it ended early; ``None`` while all is well. Reasons: ``truncated``, ``structure_broken``,
            ``nested_too_deep``, ``too_many_elements``.
        deepest: greatest depth met.
        deep_at: position behind the head at which :data:`MAX_DEPTH` was exceeded first; ``None`` if never.
        end: position after the last element that was read whole.
    """

    def __init__(
        self,
        source: Source,
        start: int = 0,
        *,
        explicit: bool = True,
        big: bool = False,
        max_depth: int = WALK_DEPTH,
        is_sequence: Callable[[int], bool] = is_sequence,
    ) -> None:
        self._is_sequence = is_sequence
        self._source = source
        self._order: Literal["big", "little"] = "big" if big else "little"
        self._max_depth = max_depth
        self._buffer = b""
        self._base = self.end = start
        self._frame = _Frame(_DATASET, UNDEFINED, explicit, 0)
        self._stack: list[_Frame] = []
        self.problem: Problem | None = None
        self.deepest = 0
        self.deep_at: int | None = None

    def value(self, element: Element) -> bytes:
        """The bytes of an element of defined length; call it before going on."""
        index = element.offset - self._base
        if index >= 0 and index + element.length <= len(self._buffer):
            return self._buffer[index : index + element.length]
        return self._source.read(element.offset, element.length)

    def is_value(self, element: Element) -> bool:
        """Whether an element holds bytes and no other elements; ask it before going on."""
        return self._inside(element) is None

    def __iter__(self) -> Iterator[Element]:
        """The elements in file order."""
        position, count = self.end, 0
        while self.problem is None:
            frame = self._frame
            if position >= frame.end != UNDEFINED:
                self._frame = self._stack.pop()
                continue
            head = self._head(position)
            if len(head) < 8 and not self._stack and not head.strip(b"\0"):
                return
            count += 1
            element = self._parse(head, position, frame) if count < MAX_ELEMENTS else None
            if element is None:
                self._stop("truncated" if count < MAX_ELEMENTS else "too_many_elements", position)
            elif element.tag in (_ITEM_END, _SEQUENCE_END):
                position = self._leave(element, position)
            else:
                whole = self._fits(element, position)
                yield element  # also a cut one, so that the caller knows what was cut
                if whole:
                    position = self._enter(element)
            self.end = position

    def _head(self, position: int) -> bytes:
        index = position - self._base
        if index < 0 or index + 12 > len(self._buffer):
            self._buffer = self._source.read(position, _WINDOW)
            self._base = position
            index = 0
        return self._buffer[index : index + 12]

    def _stop(self, reason: str, position: int) -> None:
        if self.problem is None:
            self.problem = Problem(reason, position)

    def _parse(self, head: bytes, position: int, frame: _Frame) -> Element | None:
        """The element that begins here; ``None`` (and perhaps a problem) if there is none."""
        if len(head) < 8:
            return None
        order = self._order
        group = int.from_bytes(head[:2], order)
        tag = group << 16 | int.from_bytes(head[2:4], order)
        vr = b""
        size, raw = 8, head[4:8]
        if (group == 0xFFFE) == (frame.kind == _DATASET) and tag != _ITEM_END:
            self._stop("structure_broken", position)  # an item among elements or an element among items
        elif group != 0xFFFE and frame.explicit:
            vr = head[4:6]
            if not (vr.isalpha() and vr.isupper()):
                self._stop("structure_broken", position)
                return None
            size, raw = (12, head[8:12]) if vr in _LONG_VRS else (8, head[6:8])
        if len(head) < size or self.problem is not None:
            return None
        return Element(tag, vr.decode("ascii"), position + size, int.from_bytes(raw, order), frame.depth)

    def _fits(self, element: Element, position: int) -> bool:
        """Whether the value ends inside what is around it and inside the file."""
        if element.length == UNDEFINED:
            return True
        stop = element.offset + element.length
        if stop > self._frame.end != UNDEFINED:
            self._stop("structure_broken", position)
        elif self._inside(element) is None and not self._source.reaches(stop):
            self._stop("truncated", position)
        return self.problem is None

    def _leave(self, delimiter: Element, position: int) -> int:
        kind = self._frame.kind
        wanted = _ITEM_END if kind == _DATASET else _SEQUENCE_END
        if not self._stack or delimiter.tag != wanted:
            self._stop("structure_broken", position)
            return position
        self._frame = self._stack.pop()
        return delimiter.offset

    def _enter(self, element: Element) -> int:
        """Goes into an element that holds others, or behind one that doesn't; gives the next position."""
        inner = self._inside(element)
        if inner is None:
            return element.offset + element.length
        frame = self._frame
        depth = frame.depth + (inner != _DATASET)
        if inner == _DATASET:
            explicit = frame.explicit and self._looks_explicit(element.offset)
        else:
            explicit = frame.explicit and element.vr != "UN"  # PS3.5 section 6.2.2: implicit inside UN
        self.deepest = max(self.deepest, depth)
        if depth > MAX_DEPTH and self.deep_at is None:
            self.deep_at = element.offset
        if depth > self._max_depth:
            self._stop("nested_too_deep", element.offset)
        end = UNDEFINED if element.length == UNDEFINED else element.offset + element.length
        self._stack.append(frame)
        self._frame = _Frame(inner, end, explicit, depth)
        return element.offset

    def _inside(self, element: Element) -> int | None:
        """What stands inside an element: items, a data set, fragments, or nothing to walk."""
        frame = self._frame
        if element.tag == ITEM and (frame.kind == _ITEMS or element.length == UNDEFINED):
            return _DATASET
        if element.length == UNDEFINED:
            bulk = element.tag == PIXEL_DATA or element.vr in ("OB", "OW")
            return _FRAGMENTS if bulk else _ITEMS
        if element.vr == "SQ" or (not frame.explicit and self._is_sequence(element.tag)):
            return _ITEMS
        return None

    def _looks_explicit(self, position: int) -> bool:
        """Some writers put implicit items into explicit files; every reader copes, so do we."""
        head = self._head(position)
        if len(head) < 8 or head[:2] in (b"\xfe\xff", b"\xff\xfe"):
            return True
        return head[4:6].isalpha() and head[4:6].isupper()
