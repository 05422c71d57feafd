"""Objects full of planted identity, made by pydicom: every row of the table, and forgotten corners."""

from __future__ import annotations

import csv
import re
import warnings
import zlib
from importlib.resources import files
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES = "1.2.826.0.1.3680043.10.4711.1", "1.2.826.0.1.3680043.10.4711.2"
ROOT = "1.2.826.0.1.3680043.10.4711"
TEXT_VRS = frozenset(["LO", "SH", "ST", "LT", "UT", "UC", "AE", "CS"])


class Canaries:
    """Hands out values that can be found again."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}
        self.number = 0

    def value(self, vr: str, where: str) -> object:
        self.number += 1
        n = self.number
        text = f"QZCAN{n:05d}XK"
        value: object
        if vr in TEXT_VRS:
            value = text
        elif vr == "PN":
            value = text = f"QZCAN{n:05d}^GIVEN{n:05d}"
        elif vr == "UI":
            value = text = f"{ROOT}.77.{90000 + n}"
        elif vr == "UR":
            value = text = f"http://qzcan{n:05d}.example"
        elif vr == "DA":
            value = text = f"19{10 + n % 40:02d}{1 + n % 12:02d}{1 + n % 28:02d}"
        elif vr == "DT":
            value = text = f"1911{1 + n % 12:02d}{1 + n % 28:02d}{n % 24:02d}5959.{100000 + n}"
        elif vr == "TM":
            value = text = f"{n % 24:02d}5958.{200000 + n}"
        elif vr in ("DS", "IS"):
            value = text = f"{7000000 + n}"
        elif vr == "AS":
            return "077Y"
        elif vr in ("OB", "UN", "OW"):
            value = text.encode() + b"X"
        else:
            return {"US": 7, "SS": 7, "UL": 7, "SL": 7, "FD": 7.5, "FL": 7.5}.get(vr, 7)
        self.planted[where] = text
        return value


def vr_of(tag: int) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def rows() -> list[tuple[str, str]]:
    """Tag and basic action of the table, as the package ships it."""
    content = (files("fiona_dagster.deid") / "data" / "attributes.csv").read_text("utf-8")
    return [(r["tag"], r["basic"]) for r in csv.DictReader(content.splitlines())]


def image(number: int = 1, syntax: str = EXPLICIT, sop_class: str = CT) -> Dataset:
    """A small image with what research needs: kept attributes of every kind."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"{ROOT}.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, SERIES
    ds.FrameOfReferenceUID = f"{ROOT}.4"
    ds.Modality, ds.Manufacturer, ds.BodyPartExamined = "CT", "ACME", "HEAD"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Quisling^Wendelin", "ZX83015577", "19530704"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20180503", "101112", "ACC4455667"
    ds.AcquisitionDate, ds.AcquisitionTime = "20180504", "000501.250000"
    ds.SliceThickness, ds.KVP, ds.RescaleSlope, ds.RescaleIntercept = "1.5", "120", "1", "-1024"
    ds.ImagePositionPatient, ds.PixelSpacing = [1.0, 2.0, 3.0 * number], [0.5, 0.5]
    ds.DiffusionBValue = 1000.0
    ds.InstanceNumber = number
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    anatomy = Dataset()
    anatomy.CodeValue, anatomy.CodingSchemeDesignator, anatomy.CodeMeaning = "69536005", "SCT", "Head"
    ds.AnatomicRegionSequence = [anatomy]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 16, 12, 11
    ds.PixelRepresentation = 0
    ds.PixelData = bytes(range(64)) * 2
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def write(ds: Dataset, path: Path, *, preamble: bytes = bytes(128), tail: bytes = b"") -> Path:
    """Writes as some other system would, big endian and deflated included."""
    syntax = str(ds.file_meta.TransferSyntaxUID)
    little, implicit = syntax != BIG, syntax == IMPLICIT
    body = DicomBytesIO()
    body.is_little_endian, body.is_implicit_VR = little, implicit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # planted values are not valid on purpose
        pydicom.filewriter.write_dataset(body, ds)
    data = body.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(data) + packer.flush()
        data += b"\0" * (len(data) & 1)
    meta = DicomBytesIO()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = UID(f"{ROOT}.9")
    pydicom.filewriter.write_file_meta_info(meta, ds.file_meta)
    path.write_bytes(preamble + b"DICM" + meta.getvalue() + data + tail)
    return path


def planted(canaries: Canaries, syntax: str = EXPLICIT, sop_class: str = CT) -> Dataset:
    """An image with a canary at every row of the table, and in every place that people forget."""
    ds = image(1, syntax, sop_class)
    taken = {0x00080018, 0x0020000D, 0x0020000E, 0x00020003}
    for name, _ in rows():
        if (
            "x" in name
            or name == "private"
            or int(name, 16) in taken
            or name.startswith(("0000", "0004", "fffc"))
        ):
            continue
        tag = int(name, 16)
        vr = vr_of(tag)
        if vr == "SQ":
            ds[tag] = DataElement(tag, "SQ", Sequence([item(canaries, name)]))
        else:
            ds[tag] = DataElement(
                tag, vr if vr != "UN" else "LO", canaries.value(vr if vr != "UN" else "LO", name)
            )
    deep = Dataset()
    deep.ReferencedSOPClassUID, deep.ReferencedSOPInstanceUID = CT, canaries.value("UI", "deep")
    for keyword in ("PatientName", "PatientID", "StudyDescription", "OperatorsName", "InstitutionName"):
        setattr(deep, keyword, canaries.value(dictionary_VR(keyword), f"deep.{keyword}"))
    middle = Dataset()
    middle.ReferencedSeriesSequence = [deep]
    ds.StudiesContainingOtherReferencedInstancesSequence = [middle]
    private(ds, canaries)
    for group in (0x6000, 0x6002, 0x601E):
        ds.add_new((group, 0x0010), "US", 8)
        ds.add_new((group, 0x0022), "LO", canaries.value("LO", f"{group:04x}0022"))
        ds.add_new((group, 0x3000), "OW", canaries.value("OW", f"{group:04x}3000"))
        ds.add_new((group, 0x4000), "LT", canaries.value("LT", f"{group:04x}4000"))
    for group in (0x5000, 0x501E):
        ds.add_new((group, 0x2500), "LO", canaries.value("LO", f"{group:04x}2500"))
        ds.add_new((group, 0x3000), "OW", canaries.value("OW", f"{group:04x}3000"))
    ds.add_new(0xFFFCFFFC, "OB", canaries.value("OB", "padding"))
    return ds


def item(canaries: Canaries, where: str) -> Dataset:
    """An item with a name, a code meaning, text and a UID."""
    made = Dataset()
    made.PersonName = canaries.value("PN", f"{where}.PersonName")
    made.CodeMeaning = canaries.value("LO", f"{where}.CodeMeaning")
    made.TextValue = canaries.value("UT", f"{where}.TextValue")
    made.ReferencedSOPInstanceUID = canaries.value("UI", f"{where}.uid")
    return made


def private(ds: Dataset, canaries: Canaries) -> None:
    """Private elements: text, a sequence, and UN."""
    ds.add_new(0x00990010, "LO", "SOME CREATOR")
    ds.add_new(0x00991010, "PN", canaries.value("PN", "private"))
    ds.add_new(0x00991020, "SQ", Sequence([item(canaries, "private")]))
    ds.add_new(0x00991030, "UN", canaries.value("UN", "private UN"))


def survivors(canaries: Canaries, path: Path) -> dict[str, str]:
    """Canaries of eight characters or more that are anywhere in the bytes of a copy (inflated if need be)."""
    raw = path.read_bytes()
    if DEFLATED.encode() in raw[:1000]:
        raw += zlib.decompress(raw[144 + int.from_bytes(raw[140:144], "little") :], -15)
    return {where: text for where, text in canaries.planted.items() if len(text) >= 8 and _stands(text, raw)}


def _stands(text: str, raw: bytes) -> bool:
    """Whether a value is in bytes; one of digits not within a longer number, where chance puts it."""
    value = text.encode()
    return value in raw and (
        not value.isdigit() or bool(re.search(rb"(?<![0-9][0-9])" + value + rb"(?![0-9][0-9])", raw))
    )


def unknown(ds: Dataset, tag: int, value: bytes) -> None:
    """Adds an element as VR UN, even when the dictionary knows better."""
    value += b" " * (len(value) & 1)
    ds[tag] = RawDataElement(Tag(tag), "UN", len(value), value, 0, False, True)
