"""Reading one file: what is kept, what is damage, and that nothing gets out of hand."""

from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from fiona_dagster.dicom.walker import MAX_DEPTH, BytesSource, Walk
from fiona_dagster.studies import read_instance
from tests.studies.builders import SERIES, STUDY, dataset, header, save


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_every_encoding_gives_the_same_header(tmp_path: Path, syntax: str) -> None:
    ds = dataset(ImageType=["ORIGINAL", "PRIMARY"], AcquisitionMatrix=[0, 256, 256, 0])
    ds.ReferencedImageSequence = DicomSequence([Dataset(), Dataset()])
    ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    ds.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    ds.add_new(0x0019109C, "LO", "research/muxepi")
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = b"\0" * 8

    found = read_instance(save(ds, tmp_path / "x", syntax))

    assert found.damage == []
    assert (found.study, found.series, found.sop_instance) == (STUDY, SERIES, SERIES + ".1")
    assert found.transfer_syntax == syntax
    assert found.text(0x00080008) == "['ORIGINAL', 'PRIMARY']"
    assert found.text(0x00181310) == "[0, 256, 256, 0]"
    assert found.text(0x0019109C) == "research/muxepi"
    assert found.value(0x00081140) is not None
    assert found.value(0x00189999) is None


def test_character_sets_are_decoded(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"

    found = header(tmp_path, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)

    assert found.text(0x00100010) == name


def test_an_unknown_character_set_does_no_harm(tmp_path: Path) -> None:
    path = save(dataset(SpecificCharacterSet="ISO_IR 100", PatientName="Jérôme"), tmp_path / "x")
    path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"NO_SUCHSET"))

    found = read_instance(path)

    assert found.damage == []
    assert found.text(0x00100010) == "Jérôme"


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    path.write_bytes(path.read_bytes()[132:])

    assert read_instance(path).sop_instance == SERIES + ".1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"<html>503</html>", "not_dicom"),
        (b"\0" * 200, "not_dicom"),
        (b"\0" * 128 + b"DICM", "truncated"),
        (b"\0" * 128 + b"DICM\x02", "truncated"),
    ],
)
def test_what_is_no_dicom_says_so(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)

    assert read_instance(path).damage == [reason]


def test_a_missing_file_a_folder_and_a_pipe_are_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        assert read_instance(path).damage == ["unreadable"]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    whole = path.read_bytes()
    cut = tmp_path / "cut"
    elements = list(Walk(BytesSource(whole), 132))
    shape_known = next(e.offset + e.length for e in elements if e.tag == 0x00280100)
    silent = []

    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        if not read_instance(cut).damage:
            silent.append(length)

    # Between two elements, and before the file says that it is an image, a cut leaves a sound data set.
    assert set(silent) <= {e.offset + e.length for e in elements if e.offset + e.length < shape_known}


def test_cut_pixels_have_a_reason_of_their_own(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    path.write_bytes(path.read_bytes()[:-2])

    assert read_instance(path).damage == ["truncated_pixel_data"]


def test_where_it_is_broken_is_told(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    whole = path.read_bytes()
    at = whole.index(b"\x28\0\x10\0US")
    found = {}
    for name, content in (
        ("sound", whole),
        ("cut", whole[: at + 9]),
        ("garbled", whole[:at] + b"\x28\0\x10\0??" + whole[at + 6 :]),
    ):
        path.write_bytes(content)
        header = read_instance(path)
        found[name] = (header.damage, header.broken_at)

    assert found == {
        "sound": ([], None),
        "cut": (["truncated"], at),
        "garbled": (["structure_broken"], at),
    }


def test_a_pixel_length_of_4_gib_costs_nothing(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    data = path.read_bytes()
    at = data.rindex(b"\xe0\x7f\x10\x00OW\0\0") + 8
    path.write_bytes(data[:at] + b"\xf0\xff\xff\xff" + data[at + 4 :])

    assert read_instance(path).damage == ["truncated_pixel_data"]


def test_too_few_or_no_pixels_are_noticed(tmp_path: Path) -> None:
    assert header(tmp_path, "1.2.1", PixelData=b"\0\0").damage == ["pixel_data_short"]
    assert header(tmp_path, "1.2.2", PixelData=None).damage == ["pixel_data_missing"]
    assert header(tmp_path, "1.2.3", NumberOfFrames=2).damage == ["pixel_data_short"]
    assert header(tmp_path, "1.2.4", PixelData=b"\0" * 10).damage == []


def test_fragments_of_compressed_pixels_are_walked(tmp_path: Path) -> None:
    ds = dataset()
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0abcd"
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    path = save(ds, tmp_path / "x", RLELossless)
    assert read_instance(path).damage == []

    path.write_bytes(path.read_bytes()[:-10])
    assert read_instance(path).damage == ["truncated_pixel_data"]


def test_a_lying_transfer_syntax_is_noticed_and_the_header_still_read(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0", 1))

    found = read_instance(path)

    assert found.damage == ["transfer_syntax_lies"]
    assert found.study == STUDY


def test_an_unknown_transfer_syntax_is_noticed(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9\0\0\0", 1))

    assert read_instance(path).damage == ["transfer_syntax_unknown"]


def test_file_meta_that_contradicts_is_noticed(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x")
    at = path.read_bytes().index(b"\x02\x00\x03\x00UI")
    data = bytearray(path.read_bytes())
    data[at + 8] = ord("9")
    path.write_bytes(data)

    assert read_instance(path).damage == ["meta_disagrees"]


def nested(depth: int, *, defined: bool) -> bytes:
    """ReferencedStudySequence in itself, explicit little endian."""
    inner = b""
    if not defined:
        opened = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return opened * depth + (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * depth
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
        inner = b"\x08\x00\x10\x11SQ\0\0" + struct.pack("<I", len(item)) + item
    return inner


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize(
    ("depth", "damage"), [(MAX_DEPTH, []), (MAX_DEPTH + 1, ["nested_too_deep"]), (5000, ["nested_too_deep"])]
)
def test_nesting_is_measured_without_recursion(
    tmp_path: Path, depth: int, damage: list[str], defined: bool
) -> None:
    path = save(dataset(), tmp_path / "x")
    data = path.read_bytes()
    at = data.index(b"\x10\x00\x10\x00PN")
    path.write_bytes(data[:at] + nested(depth, defined=defined) + data[at:])

    found = read_instance(path)

    assert found.damage == damage
    assert found.series == SERIES
    level = 20 if damage else 0  # heads of a sequence and of its item; the sequence's own 12 at the last
    assert found.broken_at == (at + level * MAX_DEPTH + 12 if damage else None)


def test_a_nesting_that_eats_the_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "x"
    opened = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(save(dataset(), tmp_path / "y").read_bytes()[:400] + opened * 100_000)

    assert "nested_too_deep" in read_instance(path).damage or "structure_broken" in read_instance(path).damage


def test_a_deflate_bomb_stays_small(tmp_path: Path) -> None:
    import resource

    path = save(dataset(PixelData=b"\0" * 8), tmp_path / "x", DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    at = data.index(b"1.2.840.10008.1.2.1.99") + len(b"1.2.840.10008.1.2.1.99")
    meta_end = data.index(b"\x02\x00\x10\x00UI") + 8 + 22
    assert meta_end == at
    rest = data[data.rindex(b"\x02\x00", 0, len(data)) :]
    plain = zlib.decompressobj(-15)
    start = 132 + 12 + struct.unpack("<I", data[140:144])[0]
    inner = plain.decompress(data[start:])
    pixels = inner.rindex(b"\xe0\x7f\x10\x00")
    big = 300 * 2**20
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    out = bomb.compress(inner[:pixels] + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", big))
    for _ in range(big // 2**20):
        out += bomb.compress(b"\0" * 2**20)
    path.write_bytes(data[:start] + out + bomb.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    began = time.process_time()
    found = read_instance(path)

    assert rest
    assert found.damage == ["inflated_too_large"]
    assert found.broken_at is not None
    assert found.series == SERIES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
    assert time.process_time() - began < 10


def test_a_broken_deflate_stream_is_noticed(tmp_path: Path) -> None:
    path = save(dataset(), tmp_path / "x", DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()

    path.write_bytes(whole[:-20])
    assert "deflate_broken" in read_instance(path).damage
    path.write_bytes(whole[:-60] + b"\xff" * 60)
    assert read_instance(path).damage != []


def test_long_sequences_of_deflated_files_are_read(tmp_path: Path) -> None:
    ds = dataset()
    ds.ReferencedImageSequence = DicomSequence([Dataset() for _ in range(20_000)])
    for item in ds.ReferencedImageSequence:
        item.ReferencedSOPInstanceUID = "1.2.3.4.5.6.7.8.9.10"

    found = read_instance(save(ds, tmp_path / "x", DeflatedExplicitVRLittleEndian))

    assert found.damage == []
    assert found.series == SERIES


def test_only_wanted_elements_and_their_creators_are_kept(tmp_path: Path) -> None:
    ds = dataset(StationName="S")
    ds.add_new(0x00190010, "LO", "GEMS_ACQU_01")
    ds.add_new(0x0019109C, "LO", "x")
    path = save(ds, tmp_path / "x")

    assert 0x00081010 in read_instance(path).elements
    kept = read_instance(path, {0x0019109C}).elements
    assert 0x00081010 not in kept
    assert {0x00190010, 0x0019109C, 0x00100020} <= set(kept)


def test_long_values_exist_but_are_not_kept(tmp_path: Path) -> None:
    found = header(tmp_path, ImageComments="x" * 9000)
    assert len(found.text(0x00204000)) == 9000

    ds = dataset()
    ds.add_new(0x00291020, "OB", b"x" * 100_000)
    large = read_instance(save(ds, tmp_path / "large"))
    assert large.value(0x00291020) == ()


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_any_bytes_anywhere_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    path = save(dataset(), folder / "x")
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])

    found = read_instance(path)

    assert isinstance(found.damage, list)
    for tag in found.elements:
        found.text(tag)
