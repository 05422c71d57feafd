"""Copies in another transfer syntax: every value stays, pixels are what others had compressed."""

from __future__ import annotations

import errno
import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames

from fiona_dagster.errors import RefusedDicom
from fiona_dagster.transfers.coded import Coded, coded
from fiona_dagster.transfers.transcoding import transcode

EXPLICIT, IMPLICIT = str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
CHANGED = {"PixelData", "PhotometricInterpretation", "PlanarConfiguration", "LossyImageCompression"}


def image(pixels: np.ndarray[Any, Any], syntax: str = EXPLICIT) -> Dataset:
    """An image with ambiguous VRs, private elements, sequences, values of odd length."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.UID(syntax)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = uid.MRImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = uid.UID("2.25.9.1")
    made.StudyInstanceUID, made.SeriesInstanceUID = "2.25.5", "2.25.6"
    made.SpecificCharacterSet, made.PatientName, made.PatientID = "ISO_IR 100", "Müller^Zoë", "P001"
    made.SliceThickness, made.ImageComments = " 1.50", "two  blanks  "
    bits = pixels.dtype.itemsize * 8
    made.Rows, made.Columns = pixels.shape[1:3]
    made.NumberOfFrames, made.SamplesPerPixel = pixels.shape[0], pixels.shape[3] if pixels.ndim > 3 else 1
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    made.PhotometricInterpretation = "RGB" if pixels.ndim > 3 else "MONOCHROME2"
    if pixels.ndim > 3:
        made.PlanarConfiguration = 0
    vr = "SS" if made.PixelRepresentation else "US"
    made.add_new(0x00280106, vr, -5 if vr == "SS" else 5)
    table = Dataset()
    table.add_new(0x00283002, "US", [2, 0, 16])
    table.add_new(0x00283006, "OW", b"\1\0\2\0")
    made.ModalityLUTSequence = [table, Dataset()]
    made.ReferencedStudySequence = []
    block = made.private_block(0x0011, "FIONA TEST", create=True)
    block.add_new(1, "LO", "private")
    block.add_new(2, "FD", 1.5)
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def save(made: Dataset, path: Path) -> Path:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    path.write_bytes(buffer.getvalue())
    return path


def require_same(made: Path, original: Path) -> None:
    one, other = pydicom.dcmread(made), pydicom.dcmread(original)
    for element in other:
        if element.keyword in CHANGED or element.VR == "SQ":
            continue
        found = one[element.tag]
        if found.VR == "UN" or element.VR == "UN":  # private, and one side does not say its VR
            assert element.tag.is_private
            continue
        assert found.value == element.value, element.keyword
        if one.file_meta.TransferSyntaxUID == EXPLICIT:
            assert found.VR == element.VR, element.keyword
    assert [item.get("LUTData") for item in one.ModalityLUTSequence] == [b"\1\0\2\0", None]
    assert len(one.ReferencedStudySequence) == 0
    assert set(one.keys()) - set(other.keys()) <= {pydicom.tag.Tag(0x00282110)}


def pixels_of(path: Path) -> bytes:
    made = pydicom.dcmread(path)
    assert not made.file_meta.TransferSyntaxUID.is_compressed
    return bytes(made.PixelData)


def grey(dtype: str = "<i2", frames: int = 2) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (frames, 9, 11), dtype=dtype, endpoint=True)


@pytest.mark.parametrize("to", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("dtype", ["<i2", "<u2", "|u1"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless])
def test_what_is_written_in_another_way_says_the_same(
    tmp_path: Path, syntax: str, dtype: str, to: str
) -> None:
    made = image(grey(dtype), EXPLICIT if syntax == uid.RLELossless else syntax)
    expected = bytes(made.PixelData)
    if syntax == uid.RLELossless:
        made.compress(uid.RLELossless, generate_instance_uid=False)
    original = save(made, tmp_path / "original.dcm")

    transcode(original, tmp_path / "made.dcm", to)

    require_same(tmp_path / "made.dcm", original)
    assert pixels_of(tmp_path / "made.dcm") == expected + b"\0" * (len(expected) % 2)
    assert pydicom.dcmread(tmp_path / "made.dcm").file_meta.TransferSyntaxUID == to


@pytest.mark.peers
@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("dcmcjpeg", ["+e1"]),  # JPEG lossless, the commonest of archives
        ("dcmcjpeg", ["+el"]),
        ("dcmcjpls", []),
        ("dcmcrle", []),
        ("dcmconv", ["+tb"]),  # big endian
        ("dcmconv", ["+ti"]),
        ("dcmconv", ["+td"]),
    ],
)
def test_what_dcmtk_compressed_is_what_it_was(
    tmp_path: Path, dcmtk: Callable[[str], str], program: str, options: list[str]
) -> None:
    for number, pixels in enumerate((grey("<u2"), grey("|u1", 1), _colours())):
        original = save(image(pixels), tmp_path / f"{number}.dcm")
        stored, made = tmp_path / f"{number}-stored.dcm", tmp_path / f"{number}-made.dcm"
        subprocess.run([dcmtk(program), *options, str(original), str(stored)], check=True)
        assert pydicom.dcmread(stored).file_meta.TransferSyntaxUID != EXPLICIT

        transcode(stored, made, EXPLICIT)

        size = len(pixels.tobytes())
        assert pixels_of(made)[:size] == pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        assert pydicom.dcmread(made).PatientName == "Müller^Zoë"


@pytest.mark.peers
@pytest.mark.parametrize(
    ("compress", "decompress"),
    [
        ("dcmcrle", "dcmdrle"),
        ("dcmcjpeg +e1", "dcmdjpeg +cn"),
        ("dcmcjpeg +el", "dcmdjpeg +cn"),
        ("dcmcjpls", "dcmdjpls"),
    ],
)
def test_no_bit_is_another_than_where_dcmtk_decompresses(
    tmp_path: Path, dcmtk: Callable[[str], str], compress: str, decompress: str
) -> None:
    """Also those beside the stored ones: an overlay, or all there is where High Bit is not the usual one."""
    odd = grey("<u2", 3)
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "12 in 16": (odd, {"BitsStored": 12, "HighBit": 11}),
        "12 in 16, from the top": (odd, {"BitsStored": 12, "HighBit": 15}),
        "12 in 16, in the middle": (odd.astype("<i2"), {"BitsStored": 12, "HighBit": 13}),
        "signed": (grey("<i2", 3), {"BitsStored": 12, "HighBit": 11}),
        "6 in 8": (grey("|u1", 3), {"BitsStored": 6, "HighBit": 5}),
        "overlay": (odd, {"BitsStored": 12, "HighBit": 11, "overlay": True}),
        "colours": (_colours(), {}),
        "colours said to stand in planes": (_colours(), {"PlanarConfiguration": 1}),
        "other colours": (_colours(), {"PhotometricInterpretation": "YBR_FULL"}),
    }
    for name, (pixels, header) in cases.items():
        stored, made, theirs = (tmp_path / f"{name}-{kind}.dcm" for kind in ("stored", "made", "theirs"))
        native = image(pixels)
        native.PhotometricInterpretation = header.get(
            "PhotometricInterpretation", native.PhotometricInterpretation
        )
        program, *options = compress.split()
        original = save(native, tmp_path / f"{name}.dcm")
        subprocess.run([dcmtk(program), *options, str(original), str(stored)], check=True)
        compressed = pydicom.dcmread(stored)
        for keyword, value in header.items():
            if keyword == "overlay":
                compressed.add_new(0x60000010, "US", compressed.Rows)
                compressed.add_new(0x60000011, "US", compressed.Columns)
                compressed.add_new(0x60000040, "CS", "G")
                compressed.add_new(0x60000050, "SS", [1, 1])
                compressed.add_new(0x60000100, "US", 16)
                compressed.add_new(0x60000102, "US", 12)
            else:
                setattr(compressed, keyword, value)
        save(compressed, stored)
        program, *options = decompress.split()
        subprocess.run([dcmtk(program), *options, str(stored), str(theirs)], check=True)

        transcode(stored, made, EXPLICIT)

        size = len(pixels.tobytes())
        assert pixels_of(made)[:size] == pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(), name
        if "planes" not in name:  # we write colours by pixel, as JPEG has them
            assert pixels_of(made) == pixels_of(theirs), name
        ours = pydicom.dcmread(made)
        assert (ours.BitsStored, ours.HighBit) == (compressed.BitsStored, compressed.HighBit), name
        assert ours.get("PlanarConfiguration", 0) == 0


def test_a_frame_that_contradicts_its_header_is_refused(tmp_path: Path) -> None:
    """Nobody knows then what the values are: another decoder would find others."""
    values = np.random.default_rng(4).integers(-2048, 2048, (1, 9, 12)).astype("<i2")

    def stored(name: str, signed: bool, **header: int) -> Path:
        made = image(values if signed else values.astype("<u2") & 0xFFF)
        made.BitsStored, made.HighBit = 12, 11
        made.compress(uid.JPEGLSLossless, generate_instance_uid=False)
        for keyword, value in header.items():
            setattr(made, keyword, value)
        return save(made, tmp_path / name)

    sound = stored("sound.dcm", True)
    transcode(sound, tmp_path / "made.dcm", EXPLICIT)
    assert pixels_of(tmp_path / "made.dcm") == values.tobytes()
    wider = stored("wider.dcm", False, BitsStored=16, HighBit=15)
    transcode(wider, tmp_path / "wider-made.dcm", EXPLICIT)
    assert pixels_of(tmp_path / "wider-made.dcm") == (values.astype("<u2") & 0xFFF).tobytes()
    for path in (
        stored("sign.dcm", True, BitsStored=16, HighBit=15),
        stored("moved.dcm", False, HighBit=15),
    ):
        with pytest.raises(RefusedDicom, match="contradicts its header"):
            transcode(path, tmp_path / "no.dcm", EXPLICIT)
    assert not (tmp_path / "no.dcm").exists()


def test_what_stays_compressed_beside_the_pixels_is_refused(tmp_path: Path) -> None:
    made = image(grey("<u2"))
    made.compress(uid.RLELossless, generate_instance_uid=False)
    icon = image(grey("|u1", 1))
    icon.compress(uid.RLELossless, generate_instance_uid=False)
    del icon.file_meta
    made.IconImageSequence = [icon]
    original = save(made, tmp_path / "icon.dcm")
    for syntax in (EXPLICIT, IMPLICIT):
        with pytest.raises(RefusedDicom, match="beside the pixel data"):
            transcode(original, tmp_path / "made.dcm", syntax)
    assert not (tmp_path / "made.dcm").exists()


def _colours() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).integers(0, 255, (1, 8, 8, 3), dtype="u1")


@pytest.mark.peers
def test_a_lossy_object_stays_one(tmp_path: Path, dcmtk: Callable[[str], str]) -> None:
    """Decompressed it is what dcmtk makes of it, up to the rounding of a cosine transform."""
    smooth = np.tile(np.arange(0, 128, 2, dtype="u1"), (1, 64, 1))
    original = save(image(smooth), tmp_path / "original.dcm")
    lossy, reference = tmp_path / "lossy.dcm", tmp_path / "reference.dcm"
    subprocess.run([dcmtk("dcmcjpeg"), "+eb", str(original), str(lossy)], check=True)
    subprocess.run([dcmtk("dcmdjpeg"), str(lossy), str(reference)], check=True)
    without = pydicom.dcmread(lossy)
    assert without.LossyImageCompression == "01"
    del without.LossyImageCompression
    for number, path in enumerate((lossy, save(without, tmp_path / "without.dcm"))):
        transcode(path, tmp_path / f"{number}.dcm", EXPLICIT)
        made = pydicom.dcmread(tmp_path / f"{number}.dcm")
        assert made.LossyImageCompression == "01"
        theirs = pydicom.dcmread(reference).pixel_array.astype(int)
        assert np.abs(made.pixel_array.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", "|u1", "<i2"])
def test_jpeg_2000(tmp_path: Path, dtype: str) -> None:
    made = image(np.tile(grey(dtype, 1), (1, 8, 8)))
    expected = bytes(made.PixelData)
    made.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    transcode(save(made, tmp_path / "a.dcm"), tmp_path / "b.dcm", EXPLICIT)
    assert pixels_of(tmp_path / "b.dcm")[: len(expected)] == expected


def test_jpeg_2000_that_is_lossy_or_of_other_colours_is_told(tmp_path: Path) -> None:
    colours = image(np.tile(_colours(), (1, 8, 8, 1)))
    expected = bytes(colours.PixelData)
    colours.PhotometricInterpretation = "RGB"
    colours.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(colours.PixelData, number_of_frames=1))
    assert coded(frame) == Coded(8, signed=False, lossy=False, transformed=False)
    colours.PlanarConfiguration = 1  # what a header says does not change the order of the codestream
    transcode(save(colours, tmp_path / "a.dcm"), tmp_path / "b.dcm", EXPLICIT)
    assert pixels_of(tmp_path / "b.dcm") == expected
    assert "LossyImageCompression" not in pydicom.dcmread(tmp_path / "b.dcm")
    colours.PhotometricInterpretation = "YBR_RCT"
    with pytest.raises(RefusedDicom, match="contradicts its header"):  # nothing was transformed
        transcode(save(colours, tmp_path / "c.dcm"), tmp_path / "d.dcm", EXPLICIT)
    lossy = image(np.tile(grey("|u1", 1), (1, 8, 8)))
    lossy.compress(uid.JPEG2000, j2k_cr=[10], generate_instance_uid=False)
    transcode(save(lossy, tmp_path / "e.dcm"), tmp_path / "f.dcm", EXPLICIT)
    assert pydicom.dcmread(tmp_path / "f.dcm").LossyImageCompression == "01"


@settings(max_examples=40)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd8\xff\xf7"]))
def test_whatever_is_read_as_a_compressed_frame_ends(content: bytes, start: bytes) -> None:
    said = coded(start + content)
    assert said is None or said.precision >= 0


def test_what_can_not_be_done_without_loss_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    made = image(grey())
    made.compress(uid.RLELossless, generate_instance_uid=False)
    made.NumberOfFrames = 3
    wrong = save(made, tmp_path / "frames.dcm")
    made.NumberOfFrames, made.Rows = 2, 8
    size = save(made, tmp_path / "size.dcm")
    made.Rows = 9
    made.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    video = save(made, tmp_path / "video.dcm")
    for path in (wrong, size, video):
        with pytest.raises(RefusedDicom) as caught:
            transcode(path, tmp_path / "made.dcm", EXPLICIT)
        assert "Müller" not in str(caught.value)
    with pytest.raises(RefusedDicom, match="only written in"):
        transcode(size, tmp_path / "made.dcm", str(uid.RLELossless))
    assert {path.name for path in tmp_path.iterdir()} == {"frames.dcm", "size.dcm", "video.dcm"}


@settings(max_examples=40)
@given(
    arrays.arrays(st.sampled_from(["<u2", "<i2", "|u1"]), st.tuples(*[st.integers(1, 4)] * 3)),
    st.sampled_from([EXPLICIT, IMPLICIT, str(uid.RLELossless)]),
)
def test_there_and_back(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray[Any, Any], syntax: str
) -> None:
    folder = tmp_path_factory.mktemp("back")
    made = image(pixels, EXPLICIT if syntax == uid.RLELossless else syntax)
    expected = bytes(made.PixelData)
    if syntax == uid.RLELossless:
        made.compress(uid.RLELossless, generate_instance_uid=False)
    original = save(made, folder / "a.dcm")
    transcode(original, folder / "b.dcm", IMPLICIT)
    transcode(folder / "b.dcm", folder / "c.dcm", EXPLICIT)
    require_same(folder / "c.dcm", original)
    assert pixels_of(folder / "c.dcm")[: len(expected)] == expected


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), OSError),
        (MemoryError(), MemoryError),
        (OSError("broken data stream"), RefusedDicom),
    ],
)
def test_what_this_machine_does_not_give_is_not_the_objects_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: type[Exception]
) -> None:
    """A disk or memory that fails for a moment must not refuse an object for good; Pillow's error must."""
    made = image(np.zeros((1, 4, 4), "<u2"))
    made.compress(uid.RLELossless, generate_instance_uid=False)
    stored = save(made, tmp_path / "a.dcm")

    def fail(*_: object, **__: object) -> Iterator[bytes]:
        if raised:
            raise raised
        yield b""

    monkeypatch.setattr("pydicom.encaps.generate_frames", fail)
    with pytest.raises(told):
        transcode(stored, tmp_path / "b.dcm", EXPLICIT)
    assert not (tmp_path / "b.dcm").exists()
