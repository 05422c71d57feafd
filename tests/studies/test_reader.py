"""All ways of reading a header say the same; vendors' headers; functional groups."""

from __future__ import annotations

import random
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fiona_dagster.dicom.layouts import Followed, Layouts
from fiona_dagster.dicom.scan import Scanned
from fiona_dagster.studies import (
    build_series_records,
    needed_tags,
    parse_rules,
    plain,
    read_instance,
)
from fiona_dagster.studies.contents import collect
from fiona_dagster.studies.siemens import csa_values, protocol_values
from tests.studies.builders import SERIES, STUDY, dataset, save

RULES = parse_rules(
    '[{"type": "five", "rules": [{"tag": ["NumSlices"], "operator": "==", "value": "5"}]},'
    ' {"type": "long", "rules": [{"tag": ["0x0018", "0x0080"], "operator": ">", "value": "400"}]}]',
    "rules",
)
TAGS = needed_tags(RULES.tags)


Seen = dict[str, Any]


def seen(path: Path, tags: frozenset[int] | None) -> Seen:
    """All that reading a file gives."""
    header = read_instance(path, tags)
    named = (
        "size",
        "transfer_syntax",
        "media_class",
        "damage",
        "big",
        "elements",
        "vendor",
        "varying",
        "kinds",
    )
    return {key: getattr(header, key) for key in named}


def walked(path: Path, tags: frozenset[int] | None) -> Seen:
    """What the walk gives alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "read", lambda *_: None)
        return seen(path, tags)


def scanned(path: Path, tags: frozenset[int] | None) -> Seen:
    """What the scan gives (with the walk behind it), as for the first file of a series."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layouts, "follow", lambda _, read, data, base, at, *__: nowhere(data, base, at))
        return seen(path, tags)


def nowhere(data: bytes, base: int, at: int) -> Followed:
    return Followed(data, base, at, [], {}, Scanned(None, 0), whole=False)


class Counted:
    """Counts files that were followed for some way, and those that were to their end."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.some = self.whole = 0
        plain.forget()
        follow = Layouts.follow

        def counting(*args: Any) -> Followed:
            found = follow(*args)
            self.some += found.base + found.at > args[4]
            self.whole += found.whole
            return found

        patch.setattr(Layouts, "follow", counting)


@pytest.mark.shared
def test_scan_and_walk_say_the_same_of_every_file(shared: Path) -> None:
    sound = 0
    for path in sorted((shared / "data" / "visible").rglob("*")):
        if path.is_file():
            for tags in (TAGS, None):
                found = walked(path, tags)
                assert scanned(path, tags) == found, path
            sound += not found["damage"]
    assert sound > 500


@pytest.mark.shared
def test_known_layouts_say_the_same_of_every_file(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [path for path in sorted((shared / "data" / "visible").rglob("*")) if path.is_file()]
    files = [path for path in files if path.parent.name != "broken"]
    expected = {path: walked(path, TAGS) for path in files}
    counted = Counted(monkeypatch)
    for _ in range(4):  # whatever was learned from one file stands ready for the next
        counted.whole = 0
        for path in files:
            assert seen(path, TAGS) == expected[path], path

    assert counted.whole > 300  # the others are compressed, or no plain files


@pytest.mark.shared
def test_layouts_are_learned_and_used_by_several_threads(shared: Path) -> None:
    files = [
        path
        for folder in ("mr_siemens_fmap", "ct_ge_tilt", "mr_uih_dti", "mr_philips_fmri")
        for path in sorted((shared / "data" / "visible" / folder).rglob("*"))
        if path.is_file()
    ]
    expected = {path: walked(path, TAGS) for path in files}
    plain.forget()
    shuffled = random.Random(4).sample(files * 8, len(files) * 8)
    with ThreadPoolExecutor(4) as pool:
        for path, found in zip(shuffled, pool.map(lambda path: seen(path, TAGS), shuffled), strict=True):
            assert found == expected[path]


@st.composite
def nested(draw: st.DrawFn, depth: int = 0) -> Dataset:
    ds = Dataset()
    for keyword, values in (
        ("RepetitionTime", st.sampled_from(["500", "2000.5", ""])),
        ("SeriesDescription", st.text("abc ", max_size=12)),
        ("MRAcquisitionPhaseEncodingStepsInPlane", st.integers(0, 65535)),
    ):
        if draw(st.booleans()):
            setattr(ds, keyword, draw(values))
    for keyword in (
        "ReferencedStudySequence",
        "MRTimingAndRelatedParametersSequence",
        "RequestAttributesSequence",
    ):
        if depth < 3 and draw(st.booleans()):
            setattr(ds, keyword, Sequence(draw(st.lists(nested(depth + 1), max_size=2))))
            ds[keyword].is_undefined_length = draw(st.booleans())
            for item in ds[keyword].value:
                item.is_undefined_length_sequence_item = draw(st.booleans())
    return ds


LAST = 56
"""Bytes of the last element, the shorter of both encodings: a file that ends just before it is whole."""


@settings(max_examples=60, deadline=None)
@given(ds=nested(), implicit=st.booleans(), cut=st.integers(0, LAST - 1), everything=st.booleans())
def test_scan_and_walk_say_the_same_of_what_pydicom_writes(
    ds: Dataset, implicit: bool, cut: int, everything: bool
) -> None:
    made = dataset()
    made.update(ds)
    with tempfile.TemporaryDirectory() as folder:
        path = save(made, Path(folder) / "x", ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
        tags = None if everything else TAGS
        found = walked(path, tags)
        assert scanned(path, tags) == found
        assert found["damage"] == []
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
        found = walked(path, TAGS)
        assert scanned(path, TAGS) == found
        assert bool(found["damage"]) is (cut > 0)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(132, 900), byte=st.integers(0, 255))
def test_scan_and_walk_say_the_same_of_a_changed_byte(at: int, byte: int) -> None:
    made = dataset(RequestAttributesSequence=Sequence([dataset("1.2.3")]))
    with tempfile.TemporaryDirectory() as folder:
        path = save(made, Path(folder) / "x")
        data = bytearray(path.read_bytes())
        data[at % len(data)] = byte
        path.write_bytes(data)
        assert scanned(path, TAGS) == walked(path, TAGS)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), implicit=st.booleans(), structure=nested())
def test_known_layouts_say_the_same_of_a_series(
    data: st.DataObject, implicit: bool, structure: Dataset
) -> None:
    """Files of one series with values of any length, private creators that move, a cut and a changed byte."""
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        for number in range(1, 9):
            made = dataset(f"{SERIES}.{10 ** data.draw(st.integers(0, 3))}", InstanceNumber=str(number))
            made.update(structure)
            made.SeriesDescription = data.draw(st.sampled_from(["", "ab", "a longer one"]))
            made.add_new(0x00190010, "LO", data.draw(st.sampled_from(["GEMS_ACQU_01", "SOMEBODY ELSE"])))
            made.add_new(0x0019109C, "LO", "research/muxepi")
            path = save(made, Path(folder) / str(number), syntax)
            if number == 7:
                path.write_bytes(path.read_bytes()[: -data.draw(st.integers(1, 40))])
            elif number == 8:
                content = bytearray(path.read_bytes())
                content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
                path.write_bytes(content)
            assert seen(path, TAGS) == walked(path, TAGS)
        assert counted.some > 0


def test_an_element_that_stands_twice_counts_as_pydicom_counts_it(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    content = path.read_bytes()
    at = content.index(b"\x10\0\x20\0LO")
    again = b"\x10\0\x20\0LO\x06\0PID-2 "
    path.write_bytes(content[: at + 14] + again + content[at + 14 :])

    assert pydicom.dcmread(path).PatientID == "PID-2"
    for found in (seen(path, TAGS), scanned(path, TAGS), walked(path, TAGS)):
        assert found["elements"][0x00100020] == ("LO", b"PID-2 ")


# -- Siemens -----------------------------------------------------------------------------------------------

PROTOCOL = (
    '<XProtocol> "### ASCCONV BEGIN object=MrProtDataImpl ###\nulVersion = 5\n'
    "sGroupArray.asGroup[0].nSize = 5\n"
    'sProtConsistencyInfo.tBaselineString\t = \t""N4_VE11C_LATEST""\nsWipMemBlock.tFree = "a-uuid"\n'
    "SequenceID = 77\nNotSequenceID.SequenceID = 3\n### ASCCONV END ###"
)


def csa(values: dict[str, list[str]], *, old: bool) -> bytes:
    """A CSA header; of the older layout its lengths count from the first element's number of items."""
    items_of = 6
    out = b"" if old else b"SV10\4\3\2\1"
    out += struct.pack("<II", len(values), 77)
    for name, texts in values.items():
        out += name.encode().ljust(64, b"\0") + struct.pack(
            "<I4sIII", len(texts), b"LO\0\0", 0, items_of, 205
        )
        for text in texts + [""] * (items_of - len(texts)):
            data = text.encode() + b"\0" if text else b""
            first = len(data) + items_of if old else len(data)
            out += struct.pack("<4I", first, len(data), 77, len(data)) + data + b"\0" * (-len(data) % 4)
    return out


IMAGE = {
    "EchoLinePosition": ["36"],
    "B_value": ["1000"],
    "Text about B_value": ["B_value"],
    "DiffusionDirectionality": ["DIRECTIONAL"],
    "DiffusionGradientDirection": ["0.5", "-0.25", "1"],
    "PhaseEncodingDirectionPositive": ["0"],
    "Empty": [],
}


@pytest.mark.parametrize("old", [False, True])
def test_csa_values_of_both_layouts(old: bool) -> None:
    data = csa(IMAGE, old=old)

    assert {name: csa_values(data, name) for name in IMAGE} == IMAGE
    assert csa_values(data, "value") == []


@given(st.binary(max_size=400), st.sampled_from([b"", b"SV10\4\3\2\1"]))
def test_any_bytes_as_csa_do_no_harm(noise: bytes, start: bytes) -> None:
    name = b"B_value".ljust(64, b"\0")
    assert isinstance(csa_values(start + noise + name + noise, "B_value"), list)
    assert protocol_values(start + noise) == {}


def siemens(sop: str, number: int, block: int, creator: str, *, old: bool = False) -> Dataset:
    ds = dataset(sop, Manufacturer="SIEMENS", InstanceNumber=str(number))
    base = 0x00290000 | block << 8
    ds.add_new(0x00290000 | block, "LO", creator)
    ds.add_new(base | 0x10, "OB", csa(IMAGE, old=old))
    ds.add_new(base | 0x20, "OB", csa({"MrPhoenixProtocol": [PROTOCOL]}, old=old))
    return ds


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("block", [0x10, 0x11, 0x37])
def test_the_record_has_what_siemens_headers_say(tmp_path: Path, block: int, old: bool) -> None:
    headers = [
        read_instance(
            save(siemens(f"{SERIES}.{n}", n, block, "SIEMENS CSA HEADER", old=old), tmp_path / str(n)), TAGS
        )
        for n in (2, 1)
    ]
    record = build_series_records(collect(STUDY, headers), RULES)[SERIES]

    expected = {
        "NumSlices": "5",
        "MeasID": "77",
        "siemensUUID": "a-uuid",
        "OSLevel": "VE11C_LATEST",
        "PhaseEncodingDirectionPositive": "0",
        "ClassifyType": ["five"],
    }
    assert {key: record.get(key) for key in expected} == expected
    assert record["siemensDiffusionInformation"] == [
        {
            "B_value": "1000",
            "SOPInstanceUID": f"{SERIES}.{n}",
            "InstanceNumber": str(n),
            "DiffusionDirectionality": "DIRECTIONAL",
            "DiffusionGradientDirection": ["0.5", "-0.25", "1"],
        }
        for n in (1, 2)
    ]


def test_another_creator_s_element_is_no_csa_header(tmp_path: Path) -> None:
    path = save(siemens(SERIES + ".1", 1, 0x10, "SOMEBODY ELSE"), tmp_path / "x")

    assert read_instance(path, TAGS).vendor == {}


# -- private elements by their creator -----------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("everything", [False, True])
def test_private_values_are_found_in_any_block(tmp_path: Path, syntax: str, everything: bool) -> None:
    ds = dataset()
    for tag, vr, value in (
        (0x00190010, "LO", "SOMEBODY ELSE"),
        (0x0019109C, "LO", "not meant"),
        (0x00190042, "LO", "GEMS_ACQU_01"),
        (0x0019429C, "LO", "research/muxepi"),
        (0x0019425A, "FL", 2.5),
        (0x20010012, "LO", "Philips Imaging DD 001"),
        (0x20011220, "LO", "FEEPI"),
        (0x00510010, "LO", "SOMEBODY ELSE"),
        (0x0051100F, "LO", "not meant"),
    ):
        ds.add_new(tag, vr, value)
    header = read_instance(save(ds, tmp_path / "x", syntax), None if everything else TAGS)
    record = build_series_records(collect(STUDY, [header]), RULES)[SERIES]

    assert record["PulseSequenceName"] == "research/muxepi"
    assert record["Private0019_105a"] == "2.5"
    assert record["SequenceType"] == "FEEPI"
    assert "ActiveCoils" not in record


@pytest.mark.shared
def test_real_classic_siemens_objects(shared: Path) -> None:
    visible = shared / "data" / "visible"
    signs = {}
    for path in sorted((visible / "mr_siemens_fmap").rglob("*00001.dcm")):
        vendor = read_instance(path, TAGS).vendor
        signs[path.name.partition("-")[0]] = vendor["PhaseEncodingDirectionPositive"]
        assert (vendor["NumSlices"], vendor["OSLevel"]) == ("5", "VE11C_LATEST_20160120")
    assert signs == {"epi_pe_ap": "1", "epi_pe_pa": "0", "epi_pe_lr": "0", "epi_pe_rl": "1"}
