"""Reads files by pydicom, for the independent look: header only, silently, nothing decoded but sequences."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pydicom
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag

from fiona_dagster.deid.binary_numbers import numbers_of
from fiona_dagster.deid.elements import DEFLATED
from fiona_dagster.deid.files import from_disk, inflate
from fiona_dagster.errors import RefusedDicom, UnreadableDicom

WALK_DEPTH = 80
UNREADABLE = (UnreadableDicom, RefusedDicom)
"""What the functions here say of an object; system errors are of the disk and come through."""

# values are looked at as bytes and never validated: pydicom's complaints would quote them
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextmanager
def quiet() -> Iterator[None]:
    """Lets pydicom say nothing: warnings are dropped, errors tell nothing of what they are about.

    Raises:
        UnreadableDicom: pydicom raised something; on damaged files it may be anything, and quote values.
        OSError: the disk is in trouble.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UNREADABLE:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the system's; pydicom's own have no number
            raise UnreadableDicom("pydicom can't read it") from None


@dataclass(frozen=True)
class Found:
    """One element as pydicom reads it.

    Attributes:
        path: tags of the sequences above it.
        tag: group and element.
        vr: as written, or of the dictionary.
        value: raw bytes (empty for a sequence).
        where: offset of the value in the file, -1 when not known.
        items: number of items of a sequence, else -1.
        charset: Specific Character Set (0008,0005) that is in force.
        little: whether numbers in it are little endian.
        creator: private creator of the block of a private element, "" where none reserved it.
        data_set: tells the data set, or item, that it stands in from the others of the object.
    """

    path: tuple[int, ...]
    tag: int
    vr: str
    value: bytes
    where: int
    items: int = -1
    charset: bytes = b""
    little: bool = True
    creator: str = ""
    data_set: int = 0

    def numbers(self) -> tuple[int | float, ...] | None:
        """The numbers of a binary value; None if its VR is none of numbers, or its length does not fit."""
        return numbers_of(self.vr, self.value, self.little)


def read_header(source: Path | IO[bytes], *, force: bool = False) -> FileDataset:
    """Everything before the pixel data.

    Raises:
        UnreadableDicom: pydicom can't read it.
    """
    with quiet():
        return pydicom.dcmread(source, stop_before_pixels=True, force=force)


def bounded(source: Path) -> None:
    """Makes sure that a deflated file does not grow beyond bounds: pydicom would inflate all of it.

    Raises:
        RefusedDicom: it does.
        UnreadableDicom: damaged.
    """
    with source.open("rb") as handle:
        start = handle.read(2048)
        if any(syntax.encode() in start for syntax in DEFLATED) and start[128:132] == b"DICM":
            handle.seek(144 + int.from_bytes(start[140:144], "little"))
            inflate(handle.read())


def read_original(source: Path) -> tuple[FileDataset, list[Found]]:
    """The header of an original, and every element of it.

    Raises:
        UnreadableDicom: pydicom can't read it.
        RefusedDicom: deflated, and grows beyond bounds.
        OriginalUnavailable: the disk does not give it.
    """
    with from_disk():
        bounded(source)
        data_set = read_header(source, force=True)
        return data_set, elements(data_set)


def elements(data_set: Dataset) -> list[Found]:
    """Every element at every depth; sequences before their content.

    Raises:
        UnreadableDicom: pydicom can't read it.
    """
    with quiet():
        return list(_Walk(data_set).of(data_set, (), b""))


def raw_value(data_set: Dataset, tag: int) -> str:
    """A top-level value as text, without padding; "" when it is not there."""
    item = data_set.get_item(tag) if tag in data_set else None
    value = item.value if item is not None else b""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


class _Walk:
    """Through one object: every element, sequences before their content."""

    def __init__(self, data_set: Dataset) -> None:
        self._little = getattr(data_set, "original_encoding", (None, True))[1] is not False
        self._number = 0

    def of(self, data_set: Dataset, path: tuple[int, ...], charset: bytes) -> Iterator[Found]:
        charset = _charset(data_set) or charset
        number, self._number = self._number, self._number + 1
        creators: dict[int, str] = {}
        for key in sorted(data_set.keys()):
            tag = int(key)
            item: RawDataElement | DataElement = data_set.get_item(key)
            raw = item if isinstance(item, RawDataElement) else None
            vr = (raw.VR if raw else str(item.VR)) or _vr(tag)
            creator = creators.get(tag >> 8, "") if tag >> 16 & 1 else ""
            if vr == "SQ" or (vr == "UN" and _may_be_sequence(tag)) or (raw is None and _is_list(item.value)):
                children = _children(data_set, key) if len(path) < WALK_DEPTH else None
                if children is not None:
                    yield Found(
                        path, tag, "SQ", b"", -1, len(children), charset, self._little, creator, number
                    )
                    for child in children:
                        yield from self.of(child, (*path, tag), charset)
                    continue
            value = item.value if isinstance(item.value, bytes) else str(item.value or "").encode()
            if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                creators[tag >> 16 << 8 | tag & 0xFF] = value.decode("latin-1").strip(" \0")
            where = raw.value_tell if raw else -1
            yield Found(path, tag, vr, value, where, -1, charset, self._little, creator, number)


def _may_be_sequence(tag: int) -> bool:
    return _vr(tag) == "SQ"


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _charset(data_set: Dataset) -> bytes:
    item = data_set.get_item(0x00080005) if 0x00080005 in data_set else None
    value = item.value if item is not None else b""
    if isinstance(value, bytes):
        return value
    parts = [value] if isinstance(value, str) else list(value or [])
    return "\\".join(map(str, parts)).encode("ascii", "replace")


def _vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _children(data_set: Dataset, key: BaseTag) -> list[Dataset] | None:
    try:
        with quiet():
            value = data_set[key].value
    except UNREADABLE:
        return None  # what pydicom can't read as a sequence is searched as bytes
    return list(value) if value is not None and not isinstance(value, bytes | str) else None
