"""Pixel data keep every pixel and nothing else: comments, EXIF, bytes after the image, embedded overlays."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import (
    encapsulate,
    encapsulate_extended,
    generate_fragments,
    generate_frames,
    parse_basic_offsets,
)

from fiona_dagster.deid import verify_outputs
from fiona_dagster.deid.codestreams import Layout, NotUnderstood, deflated, jpeg, jpeg_2000, rle
from tests.deid import phantoms
from tests.deid.conftest import Make
from tests.deid.phantoms import BIG, DEFLATED, EXPLICIT, IMPLICIT

JPEG, LOSSLESS, JPEG_LS, J2K, RLE = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)
SECRET = b"Quisling^Wendelin ZX83015577"


def segment(marker: int, payload: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(payload) + 2).to_bytes(2, "big") + payload


SCAN = b"\x12\xff\x00\x34\xff\xd0\x56\x78"
FRAME = segment(0xC0, b"\x08\x00\x08\x00\x08\x01\x01\x11\x00")
SCANNED = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + SCAN
JFIF = segment(0xE0, b"JFIF\0\x01\x02\x00\x00\x01\x00\x01\x00\x00")
ADOBE = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01")
CLEAN_JPEG = b"\xff\xd8" + JFIF + ADOBE + FRAME + SCANNED + b"\xff\xd9"


def dirty_jpeg(tail: bytes = SECRET) -> bytes:
    notes = segment(0xFE, SECRET) + segment(0xE1, b"Exif\0\0" + SECRET) + segment(0xED, b"Photoshop" + SECRET)
    return b"\xff\xd8" + JFIF + notes + ADOBE + FRAME + SCANNED + segment(0xFE, SECRET) + b"\xff\xd9" + tail


def codestream(comment: bytes = SECRET, tail: bytes = SECRET, size_told: bool = True) -> bytes:
    def marker(code: int, payload: bytes) -> bytes:
        return code.to_bytes(2, "big") + (len(payload) + 2).to_bytes(2, "big") + payload

    note = marker(0xFF64, b"\0\1" + comment)
    header = (
        b"\xff\x4f" + marker(0xFF51, bytes(38)) + marker(0xFF52, bytes(10)) + note + marker(0xFF5C, bytes(5))
    )
    tile = note + b"\xff\x93" + b"\x01\x02\xff\x64\x03"  # a comment marker's code within the data is data
    length = 12 + len(tile) if size_told else 0
    return header + marker(0xFF90, bytes(2) + length.to_bytes(4, "big") + b"\0\1") + tile + b"\xff\xd9" + tail


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def jp2() -> bytes:
    return (
        box(b"jP  ", b"\r\n\x87\n")
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", box(b"ihdr", bytes(14)) + box(b"xml ", SECRET))
        + box(b"uuid", bytes(16) + SECRET)
        + box(b"xml ", SECRET)
        + box(b"jp2c", codestream())
    )


def compressed(images: list[bytes], syntax: str, fragments_per_frame: int = 1) -> pydicom.Dataset:
    ds = phantoms.image(syntax=syntax)
    ds.NumberOfFrames = len(images)
    even = [image + b"\0" * (len(image) & 1) for image in images]
    ds.PixelData = encapsulate(even, fragments_per_frame=fragments_per_frame)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


@pytest.fixture
def through(
    make: Make, tmp_path: Path, out: Path
) -> Callable[[pydicom.Dataset], tuple[pydicom.Dataset, bytes, str]]:
    """De-identifies an object; the copy, its bytes, and the kind for which it would be held."""

    def run(ds: pydicom.Dataset) -> tuple[pydicom.Dataset, bytes, str]:
        source = phantoms.write(ds, tmp_path / "in.dcm")
        report = make().file(source, out)
        assert verify_outputs([source], out, make()).passed
        return pydicom.dcmread(out / report.name), (out / report.name).read_bytes(), report.held

    return run


Through = Callable[[pydicom.Dataset], tuple[pydicom.Dataset, bytes, str]]


@pytest.mark.parametrize(
    ("syntax", "image"),
    [
        (JPEG, dirty_jpeg()),
        (LOSSLESS, dirty_jpeg()),
        (JPEG_LS, dirty_jpeg().replace(SCAN, b"\x12\xff\x7f\x34")),
        (J2K, codestream()),
        (J2K, codestream(size_told=False, tail=b"")),
        (J2K, jp2()),
    ],
)
def test_comments_and_metadata_of_compressed_images_go(through: Through, syntax: str, image: bytes) -> None:
    copy, raw, held = through(compressed([image, image], syntax))

    assert b"Quisling" not in raw
    assert b"ZX83015577" not in raw
    assert held == ""
    for found in generate_fragments(copy.PixelData[8 + 8 :]):
        assert len(found) == len(image) + (len(image) & 1)  # nothing moved


def test_what_a_decoder_needs_stays_byte_for_byte(through: Through) -> None:
    colours = segment(0xE8, b"mrfx\x02")
    ls = b"\xff\xd8" + colours + segment(0xF7, bytes(9)) + segment(0xF8, bytes(11)) + SCANNED + b"\xff\xd9"
    filled = CLEAN_JPEG.replace(b"\xff\xd9", b"\xff\xff\xff\xd9").replace(b"\xff\xc0", b"\xff\xff\xc0")
    images = ((JPEG, CLEAN_JPEG), (JPEG, filled), (JPEG_LS, ls), (J2K, codestream(b"", b"")))
    for syntax, image in images:
        ds = compressed([image, image], syntax)
        copy, _, held = through(ds)
        assert copy.PixelData == ds.PixelData
        assert held == ""


def test_offset_tables_stay_right_or_go(through: Through) -> None:
    images = [dirty_jpeg(), CLEAN_JPEG, dirty_jpeg(b"")]
    copy, _, _ = through(compressed(images, JPEG))
    even = [len(image) + (len(image) & 1) + 8 for image in images]
    assert parse_basic_offsets(copy.PixelData) == [0, even[0], even[0] + even[1]]

    ds = compressed(images, JPEG)
    ds.PixelData = ds.PixelData[:8] + b"QUISLINGSAGE" + ds.PixelData[20:]  # text in place of the offsets
    copy, raw, _ = through(ds)
    assert b"QUISLING" not in raw
    assert parse_basic_offsets(copy.PixelData) == []


@pytest.mark.parametrize("table", [b"QUISLINGSAGE", None])
def test_a_table_of_images_that_cant_be_told_apart_names_fragments_or_goes(
    through: Through, table: bytes | None
) -> None:
    """Also what a delimiter says behind them."""
    whole = compressed([CLEAN_JPEG, CLEAN_JPEG], JPEG)
    right = whole.PixelData[8:16]
    ds = compressed([CLEAN_JPEG, CLEAN_JPEG], JPEG)
    ds.NumberOfFrames = 3
    if table is not None:
        ds.PixelData = ds.PixelData[:4] + len(table).to_bytes(4, "little") + table + ds.PixelData[16:]

    copy, raw, held = through(ds)

    assert held == "unchecked pixels"
    assert b"QUISLING" not in raw
    assert (
        copy.PixelData == whole.PixelData
        if table is None
        else whole.PixelData.replace(
            bytes.fromhex("feff00e008000000") + right, bytes.fromhex("feff00e000000000")
        )
    )


@pytest.mark.parametrize("right", [True, False])
def test_extended_offset_tables_stay_only_when_they_are_right(through: Through, right: bool) -> None:
    images = [dirty_jpeg() + b"\0" * (len(dirty_jpeg()) & 1)] * 2
    ds = compressed(images, JPEG)
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(images)
    if not right:
        ds.ExtendedOffsetTable = b"QUISLING" + ds.ExtendedOffsetTable[8:]

    copy, raw, _ = through(ds)

    assert b"QUISLING" not in raw.upper()
    assert ("ExtendedOffsetTable" in copy) is right
    assert ("ExtendedOffsetTableLengths" in copy) is right


def test_an_image_in_several_fragments_is_looked_at_as_one(through: Through) -> None:
    image = dirty_jpeg()
    image += b"\0" * (len(image) & 1)
    at = image.index(b"Wendelin") // 2 * 2
    ds = compressed([image], JPEG, fragments_per_frame=1)
    parts = [image[:at], image[at:]]
    items = b"".join(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in parts)
    ds.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + items + b"\xfe\xff\xdd\xe0\0\0\0\0"

    copy, raw, held = through(ds)

    assert b"delin" not in raw
    assert held == ""
    assert [len(part) for part in generate_fragments(copy.PixelData[8:])] == [len(part) for part in parts]


def packed(plane: bytes) -> bytes:
    """One RLE segment of literal runs."""
    return b"".join(
        bytes((len(plane[n : n + 128]) - 1,)) + plane[n : n + 128] for n in range(0, len(plane), 128)
    )


def test_rle_keeps_the_runs_and_loses_what_stands_beside_them(through: Through) -> None:
    pixels = bytes(range(64)) * 2
    planes = [packed(pixels[1::2]) + b"Quis", packed(pixels[::2]) + b"Quisling"]
    offsets = [64, 64 + len(planes[0])]
    header = b"".join(n.to_bytes(4, "little") for n in (2, *offsets)) + SECRET
    ds = compressed([header.ljust(64, b"\0") + b"".join(planes)], RLE)
    ds.BitsStored, ds.HighBit = 16, 15

    copy, raw, held = through(ds)

    assert b"Quis" not in raw
    assert held == ""
    assert copy.pixel_array.astype("<u2").tobytes() == pixels


def test_deflated_frames_lose_what_stands_after_the_stream(through: Through) -> None:
    packer = zlib.compressobj(wbits=-15)
    ds = compressed(
        [packer.compress(bytes(range(64)) * 2) + packer.flush() + SECRET], "1.2.840.10008.1.2.8.1"
    )

    copy, raw, held = through(ds)

    assert b"Quisling" not in raw
    assert held == ""
    assert (
        zlib.decompressobj(-15).decompress(next(generate_frames(copy.PixelData, number_of_frames=1)))
        == bytes(range(64)) * 2
    )


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_native_pixel_data_end_with_the_image(through: Through, syntax: str) -> None:
    ds = phantoms.image(syntax=syntax)
    pixels = ds.PixelData
    ds.PixelData = pixels + SECRET

    copy, raw, held = through(ds)

    assert copy.PixelData == pixels
    assert b"Quisling" not in raw
    assert held == ""


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_an_odd_image_is_padded_with_zero(through: Through, vr: str) -> None:
    ds = phantoms.image()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 3, 3, 8, 8, 7
    for padding in (b"Q", b""):
        ds.PixelData = bytes(range(9)) + padding
        ds["PixelData"].VR = vr

        copy, _, _ = through(ds)

        assert copy.PixelData == bytes(range(9)) + b"\0"


@pytest.mark.parametrize(
    ("interpretation", "given_", "kept"),
    [("YBR_FULL_422", 128, 128), ("YBR_FULL_422", 150, 128), ("YBR_FULL_422", 200, 192), ("RGB", 200, 192)],
)
def test_halved_chrominance_is_counted_as_it_is_stored(
    through: Through, interpretation: str, given_: int, kept: int
) -> None:
    ds = phantoms.image()
    ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 3, 8, 8, 7
    ds.PhotometricInterpretation, ds.PlanarConfiguration = interpretation, 0
    ds.PixelData = bytes(n % 251 for n in range(given_))

    copy, _, _ = through(ds)

    assert copy["PixelData"].value == bytes(n % 251 for n in range(kept))


def test_an_image_that_is_too_short_is_said_and_not_cut(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.PixelData = ds.PixelData[:-10]
    source = phantoms.write(ds, tmp_path / "in.dcm")

    report = make().file(source, out)

    assert report.actions["pixel data shorter than the image"] == 1
    assert pydicom.dcmread(out / report.name)["PixelData"].value == ds.PixelData


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
@pytest.mark.parametrize("signed", [0, 1])
def test_an_overlay_in_unused_bits_goes_and_the_pixels_stay(
    through: Through, syntax: str, signed: int
) -> None:
    ds = phantoms.image(syntax=syntax)
    order = ">" if syntax == BIG else "<"
    values = np.arange(-32 if signed else 0, 32 if signed else 64, dtype=np.int32).reshape(8, 8) * 60
    overlay = np.tile(np.array([0, 1], np.uint16), 32).reshape(8, 8) << 13
    ds.PixelRepresentation = signed
    ds.PixelData = ((values & 0xFFF).astype(np.uint16) | overlay).astype(f"{order}u2").tobytes()
    for tag, vr, value in (
        (0x60000010, "US", 8),
        (0x60000011, "US", 8),
        (0x60000022, "LO", "by Quisling"),
        (0x60000040, "CS", "G"),
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 16),
        (0x60000102, "US", 13),
    ):
        ds.add_new(tag, vr, value)

    copy, raw, held = through(ds)

    left = np.frombuffer(copy.PixelData, f"{order}{'i' if signed else 'u'}2").reshape(8, 8)
    assert (left == values).all()  # also for a reader that knows no mask
    assert not [e for e in copy if e.tag.group == 0x6000]
    assert b"Quisling" not in raw
    assert held == ""


def test_an_overlay_that_cant_be_taken_out_holds_the_object(through: Through) -> None:
    ds = compressed([CLEAN_JPEG], JPEG)
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)

    assert through(ds)[2] == "unchecked pixels"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"syntax": "1.2.840.10008.1.2.4.103"}, "video"),
        ({"syntax": "1.2.840.10008.1.2.4.100.1"}, "video"),
        ({"syntax": "1.2.840.10008.1.2.4.110"}, "unchecked pixels"),
        ({"image": b"\xff\xd8 no image"}, "unchecked pixels"),
        ({"class": "1.2.840.10008.5.1.4.1.1.77.1.4"}, "photograph"),
        (
            {"class": "1.2.840.10008.5.1.4.1.1.77.1.6", "ImageType": ["ORIGINAL", "PRIMARY", "LABEL"]},
            "photograph",
        ),
        ({"class": "1.2.840.10008.5.1.4.1.1.77.1.6", "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME"]}, ""),
        ({"BurnedInAnnotation": "yes "}, "burned-in annotation"),
        ({"BurnedInAnnotation": "UNKNOWN"}, "burned-in annotation"),
        ({"BurnedInAnnotation": "no"}, ""),
        ({"BurnedInAnnotation": ""}, ""),
        ({}, ""),
    ],
)
def test_what_cant_be_cleaned_is_held_by_kind(through: Through, change: dict[str, Any], kind: str) -> None:
    ds = compressed([change.pop("image", CLEAN_JPEG)], str(change.pop("syntax", JPEG)))
    ds.SOPClassUID = change.pop("class", phantoms.CT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in change.items():
            setattr(ds, keyword, value)

    assert through(ds)[2] == kind


def test_two_images_in_one_fragment_are_not_touched(through: Through) -> None:
    ds = compressed([CLEAN_JPEG + CLEAN_JPEG], JPEG)
    ds.NumberOfFrames = 2

    copy, _, held = through(ds)

    assert copy.PixelData == ds.PixelData
    assert held == "unchecked pixels"


def test_a_kind_that_is_allowed_hides_no_other(make: Make, tmp_path: Path, out: Path) -> None:
    ds = compressed([b"\0\0\0\1"], "1.2.840.10008.1.2.4.103")
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    source = phantoms.write(ds, tmp_path / "in.dcm")
    deidentifier = make()
    deidentifier.project = deidentifier.project.model_copy(update={"allow_kinds": ("ultrasound",)})

    assert deidentifier.file(source, out).held == "video"


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (b"\xff\xd9", b"\xff\xd9Quisling", "bytes in the compressed image that are no picture"),
        (
            segment(0xFE, bytes(8)),
            segment(0xFE, b"Quisling"),
            "bytes in the compressed image that are no picture",
        ),
        (FRAME, segment(0xC0, b"\x08\x00\x08\x00\x08\x01\x01\x11\x00Quisling"), "residual search: name"),
        (b"\xff\xd8", b"Quisling\xff\xd8", "residual search: name"),
    ],
)
def test_the_search_looks_at_what_is_no_picture(
    make: Make, tmp_path: Path, out: Path, old: bytes, new: bytes, rule: str
) -> None:
    image = b"\xff\xd8" + segment(0xFE, bytes(8)) + FRAME + SCANNED + b"\xff\xd9"
    source = phantoms.write(compressed([image], JPEG), tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    ds = pydicom.dcmread(copy)
    image = image.replace(old, new, 1)
    ds.PixelData = encapsulate([image + b"\0" * (len(image) & 1)])
    ds.save_as(copy)

    assert rule in {finding.rule for finding in verify_outputs([source], out, make()).findings}


def test_the_search_finds_native_data_that_are_too_long(make: Make, tmp_path: Path, out: Path) -> None:
    source = phantoms.write(phantoms.image(), tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    ds = pydicom.dcmread(copy)
    ds.PixelData = ds.PixelData + b"by chance "
    ds.save_as(copy)

    assert ("end of file", "bytes after the image") in {
        (finding.tag, finding.rule) for finding in verify_outputs([source], out, make()).findings
    }


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG])
@pytest.mark.parametrize("signed", [0, 1])
def test_the_search_finds_an_overlay_that_was_left(
    make: Make, tmp_path: Path, out: Path, syntax: str, signed: int
) -> None:
    ds = phantoms.image(syntax=syntax)
    order = ">" if syntax == BIG else "<"
    ds.PixelRepresentation = signed
    overlay = np.full(64, 0x2001, np.uint16).astype(f"{order}u2").tobytes()
    ds.PixelData = overlay
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 13)
    source = phantoms.write(ds, tmp_path / "in.dcm")
    copy = out / make().file(source, out).name
    assert verify_outputs([source], out, make()).passed
    raw = copy.read_bytes()
    copy.write_bytes(raw[: -len(overlay)] + overlay)

    assert "an overlay in bits that the pixels don't use" in {
        finding.rule for finding in verify_outputs([source], out, make()).findings
    }


PARSERS: list[Callable[[bytes], Layout]] = [
    jpeg,
    lambda image: jpeg(image, True),
    jpeg_2000,
    lambda image: rle(image, 64),
    lambda image: deflated(image, 64),
]


@given(
    st.sampled_from([dirty_jpeg(), codestream(), jp2(), packed(bytes(64)).rjust(130, b"\1")]),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=6),
    st.sampled_from(PARSERS),
)
def test_damaged_images_are_understood_or_not_but_break_nothing(
    image: bytes, damage: list[tuple[int, bytes]], parse: Callable[[bytes], Layout]
) -> None:
    for at, new in damage:
        image = image[:at] + new + image[at + len(new) :]
    try:
        layout = parse(image)
    except (NotUnderstood, IndexError):
        return
    assert all(
        0 <= start <= end <= len(image) for start, end in layout.foreign + layout.idle + layout.headers
    )


def _real(shared: Path, syntax: str, note: bytes) -> pydicom.Dataset:
    folder = shared / "data" / "visible" / "transfer_syntaxes_ct"
    ds = pydicom.dcmread(next(folder.glob(f"*_{syntax}.dcm")))
    image = next(generate_fragments(ds.PixelData[8 + int.from_bytes(ds.PixelData[4:8], "little") :]))
    at = 2 if image[:2] == b"\xff\xd8" else image.index(b"\xff\x52")
    image = image[:at] + note + image[at:]
    ds.PixelData = encapsulate([image + b"\0" * (len(image) & 1)])
    return ds


@pytest.mark.shared
@pytest.mark.peers
@pytest.mark.parametrize(
    ("syntax", "decoder"),
    [
        ("1.2.840.10008.1.2.4.50", "dcmdjpeg"),
        ("1.2.840.10008.1.2.4.51", "dcmdjpeg"),
        ("1.2.840.10008.1.2.4.57", "dcmdjpeg"),
        ("1.2.840.10008.1.2.4.70", "dcmdjpeg"),
        ("1.2.840.10008.1.2.4.80", "dcmdjpls"),
        ("1.2.840.10008.1.2.4.81", "dcmdjpls"),
    ],
)
def test_real_decoders_give_the_same_pixels(
    make: Make,
    tmp_path: Path,
    out: Path,
    shared: Path,
    dcmtk: Callable[[str], str],
    syntax: str,
    decoder: str,
) -> None:
    more = segment(0xE1, b"Exif\0\0Oblomov") if decoder == "dcmdjpeg" else b""  # CharLS takes no APP1
    ds = _real(shared, syntax, segment(0xFE, b"for Oblomov^Ilja") + more)
    source = tmp_path / "in.dcm"
    ds.save_as(source)

    report = make().file(source, out)

    assert b"Oblomov" not in (out / report.name).read_bytes()
    assert report.held == ""
    plain = []
    for number, path in enumerate((source, out / report.name)):
        subprocess.run([dcmtk(decoder), path, tmp_path / f"{number}.dcm"], check=True, capture_output=True)
        plain.append(pydicom.dcmread(tmp_path / f"{number}.dcm").PixelData)
    assert plain[0] == plain[1]
    assert len(plain[0]) > 100000


@pytest.mark.shared
@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5"]
)
def test_real_wavelets_and_runs_stay_byte_for_byte(
    make: Make, out: Path, shared: Path, tmp_path: Path, syntax: str
) -> None:
    note = b"" if syntax == RLE else b"\xff\x64\x00\x0b\0\1Oblomov"
    folder = shared / "data" / "visible" / "transfer_syntaxes_ct"
    before = (
        pydicom.dcmread(next(folder.glob(f"*_{syntax}.dcm"))) if not note else _real(shared, syntax, note)
    )
    source = tmp_path / "in.dcm"
    before.save_as(source)

    report = make().file(source, out)

    after = pydicom.dcmread(out / report.name).PixelData
    zeros = bytes(len(b"Oblomov"))
    # comments of the encoder (in its main header) go as well
    start = before.PixelData.index(b"\xff\x93") if note else 0
    assert after[start:] == before.PixelData[start:]
    assert b"Oblomov" not in after
    assert (zeros in after[:start]) is bool(note)
    assert report.held == ""


WATCHED = """
import pathlib, sys, threading, numpy
from fiona_dagster.deid import *

def own_memory():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

def watch():
    while not stop.wait(0.002):
        peak.append(own_memory())

d = Deidentifier(basic_profile_only("P"), ProjectKey("P", bytes(32)), Assignment("P", "S", "E"))
peak, stop = [own_memory()], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
d.file(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
stop.set()
watcher.join()
print(max(peak) - peak[0])
"""


def test_large_pixel_data_with_an_overlay_are_streamed(make: Make, tmp_path: Path, out: Path) -> None:
    ds = phantoms.image()
    ds.Rows = ds.Columns = 8192
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)
    ds.PixelData = b""
    small = phantoms.write(ds, tmp_path / "small.dcm").read_bytes()
    source = tmp_path / "in.dcm"
    with source.open("wb") as handle:
        handle.write(small[:-4] + (1 << 27).to_bytes(4, "little"))
        for _ in range(128):
            handle.write(b"\x01\x10" * (1 << 19))

    done = subprocess.run(
        [sys.executable, "-c", WATCHED, source, out], capture_output=True, text=True, check=True
    )

    assert int(done.stdout) < 32 << 10  # KiB of memory of its own, for 128 MiB
    copy = next(out.iterdir())
    with copy.open("rb") as handle:
        handle.seek(-(1 << 20), io.SEEK_END)
        assert handle.read() == b"\x01\x00" * (1 << 19)
