"""Every kind of input of docs/operators/reception.md: how to send it, and the files to import."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.landing.test_media import directory
from tests.making import CT, EXPLICIT, IMPLICIT, MR, data_set, element, part10

UID, OTHER = "1.2.3.100.1.1", "1.2.3.100.1.2"
J2K = "1.2.840.10008.1.2.4.90"
MPPS = "1.2.840.10008.3.1.2.3.3"
PRIVATE = "1.3.46.670589.11.0.0.12.2"
FOREIGN = "1.2.3.4.5.6.7"

SOUND = data_set(UID)


def implicit(instance: str, *, pixels: bytes = b"\1\2" * 64) -> bytes:
    """The data set of ``data_set`` in implicit VR little endian."""

    def one(tag: int, value: bytes | str) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        raw += b"\0" * (len(raw) % 2)
        return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(raw)) + raw

    elements = [
        one(0x00080016, CT),
        one(0x00080018, instance),
        one(0x00080060, "CT"),
        one(0x00100010, "Planted^Patient "),
        one(0x0020000D, "1.2.3.100"),
        one(0x0020000E, "1.2.3.100.1"),
        one(0x7FE00010, pixels),
    ]
    return b"".join(elements)


@dataclass(frozen=True)
class Object:
    """One object: its data set, and what command or file meta say of it."""

    data: bytes
    instance: str = UID
    sop_class: str = CT
    syntax: str = EXPLICIT
    pad: int = 0

    def file(self) -> bytes:
        """As a file (PS3.10)."""
        return part10(self.data, self.instance, sop_class=self.sop_class, syntax=self.syntax, pad=self.pad)


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        objects: what is sent, one after the other; the last answer counts.
        settings: receiver settings.
        files: makes the files to import in a folder, if they are not those of ``objects``.
        breaks: the association ends in the middle of the last data set.
        without_data: the command says that there is no data set.
        full: the disk is full when the last object comes.
    """

    objects: tuple[Object, ...] = ()
    settings: dict[str, int] = field(default_factory=dict)
    files: Callable[[Path], list[Path]] | None = None
    breaks: bool = False
    without_data: bool = False
    full: bool = False


def one(data: bytes, *, instance: str = UID, sop_class: str = CT, syntax: str = EXPLICIT) -> Case:
    """A row of a single object."""
    return Case((Object(data, instance, sop_class, syntax),))


def _file(content: bytes, name: str = "x") -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        (folder / name).write_bytes(content)
        return [folder / name]

    return make


def _zip(name: str, content: bytes) -> Callable[[Path], list[Path]]:
    def make(folder: Path) -> list[Path]:
        with zipfile.ZipFile(folder / "x.zip", "w") as archive:
            archive.writestr(name, content)
        return [folder / "x.zip"]

    return make


def _pipe(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe")
    return [folder / "pipe"]


FIRST = Object(SOUND)
CASES: dict[str, Case] = {
    "sound object": one(SOUND),
    "sound object, compressed (JPEG 2000)": one(SOUND, syntax=J2K),
    "sound object, implicit VR": one(implicit(UID), syntax=IMPLICIT),
    "private SOP class": one(data_set(UID, sop_class=PRIVATE), sop_class=PRIVATE),
    "the same data set again": Case((FIRST, FIRST)),
    "the same data set with other file meta information": Case((FIRST, Object(SOUND, pad=7))),
    "known SOP Instance UID, other data set": Case((FIRST, Object(data_set(UID, pixels=b"\3\4" * 64)))),
    "known SOP Instance UID, other transfer syntax": Case((FIRST, Object(SOUND, syntax=J2K))),
    "two patients in one study": Case((FIRST, Object(data_set(OTHER, name="Somebody^Else"), OTHER))),
    "cut off behind the UIDs": one(SOUND[:-40]),
    "no Study Instance UID": one(data_set(UID, study="")),
    "no Series Instance UID": one(data_set(UID, series="")),
    "no SOP Instance UID": one(data_set("")),
    "no SOP Class UID": one(data_set(UID, sop_class="")),
    "UID with letters": one(data_set(UID, study="1.2.abc")),
    "UID that is a path": one(data_set(UID, study="../../../etc")),
    "UID of 65 characters": one(data_set(UID, study="1." + "2" * 63)),
    "UID with an empty component": one(data_set(UID, series="1.2..3")),
    "one UID twice with different values": one(element(0x00080018, b"UI", OTHER) + SOUND),
    "SOP Instance UID differs from command or file meta": one(data_set(OTHER)),
    "SOP Class UID differs from command or file meta": one(data_set(UID, sop_class=MR)),
    "Affected SOP Instance UID malformed": one(SOUND, instance="../x"),
    "unreadable before the UIDs": one(b"\xff\xfe\xfd" * 400),
    "cut off before the UIDs": one(SOUND[:60]),
    "wrong transfer syntax": one(implicit(UID)),
    "no data set": Case((FIRST,), without_data=True),
    "SOP class that is no storage class": one(data_set(UID, sop_class=MPPS), sop_class=MPPS),
    "transfer syntax that nobody knows": one(SOUND, syntax=FOREIGN),
    "object larger than receiver.max_object_mb": Case(
        (Object(data_set(UID, pixels=bytes(1_500_000))),), settings={"max_object_mb": 1}
    ),
    "disk full": Case((FIRST,), full=True),
    "caller that is not allowed": Case((FIRST,), settings={"accept_unknown": 0}),
    "association breaks in the middle": Case((FIRST,), breaks=True),
    "not DICOM": Case(files=_file(b"a letter to a colleague, no DICOM at all" * 20)),
    "empty file": Case(files=_file(b"")),
    "data set without file meta information": Case(files=_file(SOUND)),
    "DICOMDIR": Case(files=_file(directory(), "DICOMDIR")),
    "ZIP with a sound object": Case(files=_zip("a/b.dcm", FIRST.file())),
    "ZIP in which nothing is DICOM": Case(files=_zip("letter.txt", b"no DICOM")),
    "pipe": Case(files=_pipe),
}
"""What comes, as the table calls it -> how it comes."""
