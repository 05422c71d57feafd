"""What is known of one file's header."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fiona_dagster.studies import private, siemens
from fiona_dagster.studies.multiframe import Kind
from fiona_dagster.studies.values import Value, decode, number, printed, recall, remember, vr_of

SPECIFIC_CHARACTER_SET = 0x00080005
PIXEL_REPRESENTATION = 0x00280103
Place = tuple[int, bool, int, int]
"""A header of Siemens' own: what it counts as, whether its creator is missing, offset and length."""


def _phase(data: bytes) -> dict[str, str | tuple[str, ...]]:
    text = data[:64].decode("latin-1").strip(" \0")
    return {"PhaseEncodingDirectionPositive": text} if text else {}


_VENDOR_READERS: dict[int, Callable[[bytes], dict[str, str | tuple[str, ...]]]] = {
    private.CSA_IMAGE: siemens.image_values,
    private.CSA_SERIES: siemens.protocol_values,
    private.PROTOCOL: siemens.protocol_values,
    private.PHASE_POSITIVE: _phase,
}


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """What is another one after a file was replaced or written to: inode, size, time of change (ns)."""
    return status.st_ino, status.st_size, status.st_ctime_ns


@dataclass
class InstanceHeader:
    """What is known of one file.

    Attributes:
        path: the file.
        size: its bytes.
        stamp: see :func:`stamp_of`; tells whether the file was written to since.
        transfer_syntax: as the file says it; empty without file meta.
        broken_at: byte at which the structure breaks, ends too early or gets too deep, of the inflated data
            set where it is deflated; ``None`` where it doesn't.
        media_class: Media Storage SOP Class UID (0002,0002); empty without file meta.
        damage: codes of what is wrong, none of them with a value from the file.
        big: big endian.
        elements: tag -> VR and bytes of the top level; of enhanced multi-frame objects also what their
            functional groups say, under the tags of classic objects, from the first frame.
        vendor_places: where Siemens' own headers stand in the file.
        varying: tags whose values differ between the frames of this object.
        kinds: the frames of this object that rules can tell apart; empty where there is one kind.
    """

    path: Path
    size: int = 0
    stamp: tuple[int, int, int] = field(default=(0, 0, 0), repr=False, compare=False)
    transfer_syntax: str = ""
    damage: list[str] = field(default_factory=list)
    broken_at: int | None = None
    media_class: str = ""
    big: bool = False
    elements: dict[int, tuple[str, bytes]] = field(default_factory=dict, repr=False)
    vendor_places: tuple[Place, ...] = ()
    varying: frozenset[int] = frozenset()
    kinds: tuple[Kind, ...] = field(default=(), repr=False)
    _vendor: dict[str, str | tuple[str, ...]] | None = field(default=None, repr=False)
    _object: InstanceHeader | None = field(default=None, repr=False)

    def frames(self) -> Iterator[tuple[int, InstanceHeader]]:
        """What rules judge: this header, or one for each kind of frame, with the number of its first frame.

        The number is 0 where all frames are of one kind.
        """
        if not self.kinds:
            yield 0, self
        for frame, other in self.kinds:
            one = replace(self, elements=dict(self.elements), kinds=(), _object=self)
            for tag, stored in other.items():
                if stored is None:
                    one.elements.pop(tag, None)
                else:
                    one.elements[tag] = stored
            yield frame, one

    def value(self, tag: int) -> Value | None:
        """Decoded value of an element; ``None`` if it is missing, ``EMPTY`` if it has no value."""
        found = self.elements.get(tag)
        if found is None:
            return None
        value = recall(found)
        if value is not None:
            return value
        charset = self.elements.get(SPECIFIC_CHARACTER_SET, ("CS", b""))[1]
        vr, data = found
        value = decode(self.vr(tag) if vr in ("", "UN") else vr, data, charset, big=self.big)
        remember(found, value)
        return value

    def vr(self, tag: int) -> str:
        """VR of an element that is there; the dictionary's where the file says none."""
        vr = self.elements[tag][0]
        if vr in ("", "UN"):
            signed = self.elements.get(PIXEL_REPRESENTATION, ("", b""))[1][:2].strip(b"\0") == b"\1"
            vr = vr_of(tag, self._creator(tag), signed=signed)
        return vr

    def text(self, tag: int) -> str:
        """Printed value; empty if it is missing."""
        value = self.value(tag)
        return "" if value is None else printed(value)

    @property
    def vendor(self) -> dict[str, str | tuple[str, ...]]:
        """Names of the record from Siemens' own headers (CSA, Phoenix protocol), read when asked for.

        Raises:
            OSError: the file is gone.
        """
        if self._object is not None:
            return self._object.vendor
        if self._vendor is None:
            if not self.vendor_places:
                return {}
            with self.path.open("rb") as file:
                self.learn(self.vendor_places, lambda offset, length: os.pread(file.fileno(), length, offset))
        return self._vendor or {}

    def say(self, vendor: dict[str, str | tuple[str, ...]]) -> None:
        """Says what Siemens' own headers hold, for a header without a file."""
        self._vendor = vendor

    def learn(self, places: tuple[Place, ...], read: Callable[[int, int], bytes]) -> None:
        """Reads Siemens' own headers; of several that say the same, the first counts."""
        known: dict[str, str | tuple[str, ...]] = {}
        for kind, unnamed, offset, length in places:
            data = read(offset, length)
            if unnamed and not data.startswith(b"SV10"):
                continue  # no creator, and not what a CSA header begins with
            for key, value in _VENDOR_READERS[kind](data).items():
                known.setdefault(key, value)
        self._vendor = known

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
