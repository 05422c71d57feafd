"""The walker against pydicom: every element of every readable file, at every depth."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.sequence import Sequence

from fiona_dagster.dicom.uids import encoding_of
from fiona_dagster.dicom.walker import MAX_INFLATED, UNDEFINED, BytesSource, InflateSource, Walk
from fiona_dagster.studies.plain import sniff

pytestmark = pytest.mark.shared
Seen = tuple[tuple[int, ...], int, str, int, bytes]
ITEM = 0xFFFEE000
DECODED = -1
converted: set[int] = set()


def theirs(ds: Dataset, path: tuple[int, ...] = ()) -> Iterator[Seen]:
    """(path, tag, VR, length, raw value); no length and value for what holds items or fragments."""
    for tag in list(ds.keys()):
        raw: Any = ds.get_item(tag)
        number = int(tag)
        inner = isinstance(raw.value, Sequence) or raw.VR == "SQ"
        if not inner and raw.VR is None and isinstance(raw.value, bytes):
            inner = (
                pydicom.datadict.dictionary_has_tag(number) and pydicom.datadict.dictionary_VR(number) == "SQ"
            )
        if inner:
            yield path, number, "", 0, b""
            for index, item in enumerate(ds[tag].value or ()):
                yield from theirs(item, (*path, number, index))
        elif not isinstance(raw, RawDataElement):
            converted.add(number)  # pydicom decoded it when it read the file
            yield path, number, raw.VR, DECODED, b""
        elif raw.length == UNDEFINED:
            yield path, number, "", 0, b""
        else:
            yield path, number, raw.VR or "", raw.length, raw.value or b""


def ours(walk: Walk) -> Iterator[Seen]:
    """The same of a walk; items and fragments only count."""
    here: dict[int, tuple[int, ...]] = {0: ()}
    sequences: dict[int, tuple[int, ...]] = {}
    counts: dict[int, int] = {}
    for element in walk:
        depth = element.depth
        if element.tag == ITEM:
            counts[depth] += 1
            here[depth] = (*sequences[depth], counts[depth])
        elif walk._inside(element) is None:
            yield here[depth], element.tag, element.vr, element.length, walk.value(element)
        else:
            yield here[depth], element.tag, "", 0, b""
            sequences[depth + 1], counts[depth + 1] = (*here[depth], element.tag), -1


def compared(path: Path) -> tuple[int, bool] | None:
    """How many elements were compared, and whether to the end; ``None`` where pydicom can't read the file."""
    try:
        ds = pydicom.dcmread(path, force=False)
    except Exception:  # noqa: BLE001 - whatever pydicom can't read is no subject
        return None
    expected = sorted(theirs(ds))
    data = path.read_bytes()
    with io.BytesIO(data) as file:
        read_preamble(file, force=False)
        _read_file_meta_info(file)
        start = file.tell()
    encoding = encoding_of(str(ds.file_meta.get("TransferSyntaxUID", "")))
    explicit, big = not ds.original_encoding[0], not ds.original_encoding[1]
    looks = sniff(data[start : start + 8])
    if looks is not None and looks[1] == big and not encoding.deflated:
        explicit = looks[0]  # some files are written otherwise than they say; pydicom copes as well
    if encoding.deflated:
        inflated = zlib.decompress(data[start:], -zlib.MAX_WBITS)
        with path.open("rb") as opened:
            if len(inflated) > MAX_INFLATED:
                return 0, False
            streamed = Walk(InflateSource(opened, start), 0, explicit=True)
            assert [e.tag for e in streamed] == [e.tag for e in Walk(BytesSource(inflated), 0)]
            assert streamed.problem is None
        data, start = inflated, 0
    walk = Walk(BytesSource(data), start, explicit=explicit, big=big)
    found = list(ours(walk))
    if walk.problem is not None:
        assert walk.problem.position <= len(data)
        there = {each[:4] for each in expected}
        whole = [each for each in found[:-1] if each[1] not in converted]  # the last one may be cut
        assert [each for each in whole if each[:4] not in there] == []
        return len(whole), False
    found.sort()
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if other[3] == DECODED:
            assert one[:2] == other[:2]
        else:
            assert one == other, (path.name, one[:4], other[:4])
    return len(found), True


def test_every_element_of_every_readable_file(shared: Path) -> None:
    counts: dict[str, tuple[int, bool]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.settings.reading_validation_mode = config.IGNORE
        for path in sorted((shared / "data" / "visible").rglob("*")):
            if path.is_file():
                count = compared(path)
                if count is not None:
                    counts[str(path.relative_to(shared / "data" / "visible"))] = count

    stopped = {name for name, (_, whole) in counts.items() if not whole}
    assert {name for name in stopped if not name.startswith("broken/")} == {
        "pydicom_test_files/MR_truncated.dcm",
        "pydicom_test_files/dicomdirtests/DICOMDIR-nooffset",
        "pydicom_test_files/rtplan_truncated.dcm",
    }
    assert sum(count for count, _ in counts.values()) > 115_000
