"""Index page, series table, records and pictures: readable, safe, from verified pixels, always the same."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, MRImageStorage, RLELossless

from fiona_dagster.config import PackageSettings
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers import assembly, looked, pictures, writing
from fiona_dagster.transfers.assembly import assemble
from fiona_dagster.transfers.layout import lay_out
from fiona_dagster.transfers.nifti import Converted
from fiona_dagster.transfers.package import PackageInfo
from fiona_dagster.transfers.pictures import glimpse, picture, png
from fiona_dagster.transfers.verify import verify_package
from fiona_dagster.transfers.zipformat import is_safe_name
from tests.deid import phantoms
from tests.site import EVENT, PARTICIPANT, PLANTED, PROJECT, Site
from tests.transfers.test_package import HEAD, KEY

GRADIENT = np.arange(64 * 48, dtype="<u2").reshape(64, 48)


def image(path: Path, pixels: Any = GRADIENT, syntax: str = ExplicitVRLittleEndian, **values: Any) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.7{len(path.name)}")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.5", "2.25.6"
    dataset.PatientID, dataset.Modality, dataset.SeriesNumber = "P001", "MR", 4
    dataset.SeriesDescription, dataset.InstanceNumber = "T1 <b>&amp", 1
    dataset.Rows, dataset.Columns = pixels.shape[:2] if pixels.ndim < 4 else pixels.shape[1:3]
    dataset.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    elif syntax != ExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        from pydicom.encaps import encapsulate

        dataset.PixelData = encapsulate([b"no codestream"])
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path


def seen(data: bytes | str) -> Any:
    """The pixels of a PNG, read by the rules of the format."""
    assert isinstance(data, bytes), data
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, position = {}, 8
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + length]
        assert struct.unpack(">I", data[position + 8 + length :][:4])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        position += 12 + length
    columns, rows, bits, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert bits == 8
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape((rows, columns, 3) if colour == 2 else (rows, columns))


def shown(path: Path) -> bytes | str:
    return picture(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_picture_shows_the_pixels(tmp_path: Path) -> None:
    grey = seen(shown(image(tmp_path / "1")))
    assert grey.shape == (64, 48)
    assert grey[0, 0] == 0
    assert grey[-1, -1] == 255
    assert (np.diff(grey.astype(int).ravel()) >= 0).all()

    inverted = seen(shown(image(tmp_path / "2", PhotometricInterpretation="MONOCHROME1")))
    assert (inverted == 255 - grey).all()
    assert (seen(shown(image(tmp_path / "3", syntax=RLELossless))) == grey).all()
    signed = seen(shown(image(tmp_path / "4", (GRADIENT.astype("<i4") - 1500).astype("<i2"))))
    assert (signed == grey).all()


def test_colours_stay_and_large_pictures_become_small(tmp_path: Path) -> None:
    colours = np.zeros((500, 700, 3), "u1")
    colours[:, 350:] = (200, 100, 50)
    pixels = seen(shown(image(tmp_path / "1", colours)))

    assert max(pixels.shape) == 140
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[0, -1].tolist() == [200, 100, 50]


def test_the_middle_frame_is_shown(tmp_path: Path) -> None:
    frames = np.zeros((5, 20, 20, 1), "<u2")
    frames[2, :10] = 900
    path = image(tmp_path / "1", frames, NumberOfFrames=5, SamplesPerPixel=1)
    assert set(seen(shown(path))[:10].ravel().tolist()) == {255}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"syntax": JPEG2000Lossless}, "compressed"),
        ({"PixelData": b"\0\0"}, "can't be decoded"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colours from a table"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 65000, "Columns": 65000}, "too large"),
    ],
)
def test_what_can_t_be_shown_is_said(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    answer = shown(image(tmp_path / "1", **changes))
    assert isinstance(answer, str)
    assert why in answer


def test_nothing_but_verified_pixels_is_shown(tmp_path: Path) -> None:
    path = image(tmp_path / "1")
    with pytest.raises(NotVerified):
        picture(path, "0" * 64)
    with pytest.raises(NotVerified):
        picture(tmp_path / "none", "0" * 64)


@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
def test_a_glimpse_shows_the_same_and_tells_what_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(looked, "CHUNK", block)
    for index, syntax in enumerate((ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless)):
        path = image(tmp_path / str(index), syntax=syntax)
        data = path.read_bytes()
        seen_now, blocks = glimpse(path)
        assert seen_now == shown(path)
        assert blocks
        for number, digest in blocks.items():
            assert hashlib.sha256(data[number * block : (number + 1) * block]).digest() == digest
    frames = np.zeros((9, 100, 100, 1), "<u2")
    path = image(tmp_path / "frames", frames, NumberOfFrames=9, SamplesPerPixel=1)
    if block == 1000:
        assert len(glimpse(path)[1]) < 30  # of 181: a header and one frame
    with pytest.raises(NotVerified):
        glimpse(tmp_path / "none")


def test_a_block_that_changes_between_two_looks_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looked, "CHUNK", 4)
    path = tmp_path / "1"
    path.write_bytes(b"abcdefgh")
    with looked.LookedAt(path) as file:
        assert file.read(8) == b"abcd"  # raw: as far as a block goes
        assert file.read() == b"efgh"
        path.write_bytes(b"abcXefgh")
        assert file.seek(-4, 2) == 4
        assert file.read(4) == b"efgh"
        file.seek(0)
        with pytest.raises(NotVerified):
            file.read(1)


def test_a_picture_of_a_large_file_is_of_the_bytes_that_are_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (assembly, writing):
        monkeypatch.setattr(module, "WHOLE", 1000)
    for module in (looked, writing):
        monkeypatch.setattr(module, "CHUNK", 500)
    path = image(tmp_path / "1.dcm")
    true = path.read_bytes()
    verified = {path.name: hashlib.sha256(true).hexdigest()}

    def pack(name: str) -> PackageInfo:
        return assemble(
            tmp_path, verified, tmp_path / name, manifest=HEAD, report={}, key=KEY, look=PackageSettings()
        )

    with zipfile.ZipFile(pack("good.zip").path) as archive:
        seen_there = shown(path)
        assert isinstance(seen_there, bytes)
        assert base64.b64encode(seen_there) in archive.read("index.html")
    assert verify_package(tmp_path / "good.zip") == []

    def other_for_a_moment(file: Path) -> tuple[bytes | str, Any]:
        file.write_bytes(true[:-1000] + bytes(1000))
        seen_then = glimpse(file)
        file.write_bytes(true)
        return seen_then

    monkeypatch.setattr(assembly, "glimpse", other_for_a_moment)
    with pytest.raises(NotVerified):
        pack("bad.zip")
    assert not list(tmp_path.glob("*bad.zip*"))


def test_documents_say_what_is_packed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is another one only while its header is read."""
    path = image(tmp_path / "1.dcm", SeriesDescription="T1")
    true = path.read_bytes()
    verified = {path.name: hashlib.sha256(true).hexdigest()}
    other = image(tmp_path / "other", SeriesDescription="Wagner").read_bytes()

    def read_then(files: Any, **given: Any) -> Any:
        path.write_bytes(other)
        laid_out = lay_out(files, **given)
        path.write_bytes(true)
        return laid_out

    monkeypatch.setattr(assembly, "lay_out", read_then)
    for deliver in (("dicom",), ("dicom", "tgz")):
        with pytest.raises(NotVerified):
            assemble(
                tmp_path, verified, tmp_path / "bad.zip", manifest=HEAD, report={}, key=KEY,
                look=PackageSettings(deliver=deliver),
            )  # fmt: skip
        assert not [each for each in tmp_path.rglob("*") if each.suffix in {".zip", ".json", ".tgz"}]


def test_documents_beside_images_alone_are_of_verified_files(tmp_path: Path) -> None:
    path = image(tmp_path / "1.dcm", SeriesDescription="T1")
    verified = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    image(path, SeriesDescription="Wagner")
    picture_of_it = tmp_path / "1.nii.gz"
    picture_of_it.write_bytes(b"nifti")
    with pytest.raises(NotVerified):
        assemble(
            tmp_path, verified, tmp_path / "bad.zip", manifest=HEAD, report={}, key=KEY,
            look=PackageSettings(deliver=("nifti",)),
            images=Converted((("sub-1/1.nii.gz", picture_of_it),), ()),
        )  # fmt: skip
    assert not list(tmp_path.glob("bad.zip*"))


@given(st.integers(1, 200), st.integers(1, 200), st.booleans())
def test_any_size_becomes_a_picture(rows: int, columns: int, colour: bool) -> None:
    frame = np.arange(rows * columns * (3 if colour else 1)).astype("u1")
    frame = frame.reshape((rows, columns, 3) if colour else (rows, columns))
    pixels = pictures._shown(frame, "RGB" if colour else "MONOCHROME2")
    assert (seen(png(pixels)) == pixels).all()
    assert max(pixels.shape[:2]) <= pictures.SIDE or min(rows, columns) < 2


def package(folder: Path, *files: Path, **more: Any) -> PackageInfo:
    verified = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return assemble(
        files[0].parent, verified, folder / "x.zip", manifest=HEAD, report={"deidentification": {}},
        key=KEY, look=PackageSettings(), **more,
    )  # fmt: skip


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    info = package(tmp_path, image(tmp_path / "in" / "1"), types={"2.25.6": ["T1", "<script>"]})
    with zipfile.ZipFile(info.path) as archive:
        page = archive.read("index.html").decode()
        table = list(csv.DictReader(io.StringIO(archive.read("series.csv").decode())))
        names = archive.namelist()
    read = _Page()
    read.feed(page)

    assert "T1 <b>&amp" in read.text
    assert "<script>" in read.text
    assert {tag for tag, _ in read.tags} & {"script", "b", "iframe", "link", "object"} == set()
    sources = [attributes["src"] or "" for _, attributes in read.tags if "src" in attributes]
    assert [source[:22] for source in sources] == ["data:image/png;base64,"]
    targets = {attributes["href"] for tag, attributes in read.tags if tag == "a"}
    assert all(any(name.startswith(target or "?") for name in names) for target in targets)
    assert "://" not in page
    [row] = table
    assert (row["instances"], row["SeriesNumber"], row["ClassifyType"]) == ("1", "4", "T1, <script>")
    record = json.loads((tmp_path / "x.zip.json").read_text())
    assert [(r["SeriesInstanceUID"], r["NumFiles"], r["ClassifyType"]) for r in record] == [
        ("2.25.6", "1", ["T1", "<script>"])
    ]
    assert verify_package(info.path, KEY.public) == []


def test_a_spreadsheet_takes_no_description_for_a_formula(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    info = package(tmp_path, image(tmp_path / "in" / "1", SeriesDescription='=HYPERLINK("x")'))
    with zipfile.ZipFile(info.path) as archive:
        [row] = csv.DictReader(io.StringIO(archive.read("series.csv").decode()))
    assert row["SeriesDescription"] == '\'=HYPERLINK("x")'


def test_the_package_of_a_site_has_pictures_and_nothing_of_the_person(site: Site) -> None:
    site.project(package={"layout": "<project>-<modality>/<participant>_<event>/s<series number>"})
    _, made = site.packaged()
    path = site.root.path / made.path
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        texts = [archive.read(name) for name in names if "/" not in name]
        rows = list(csv.DictReader(io.StringIO(archive.read("series.csv").decode())))
    texts += [Path(f"{path}{kind}").read_bytes() for kind in (".json", ".md5", ".sha256")]

    for name in names:
        if "/" in name:
            assert re.fullmatch(rf"{PROJECT}-\w+/{PARTICIPANT}_{EVENT}/s\d+/\d{{5}}\.dcm", name)
    assert len(rows) == len({name.rpartition("/")[0] for name in names if "/" in name})
    for planted in (*PLANTED, phantoms.STUDY, phantoms.STUDY[:-2]):
        assert not any(planted.encode() in text for text in (*texts, *(name.encode() for name in names)))


@given(
    st.sampled_from(["Localizer", "loc/../x", "CON", "ä", "", "a" * 200, "x_y", "-"]), st.text(max_size=80)
)
def test_layouts_give_safe_names(description: str, event: str) -> None:
    from fiona_dagster.transfers import layout

    header = phantoms_header(description)
    folder = layout._folder(
        header, "<event>/<description>_<description>/<study date>/a-<series number>/<modality>",
        {"project": "P", "participant": "", "event": event},
    )  # fmt: skip
    assert is_safe_name(f"{folder}/00001.dcm")


def phantoms_header(description: str) -> Any:
    from fiona_dagster.studies import InstanceHeader

    header = InstanceHeader(Path("x"))
    header.elements[0x0008103E] = ("LO", description.encode())
    header.elements[0x00200011] = ("IS", b"12")
    return header


@pytest.mark.parametrize(
    "layout", ["", "a//b", "<patient>", "../<event>", "<event>/x.y", "a/b/c/d/e/f", "<<event>>"]
)
def test_a_bad_layout_is_refused(layout: str) -> None:
    with pytest.raises(ValidationError):
        PackageSettings(layout=layout)


def test_series_of_one_folder_stay_apart(tmp_path: Path) -> None:
    files = [image(tmp_path / (f"{n}" * n), SeriesInstanceUID=f"2.25.6{n}") for n in (1, 2, 3)]
    laid_out = lay_out([(file.name, file) for file in files], template="<participant>")
    assert [series.folder for series in laid_out] == ["P001", "P001_s2", "P001_s3"]
