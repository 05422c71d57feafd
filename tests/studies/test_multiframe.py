"""Enhanced multi-frame objects: the keys of classic ones, and every frame judged by the rules."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fiona_dagster.studies import (
    build_series_records,
    classify,
    cover_of,
    explain,
    headers_of,
    needed_tags,
    parse_rules,
    plain,
    read_instance,
    variants_of,
)
from fiona_dagster.studies.attributes import RECORD_TAGS
from fiona_dagster.studies.contents import collect
from fiona_dagster.studies.header import InstanceHeader
from tests.studies.builders import SERIES, STUDY, dataset, save
from tests.studies.test_reader import RULES, TAGS


def item(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
    return ds


def frame(place: float, echo: float, b_value: float) -> Dataset:
    direction = item(DiffusionGradientOrientation=[1.0, 0.0, 0.0])
    return item(
        FrameContentSequence=item(TemporalPositionIndex=1 - int(place)),
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
        MRImagingModifierSequence=item(MagnetizationTransfer="OFF_RESONANCE"),
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
        MRModifierSequence=item(
            InversionRecovery="YES",
            InversionTimes=[900.0],
            Spoiling="RF",
            FlowCompensation="NONE",
            PartialFourier="YES",
            PartialFourierDirection="PHASE",
        ),
    )
    frames = [frame(0, 30.0, 0.0), frame(-3, 30.0, 1000.0)]
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
        SegmentedKSpaceTraversal="FULL",
        SteadyStatePulseSequence="NONE",
        SpectrallySelectedSuppression="FAT",
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
    "SequenceVariant": "['SK', 'MTC', 'SP', 'MP']",
    "ScanOptions": "['FS', 'PFP']",
    "SliceLocation": "-3",
    "NumberOfTemporalPositions": "2",
    "ImagesInAcquisition": "2",
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
        monkeypatch.setattr(plain, "read", lambda *_: None)
    header = read_instance(save(enhanced(shared_groups=shared_groups), tmp_path / "x", syntax), TAGS)
    record = build_series_records(collect(STUDY, [header]), RULES)[SERIES]

    assert header.damage == []
    assert {key: record.get(key) for key in CLASSIC} == CLASSIC


FRAME_RULES = """[
 {"type": "weighted", "rules": [{"tag": ["DiffusionBValue"], "operator": ">", "value": "0"}]},
 {"type": "all weighted", "check": "SeriesLevel",
  "rules": [{"tag": ["DiffusionBValue"], "operator": ">", "value": "0"}]},
 {"type": "one echo", "check": "SeriesLevel",
  "rules": [{"tag": ["EchoTime"], "operator": "==", "value": "30"}]},
 {"type": "original", "rules": [{"tag": ["0x0008", "0x0008", "0"], "value": "^ORIGINAL$"}]},
 {"type": "mixed", "rules": [{"tag": ["0x0008", "0x0008", "0"], "value": "^MIXED$"}]},
 {"type": "directed", "check": "SeriesLevel", "rules": [{"tag": ["0x0018", "0x9075"], "operator": "exist"}]}
]"""


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("careful", [False, True])
def test_rules_judge_every_frame_as_an_instance(
    tmp_path: Path, careful: bool, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if careful:
        monkeypatch.setattr(plain, "read", lambda *_: None)
    rules = parse_rules(FRAME_RULES, "rules")
    ds = enhanced(shared_groups=True)
    ds.ImageType = ["MIXED", "PRIMARY"]
    for frame_, kind in zip(ds.PerFrameFunctionalGroupsSequence, ("DERIVED", "ORIGINAL"), strict=True):
        frame_.MRImageFrameTypeSequence = Sequence([item(FrameType=[kind, "PRIMARY"])])
    del ds.PerFrameFunctionalGroupsSequence[0].MRDiffusionSequence[0].DiffusionDirectionality
    path = save(ds, tmp_path / "x", syntax)
    expected = ["weighted", "one echo", "original"]

    for tags in (needed_tags(rules.tags), None):
        header = read_instance(path, tags)
        assert classify([header], rules) == expected
        assert header.text(0x00189087) == "0.0"
        found = {each.type: (each.gave, each.instance, each.frame) for each in explain([header], rules)}
        assert found["weighted"] == (True, 1, 2)
        assert found["all weighted"] == (False, 1, 1)
        assert found["directed"] == (False, 1, 1)
        kept = variants_of([header], cover_of(rules))
        assert kept is not None
        assert len(headers_of(kept)) == 2
        assert classify(headers_of(kept), rules) == expected


def test_frames_that_rules_cannot_tell_apart_are_judged_once(tmp_path: Path) -> None:
    ds = enhanced(shared_groups=True)
    frames = [frame(-place, 30.0 + place, place % 3 * 500) for place in range(90)]
    ds.PerFrameFunctionalGroupsSequence = Sequence(frames)
    ds.NumberOfFrames, ds.PixelData = 90, b"\0" * 720
    rules = parse_rules(
        '[{"type": "hit", "rules": [{"tag": ["DiffusionBValue"], "operator": ">", "value": "0"}]}]', "x"
    )
    path = save(ds, tmp_path / "x")
    header = read_instance(path, needed_tags(rules.tags))

    assert [number for number, _ in header.frames()] == [1, 2, 3]
    assert [each.text(0x00189087) for _, each in header.frames()] == ["0.0", "500.0", "1000.0"]
    assert 0x00180081 in header.varying
    assert len(list(read_instance(path).frames())) == 90  # where nothing says what rules look at


def test_converted_objects_say_what_classic_ones_do(tmp_path: Path) -> None:
    ds = enhanced(shared_groups=False)
    ds.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = Sequence(
        [item(ScanOptions="CG", SequenceVariant="OSP")]
    )
    header = read_instance(save(ds, tmp_path / "x"), TAGS)
    record = build_series_records(collect(STUDY, [header]), RULES)[SERIES]

    assert (record["ScanOptions"], record["SequenceVariant"]) == ("CG", "OSP")


@pytest.mark.parametrize("block", [0x10, 0x14])
def test_philips_classic_elements_inside_a_frame(tmp_path: Path, block: int) -> None:
    ds = enhanced(shared_groups=True)
    for number, one in enumerate(ds.PerFrameFunctionalGroupsSequence):
        inner = Dataset()
        inner.add_new(0x20010010, "LO", "SOMEBODY ELSE")
        inner.add_new(0x20011020, "LO", "not meant")
        inner.add_new(0x20010011, "LO", "Philips Imaging DD 001")
        inner.add_new(0x20011120, "LO", ("FEEPI", "DwiSE")[number])
        one.add_new(0x20050010, "LO", "Philips MR Imaging DD 005")
        one.add_new(0x2005000F | block << 8, "SQ", [inner])
    rules = parse_rules('[{"type": "hit", "rules": [{"tag": ["SequenceType"], "value": "Dwi"}]}]', "rules")
    header = read_instance(save(ds, tmp_path / "x"), needed_tags(rules.tags))
    record = build_series_records(collect(STUDY, [header]), rules)[SERIES]

    assert (record["SequenceType"], record["ClassifyType"]) == ("FEEPI", ["hit"])
    assert "SequenceType" in record["ValuesDiffer"]


@pytest.mark.parametrize("classic", [False, True])
def test_diffusion_of_xa_software_is_in_the_record(tmp_path: Path, classic: bool) -> None:
    def said(b_value: float, way: str, *direction: float) -> Dataset:
        one = item(DiffusionBValue=b_value, DiffusionDirectionality=way)
        if direction and classic:
            one.DiffusionGradientOrientation = list(direction)
        elif direction:
            one.DiffusionGradientDirectionSequence = Sequence(
                [item(DiffusionGradientOrientation=list(direction))]
            )
        return one

    ds = enhanced(shared_groups=True)
    ds.Manufacturer = "Siemens Healthineers"
    ds.InstanceNumber = "3"
    diffusion = [said(0.0, "NONE"), said(1000.0, "DIRECTIONAL", 0.5, 0.0, -0.25)]
    if classic:
        del ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence
        ds.update(diffusion[1])
    else:
        for one, what in zip(ds.PerFrameFunctionalGroupsSequence, diffusion, strict=True):
            one.MRDiffusionSequence = Sequence([what])
    rules = parse_rules(
        '[{"type": "b", "rules": [{"tag": ["DiffusionBValue"], "operator": ">", "value": 500}]}]', "rules"
    )
    header = read_instance(save(ds, tmp_path / "x"), needed_tags(rules.tags))
    record = build_series_records(collect(STUDY, [header]), rules)[SERIES]

    found = [
        (d["B_value"], d["DiffusionDirectionality"], d["DiffusionGradientDirection"])
        for d in record["siemensDiffusionInformation"]
    ]
    assert found == [*[("0", "NONE", "")][classic:], ("1000", "DIRECTIONAL", ["0.5", "0", "-0.25"])]
    assert {d["InstanceNumber"] for d in record["siemensDiffusionInformation"]} == {"3"}
    assert record["ClassifyType"] == ["b"]


@pytest.mark.shared
def test_a_real_enhanced_siemens_object(shared: Path) -> None:
    header = read_instance(shared / "data" / "visible" / "mr_siemens_enhanced" / "6_1.dcm", TAGS)
    vendor = header.vendor
    assert (vendor["NumSlices"], vendor["PhaseEncodingDirectionPositive"]) == ("6", "1")
    names = ("ActiveCoils", "ScanningSequence", "SequenceVariant", "ScanOptions")
    said = {name: header.text(RECORD_TAGS[name]) for name in names}
    assert said == dict(zip(names, ("HE1-4", "EP", "SK", "['PFP', 'FS']"), strict=True))
    assert float(header.text(RECORD_TAGS["SliceLocation"])) == pytest.approx(-5.40339, abs=1e-5)


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
