"""Two ways of reading a header say the same; vendors' headers; functional groups."""

from __future__ import annotations

import struct
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fiona_dagster.studies import build_series_records, needed_tags, parse_rules, read_instance, reader
from fiona_dagster.studies.contents import collect
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.siemens import csa_values, protocol_values
from tests.studies.builders import SERIES, STUDY, dataset, save

RULES = parse_rules(
    '[{"type": "five", "rules": [{"tag": ["NumSlices"], "operator": "==", "value": "5"}]},'
    ' {"type": "long", "rules": [{"tag": ["0x0018", "0x0080"], "operator": ">", "value": "400"}]}]',
    "rules",
)
TAGS = needed_tags(RULES.tags)


def both_ways(path: Path, tags: frozenset[int] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the scan gives (with the walk behind it), and what the walk gives alone."""
    found = []
    for careful in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if careful:
                patch.setattr(reader, "_read_plain", lambda *_: False)
            header = read_instance(path, tags)
        seen = {
            key: getattr(header, key) for key in ("size", "transfer_syntax", "media_class", "damage", "big")
        }
        found.append(
            {**seen, "elements": header.elements, "vendor": header.vendor, "varying": header.varying}
        )
    return found[0], found[1]


@pytest.mark.shared
def test_scan_and_walk_say_the_same_of_every_file(shared: Path) -> None:
    plain = 0
    for path in sorted((shared / "data" / "visible").rglob("*")):
        if path.is_file():
            for tags in (TAGS, None):
                scanned, walked = both_ways(path, tags)
                assert scanned == walked, path
            plain += not scanned["damage"]
    assert plain > 500


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
        scanned, walked = both_ways(path, None if everything else TAGS)
        assert scanned == walked
        assert scanned["damage"] == []
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
        scanned, walked = both_ways(path, TAGS)
        assert scanned == walked
        assert bool(scanned["damage"]) is (cut > 0)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(132, 900), byte=st.integers(0, 255))
def test_scan_and_walk_say_the_same_of_a_changed_byte(at: int, byte: int) -> None:
    made = dataset(RequestAttributesSequence=Sequence([dataset("1.2.3")]))
    with tempfile.TemporaryDirectory() as folder:
        path = save(made, Path(folder) / "x")
        data = bytearray(path.read_bytes())
        data[at % len(data)] = byte
        path.write_bytes(data)
        scanned, walked = both_ways(path, TAGS)
        assert scanned == walked


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


# -- enhanced multi-frame objects ----------------------------------------------------------------------------


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
    return ds


def frame(place: float, echo: float, b_value: float) -> Dataset:
    direction = item(DiffusionGradientOrientation=[1.0, 0.0, 0.0])
    return item(
        MREchoSequence=item(EffectiveEchoTime=echo),
        PlanePositionSequence=item(ImagePositionPatient=[0, 0, place]),
        MRDiffusionSequence=item(
            DiffusionBValue=b_value,
            DiffusionDirectionality="DIRECTIONAL",
            DiffusionGradientDirectionSequence=direction,
        ),
    )


def enhanced(*, shared_groups: bool) -> Dataset:
    """Groups that are the same for all frames stand in the shared or in every per-frame item."""
    groups = item(
        MRTimingAndRelatedParametersSequence=item(RepetitionTime="500", FlipAngle="52"),
        PixelMeasuresSequence=item(
            SliceThickness="2.4", SpacingBetweenSlices="3", PixelSpacing=["3.5", "3.5"]
        ),
        PlaneOrientationSequence=item(ImageOrientationPatient=list("100010")),
        MRFOVGeometrySequence=item(
            InPlanePhaseEncodingDirection="COLUMN",
            MRAcquisitionFrequencyEncodingSteps=64,
            MRAcquisitionPhaseEncodingStepsInPlane=62,
        ),
        MRModifierSequence=item(InversionRecovery="YES", InversionTimes=[900.0]),
    )
    frames = [frame(0, 30.0, 0.0), frame(3, 30.0, 1000.0)]
    if not shared_groups:
        for one in frames:
            one.update(groups)
    return dataset(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
        Modality="MR",
        NumberOfFrames=2,
        PixelData=b"\0" * 16,
        PulseSequenceName="*epfid2d1_64",
        EchoPulseSequence="GRADIENT",
        EchoPlanarPulseSequence="YES",
        RequestAttributesSequence=Sequence([item(RepetitionTime=9999)]),
        SharedFunctionalGroupsSequence=Sequence([groups if shared_groups else Dataset()]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )


CLASSIC = {
    "RepetitionTime": "500",
    "EchoTime": "30",
    "FlipAngle": "52",
    "SliceThickness": "2.4",
    "SliceSpacing": "3",
    "PixelSpacing": "[3.5, 3.5]",
    "ImageOrientationPatient": "[1, 0, 0, 0, 1, 0]",
    "AcquisitionMatrix": "[64, 0, 0, 62]",
    "ScanningSequence": "['GR', 'EP', 'IR']",
    "SequenceName": "*epfid2d1_64",
    "InversionTime": "900",
    "DiffusionBValue": "0.0",
    "ClassifyType": ["long"],
    "ValuesDiffer": ["DiffusionBValue"],
}


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("shared_groups", [False, True])
def test_functional_groups_give_the_keys_of_classic_objects(
    tmp_path: Path, shared_groups: bool, careful: bool, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if careful:
        monkeypatch.setattr(reader, "_read_plain", lambda *_: False)
    header = read_instance(save(enhanced(shared_groups=shared_groups), tmp_path / "x", syntax), TAGS)
    record = build_series_records(collect(STUDY, [header]), RULES)[SERIES]

    assert header.damage == []
    assert {key: record.get(key) for key in CLASSIC} == CLASSIC


@pytest.mark.shared
def test_real_siemens_objects_classic_and_enhanced(shared: Path) -> None:
    visible = shared / "data" / "visible"
    signs = {}
    for path in sorted((visible / "mr_siemens_fmap").rglob("*00001.dcm")):
        vendor = read_instance(path, TAGS).vendor
        signs[path.name.partition("-")[0]] = vendor["PhaseEncodingDirectionPositive"]
        assert (vendor["NumSlices"], vendor["OSLevel"]) == ("5", "VE11C_LATEST_20160120")
    assert signs == {"epi_pe_ap": "1", "epi_pe_pa": "0", "epi_pe_lr": "0", "epi_pe_rl": "1"}
    vendor = read_instance(visible / "mr_siemens_enhanced" / "6_1.dcm", TAGS).vendor
    assert (vendor["NumSlices"], vendor["PhaseEncodingDirectionPositive"]) == ("6", "1")


@pytest.mark.shared
def test_every_functional_group_reads_as_pydicom_reads_it(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "data" / "visible" / "mr_siemens_enhanced").rglob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = pydicom.dcmread(path)
        header: InstanceHeader = read_instance(path, TAGS)
        shared_item, first = ds.SharedFunctionalGroupsSequence[0], ds.PerFrameFunctionalGroupsSequence[0]
        timing, measures = (
            next(g[keyword][0] for g in (shared_item, first) if keyword in g)
            for keyword in ("MRTimingAndRelatedParametersSequence", "PixelMeasuresSequence")
        )
        assert header.text(0x00180080) == str(timing.RepetitionTime)
        assert header.text(0x00180050) == str(measures.SliceThickness)
        assert float(header.text(0x00180081)) == first.MREchoSequence[0].EffectiveEchoTime
        assert header.text(0x00200037) == str(first.PlaneOrientationSequence[0].ImageOrientationPatient)
        compared += 1
    assert compared == 4
