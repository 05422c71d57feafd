"""Reads the head of a data set in stream: just enough to file the object (``filing`` says whether it can be).

Bytes are fed as they come from the network; values that are not needed are skipped without being kept,
so memory stays bounded whatever lengths an object claims. Nothing behind the last UID is looked at.
"""

from __future__ import annotations

import re
import struct
import zlib

from fiona_dagster.dicom.known_heads import MAX_VALUE, KnownHeads
from fiona_dagster.dicom.uids import encoding_of

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E

NAMES = {
    SOP_CLASS_UID: "SOPClassUID",
    SOP_INSTANCE_UID: "SOPInstanceUID",
    STUDY_INSTANCE_UID: "StudyInstanceUID",
    SERIES_INSTANCE_UID: "SeriesInstanceUID",
}
_WANTED = frozenset({*NAMES, MODALITY})

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_KNOWN_VRS = _SHORT_VRS | _LONG_VRS
_EXPLICIT, _IMPLICIT = struct.Struct("<IHHI"), struct.Struct("<II")
_SHORT_CODES, _LONG_CODES = (
    frozenset(int.from_bytes(vr, "little") for vr in vrs) for vrs in (_SHORT_VRS, _LONG_VRS)
)
"""VRs as the number that their two letters are."""
_WANTED_CODES = {(tag & 0xFFFF) << 16 | tag >> 16: tag for tag in _WANTED}
"""Tags as the number that their four bytes are in a little endian data set."""
_NUMBERS = {o: (struct.Struct(f"{o}HH"), struct.Struct(f"{o}H"), struct.Struct(f"{o}I")) for o in "<>"}
"""Tag, short and long length, by byte order."""
_VR = re.compile(rb"[A-Z][A-Z]")

MAX_ELEMENTS = 200_000
"""Elements that may stand before the UIDs, those in nested items included."""
MAX_DEPTH = 1_024
MAX_INFLATED = 16 * 1024 * 1024
"""Bytes of a deflated data set that are inflated in search of the UIDs."""
_INFLATE_STEP = 64 * 1024
_STEP = 8 * 1024
_SEQUENCE, _IN_ITEM = 0, 1


class _Malformed(Exception):
    """The structure of the data set is broken."""


class HeadReader:
    """Collects the UIDs of one data set from its first bytes.

    Args:
        transfer_syntax: UID of the syntax that the sender says it used.
        known: what the same sender's objects before this one have in common.
    """

    problem = ""
    done = False
    _inflated = _skip = _elements = 0

    def __init__(self, transfer_syntax: str, known: KnownHeads | None = None) -> None:
        encoding = encoding_of(transfer_syntax)
        plain = encoding.explicit and not encoding.big_endian and not encoding.deflated
        self._known = known if plain else None
        self.values: dict[int, bytes] = {}
        self._explicit = encoding.explicit
        self._order = ">" if encoding.big_endian else "<"
        self._two, self._short, self._long = _NUMBERS[self._order]
        self._inflater = zlib.decompressobj(-15) if encoding.deflated else None
        self._buffer = bytearray()
        self._frames: list[tuple[int, bool]] = []

    def feed(self, data: bytes | memoryview) -> bool:
        """Takes the next bytes of the data set.

        Returns:
            True when no more bytes are needed: everything was found, or the structure is broken.
        """
        if self.done:
            return True
        known, self._known = self._known, None
        if known is not None:
            return self._begin(data, known)
        return self._feed(data)

    def _begin(self, data: bytes | memoryview, known: KnownHeads) -> bool:
        values = known.find(data)
        if values is not None:
            self.values = values
            self.done = True
        elif self._feed(data) and not self.problem:
            known.learn(data, _WANTED, NAMES)
        return self.done

    def _feed(self, data: bytes | memoryview) -> bool:
        try:
            if self._inflater is None:
                self._take_front(data)
            else:
                self._inflate(data)
        except _Malformed as error:
            self._stop(str(error))
        except zlib.error:
            self._stop("deflated data set is broken")
        return self.done

    def end(self) -> None:
        """Says that the data set is over."""
        if not self.done and (self._buffer or self._skip or self._frames):
            self._stop("data set ends inside an element before the UIDs")
        self.done = True

    def _stop(self, problem: str) -> None:
        self.problem = problem
        self.done = True
        self._buffer.clear()

    def _inflate(self, data: bytes | memoryview) -> None:
        assert self._inflater is not None  # noqa: S101 - by construction
        pending: bytes | memoryview = data
        while not self.done and not self._inflater.eof:
            out = self._inflater.decompress(pending, _INFLATE_STEP)
            pending = self._inflater.unconsumed_tail
            self._inflated += len(out)
            if self._inflated > MAX_INFLATED:
                raise _Malformed("too much deflated data before the UIDs")
            self._take(out)
            if not pending and len(out) < _INFLATE_STEP:
                break

    def _take_front(self, data: bytes | memoryview) -> None:
        """Takes it in small steps: the UIDs stand at the front; what is behind them is not to be copied."""
        if len(data) <= _STEP or self._skip >= len(data):
            self._take(data)
            return
        for at in range(0, len(data), _STEP):
            if self.done:
                return
            self._take(data[at : at + _STEP])

    def _take(self, data: bytes | memoryview) -> None:
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        if not data:
            return
        buffer = self._buffer
        buffer += data
        position = 0
        while not self.done:
            if not self._frames and self._order == "<":
                position = self._plain_elements(buffer, position)
            used = self._next_element(buffer, position)
            if not used:
                break
            position += used
        self._skip = max(0, position - len(buffer))
        del buffer[:position]

    def _next_element(self, buffer: bytearray, at: int) -> int:
        """Bytes that the element at ``at`` takes; 0: more is needed, or nothing more is."""
        return 0 if self.done or at >= len(buffer) else self._element(buffer, at)

    def _plain_elements(self, buffer: bytearray, at: int) -> int:
        """Steps over what is neither wanted nor nested, at the speed that every arrival needs.

        Returns:
            Where the first element stands that :meth:`_element` must look at, maybe behind the buffer.
        """
        if self._explicit:
            at, count = self._plain_explicit(buffer, at)
        elif self._explicit is None:
            return at
        else:
            at, count = self._plain_implicit(buffer, at)
        self._elements += count - 1  # _count adds one, and says when there are too many
        self._count()
        return at

    def _plain_explicit(self, buffer: bytearray, at: int) -> tuple[int, int]:
        unpack, last, count = _EXPLICIT.unpack_from, len(buffer) - 12, 0
        while at <= last:
            tag, vr, length, long_length = unpack(buffer, at)
            if tag & 0xFFFF == 0xFFFE:
                break
            if vr in _SHORT_CODES:
                if tag in _WANTED_CODES and not self._found(tag, buffer, at + 8, length):
                    break
                at += 8 + length
            elif vr in _LONG_CODES and long_length != _UNDEFINED and tag not in _WANTED_CODES:
                at += 12 + long_length
            else:
                break
            count += 1
            if self.done:
                break
        return at, count

    def _plain_implicit(self, buffer: bytearray, at: int) -> tuple[int, int]:
        unpack, last, count = _IMPLICIT.unpack_from, len(buffer) - 8, 0
        while at <= last:
            tag, length = unpack(buffer, at)
            if tag & 0xFFFF == 0xFFFE or length == _UNDEFINED:
                break
            if tag in _WANTED_CODES and not self._found(tag, buffer, at + 8, length):
                break
            at += 8 + length
            count += 1
            if self.done:
                break
        return at, count

    def _found(self, code: int, buffer: bytearray, start: int, length: int) -> bool:
        """Keeps a wanted value that is here as a whole and no longer than it may be."""
        if length > MAX_VALUE or start + length > len(buffer):
            return False
        self._keep(_WANTED_CODES[code], bytes(buffer[start : start + length]))
        return True

    def _element(self, buffer: bytearray, at: int) -> int:
        """Bytes that the element at ``at`` takes (value included, there or not); 0: more is needed."""
        available = len(buffer) - at
        if available < 8:
            return 0
        group, element = self._two.unpack_from(buffer, at)
        tag = group << 16 | element
        if group == 0xFFFE:
            (length,) = self._long.unpack_from(buffer, at + 4)
            self._count()
            return 8 + self._delimiter(tag, length)
        if self._frames and self._frames[-1][0] == _SEQUENCE:
            raise _Malformed("sequence holds something that is no item")
        header, length, explicit = self._header(buffer, at, available)
        if not header:
            return 0
        wanted = tag in _WANTED and not self._frames
        if wanted and length > MAX_VALUE and tag != MODALITY:
            raise _Malformed(f"{NAMES[tag]} is too long")
        if wanted and length <= MAX_VALUE:
            if available < header + length:
                return 0
            self._keep(tag, bytes(buffer[at + header : at + header + length]))
        self._count()
        if length == _UNDEFINED:
            self._push(_SEQUENCE, explicit)
            return header
        return header + length

    def _header(self, buffer: bytearray, at: int, available: int) -> tuple[int, int, bool]:
        explicit = self._frames[-1][1] if self._frames else self._explicit
        if explicit is None:
            explicit = self._explicit = bytes(buffer[at + 4 : at + 6]) in _KNOWN_VRS
        if not explicit:
            return 8, self._long.unpack_from(buffer, at + 4)[0], False
        vr = bytes(buffer[at + 4 : at + 6])
        if vr in _SHORT_VRS:
            return 8, self._short.unpack_from(buffer, at + 6)[0], True
        if not _VR.fullmatch(vr):
            raise _Malformed("data set does not follow its transfer syntax")
        if available < 12:
            return 0, 0, True
        # PS3.5 6.2.2: an unknown VR of undefined length holds implicit little endian.
        return 12, self._long.unpack_from(buffer, at + 8)[0], vr != b"UN"

    def _delimiter(self, tag: int, length: int) -> int:
        kind, explicit = self._frames[-1] if self._frames else (None, False)
        if tag == _ITEM and kind == _SEQUENCE:
            if length == _UNDEFINED:
                self._push(_IN_ITEM, explicit)
                return 0
            return length
        if (tag == _ITEM_END and kind == _IN_ITEM) or (tag == _SEQUENCE_END and kind == _SEQUENCE):
            self._frames.pop()
            return length
        raise _Malformed("item or delimiter at a wrong place")

    def _push(self, kind: int, explicit: bool) -> None:
        if len(self._frames) >= MAX_DEPTH:
            raise _Malformed("sequences are nested too deeply before the UIDs")
        self._frames.append((kind, explicit))

    def _count(self) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            raise _Malformed("too many elements before the UIDs")

    def _keep(self, tag: int, value: bytes) -> None:
        before = self.values.setdefault(tag, value)
        if before != value:
            raise _Malformed(f"{NAMES.get(tag, 'Modality')} stands there twice with different values")
        self.done = self.values.keys() >= NAMES.keys()
