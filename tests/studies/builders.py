"""Small DICOM files for the tests of this package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from fiona_dagster.config import DataRoot
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.reader import read_instance

STUDY = "1.2.826.0.1.3680043.10.1"
SERIES = STUDY + ".1"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


def dataset(sop: str = SERIES + ".1", **values: Any) -> Dataset:
    """A tiny CT image; ``values`` are DICOM keywords, None removes one."""
    ds = Dataset()
    ds.SOPClassUID = CT_STORAGE
    ds.SOPInstanceUID = sop
    ds.StudyInstanceUID = STUDY
    ds.SeriesInstanceUID = SERIES
    ds.Modality = "CT"
    ds.PatientID = "PID-1"
    ds.PatientName = "Muster^Erika"
    ds.PatientBirthDate = "19700101"
    ds.StudyDate, ds.StudyTime = "20260102", "030405"
    ds.Rows = ds.Columns = 2
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = b"\1\2\3\4\5\6\7\10"
    for keyword, value in values.items():
        if value is None:
            delattr(ds, keyword)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Writes a data set with file meta."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT_STORAGE)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(path, enforce_file_format=True)
    return path


def archive(root: DataRoot, ds: Dataset) -> Path:
    """Files a data set as reception does."""
    name = f"{ds.get('Modality') or 'OT'}.{ds.SOPInstanceUID}"
    return save(ds, root.archive / f"scp_{STUDY}" / name)


def header(tmp_path: Path, sop: str = SERIES + ".1", **values: Any) -> InstanceHeader:
    """Writes and reads one file."""
    return read_instance(save(dataset(sop, **values), tmp_path / sop))


def vanilla_header(**elements: tuple[int, str, bytes]) -> InstanceHeader:
    """A header without a file: name -> (tag, VR, bytes)."""
    made = InstanceHeader(Path("none"))
    for tag, vr, data in elements.values():
        made.elements[tag] = (vr, data)
    return made
