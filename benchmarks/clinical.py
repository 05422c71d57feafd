"""Objects as scanners send them, for what depends on attributes: CT slices and one enhanced MR object.

Made from a seed, with the VRs of the dictionary: some 130 attributes at the top level, 180 in all, nested
sequences, private blocks, values that change from slice to slice. No value is taken from a real file.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.10.1513.5"
CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4.1"

_ONCE: dict[str, object] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
    "InstanceCreationDate": "20240611",
    "StudyDate": "20240611",
    "SeriesDate": "20240611",
    "AcquisitionDate": "20240611",
    "ContentDate": "20240611",
    "StudyTime": "101530.125000",
    "SeriesTime": "102211.500000",
    "AccessionNumber": "AC77341209",
    "Modality": "CT",
    "Manufacturer": "SIEMENS",
    "InstitutionName": "Benchmark General Hospital",
    "InstitutionAddress": "Long Street 7, Sometown",
    "ReferringPhysicianName": "Referrer^Rita^^Dr",
    "StationName": "CTAWP73511",
    "StudyDescription": "Thorax^ROUTINE (Adult)",
    "SeriesDescription": "Thorax 1.0 Br40 S3",
    "InstitutionalDepartmentName": "Radiology",
    "PhysiciansOfRecord": "Record^Rudolf",
    "PerformingPhysicianName": "Performer^Paula",
    "NameOfPhysiciansReadingStudy": "Reader^Ronja",
    "OperatorsName": "Operator^Olaf",
    "AdmittingDiagnosesDescription": "Cough",
    "ManufacturerModelName": "SOMATOM Definition Flash",
    "PatientName": "Benchmarkson^Berta^Beate",
    "PatientID": "BM20240611X",
    "IssuerOfPatientID": "BGH",
    "PatientBirthDate": "19530917",
    "PatientSex": "F",
    "OtherPatientIDs": "OBM4471902",
    "PatientAge": "070Y",
    "PatientSize": "1.68",
    "PatientWeight": "71",
    "PatientAddress": "Short Street 1, Othertown",
    "MedicalAlerts": "None known",
    "PregnancyStatus": 4,
    "PatientComments": "prefers mornings",
    "ContrastBolusAgent": "Ultravist 370",
    "BodyPartExamined": "CHEST",
    "SliceThickness": "1",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "DeviceSerialNumber": "73511",
    "SoftwareVersions": "syngo CT 2012B",
    "ProtocolName": "ThoraxRoutine",
    "ContrastBolusRoute": "IV",
    "ContrastBolusVolume": "90",
    "ReconstructionDiameter": "360",
    "DistanceSourceToDetector": "1085.6",
    "DistanceSourceToPatient": "595",
    "GantryDetectorTilt": "0",
    "TableHeight": "158",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "FilterType": "FLAT",
    "GeneratorPower": "40",
    "FocalSpots": "1.2",
    "DateOfLastCalibration": "20240611",
    "TimeOfLastCalibration": "060102.000000",
    "ConvolutionKernel": ["Br40d", "3"],
    "PatientPosition": "HFS",
    "SingleCollimationWidth": 0.6,
    "TotalCollimationWidth": 38.4,
    "TableSpeed": 46.0,
    "TableFeedPerRotation": 23.0,
    "SpiralPitchFactor": 0.6,
    "EstimatedDoseSaving": 30.0,
    "StudyID": "1",
    "SeriesNumber": "3",
    "AcquisitionNumber": "2",
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PositionReferenceIndicator": "",
    "ImageComments": "reformatted",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 512,
    "Columns": 512,
    "PixelSpacing": ["0.703125", "0.703125"],
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "WindowCenter": ["50", "-600"],
    "WindowWidth": ["350", "1200"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"],
    "LossyImageCompression": "00",
    "RequestingPhysician": "Requester^Rolf",
    "RequestingService": "Ward 3",
    "RequestedProcedureDescription": "CT Thorax",
    "CurrentPatientLocation": "Ward 3, bed 2",
    "PerformedProcedureStepStartDate": "20240611",
    "PerformedProcedureStepStartTime": "101530.125000",
    "PerformedProcedureStepEndDate": "20240611",
    "PerformedProcedureStepEndTime": "103000.000000",
    "PerformedProcedureStepID": "PPS4471",
    "PerformedProcedureStepDescription": "Thorax^ROUTINE (Adult)",
    "CommentsOnThePerformedProcedureStep": "went well",
    "RequestAttributesComment": None,
    "RequestedProcedureID": "RP4471",
    "AdmissionID": "ADM99120",
    "ScheduledProcedureStepDescription": None,
}


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def _reference(sop_class: str, uid: str) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, uid
    return made


def _request() -> Dataset:
    made = Dataset()
    made.AccessionNumber, made.RequestedProcedureID, made.ScheduledProcedureStepID = (
        "AC77341209",
        "RP4471",
        "1",
    )
    made.ScheduledProcedureStepDescription = "CT Thorax"
    made.ScheduledProtocolCodeSequence = [_code("CTTHX", "99BGH", "CT Thorax")]
    made.ReferencedStudySequence = [_reference("1.2.840.10008.3.1.2.3.1", f"{ROOT}.1")]
    return made


def _shared(data_set: Dataset, chance: random.Random) -> None:
    for keyword, value in _ONCE.items():
        if value is not None:
            setattr(data_set, keyword, value)
    data_set.ReferencedStudySequence = [_reference("1.2.840.10008.3.1.2.3.1", f"{ROOT}.1")]
    data_set.ReferencedPerformedProcedureStepSequence = [
        _reference("1.2.840.10008.3.1.2.3.3", f"{ROOT}.11.{chance.randrange(10**9)}")
    ]
    data_set.ProcedureCodeSequence = [_code("CTTHX", "99BGH", "CT Thorax")]
    data_set.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    data_set.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [
        _code("51440002", "SCT", "Bilateral")
    ]
    data_set.RequestAttributesSequence = [_request()]
    data_set.CTDIPhantomTypeCodeSequence = [_code("113691", "DCM", "IEC Body Dosimetry Phantom")]
    data_set.RequestedProcedureCodeSequence = [_code("CTTHX", "99BGH", "CT Thorax")]
    data_set.PerformedProtocolCodeSequence = [_code("CTTHX", "99BGH", "CT Thorax")]
    for group, creator, elements in ((0x0019, "SIEMENS CT VA0  COAD", 12), (0x0021, "SIEMENS MED", 8)):
        block = data_set.private_block(group, creator, create=True)
        for number in range(elements):
            block.add_new(0x10 + number, "DS", f"{chance.random():.5f}")
    block = data_set.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "SOM 5")
    block.add_new(0x10, "OB", chance.randbytes(8192))


def _of_slice(data_set: Dataset, number: int, chance: random.Random) -> None:
    seconds = f"{number * 0.05 + 10:09.6f}"
    data_set.InstanceCreationTime = f"1030{seconds}"
    data_set.AcquisitionTime, data_set.ContentTime = f"1022{seconds}", f"1024{seconds}"
    data_set.SOPClassUID, data_set.SOPInstanceUID = CT, f"{ROOT}.3.{20240611102211}.{number}"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.2"
    data_set.FrameOfReferenceUID = f"{ROOT}.4"
    data_set.InstanceNumber, data_set.SliceLocation = str(number), f"{-700 + number:.1f}"
    data_set.ImagePositionPatient = ["-180", "-338", f"{-700 + number:.1f}"]
    data_set.XRayTubeCurrent, data_set.Exposure = (
        str(chance.randrange(90, 300)),
        str(chance.randrange(60, 190)),
    )
    data_set.SmallestImagePixelValue, data_set.LargestImagePixelValue = 0, chance.randrange(1500, 4000)
    data_set.CTDIvol = chance.uniform(4, 9)
    data_set.IrradiationEventUID = f"{ROOT}.5"
    data_set.ReferencedImageSequence = [_reference(CT, f"{ROOT}.9.{count}") for count in (1, 2)]


def _write(data_set: Dataset, path: Path) -> None:
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.ImplementationVersionName = "BENCHMARK"
    data_set.file_meta.SourceApplicationEntityTitle = "BENCHSCANNER"
    pydicom.dcmwrite(path, data_set, enforce_file_format=True)


def ct_slices(folder: Path, count: int) -> list[Path]:
    """Writes a CT series.

    Args:
        folder: made if it is missing.
        count: slices, 512 x 512 x 16 bits each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"ct {count}")  # noqa: S311 - test data
    data_set, pixels = Dataset(), chance.randbytes(512 * 512 * 2)
    _shared(data_set, chance)
    files = []
    for number in range(1, count + 1):
        _of_slice(data_set, number, chance)
        at = chance.randrange(0, len(pixels), 2)
        data_set.PixelData = pixels[at:] + pixels[:at]
        data_set["PixelData"].VR = "OW"
        files.append(folder / f"{number:05}.dcm")
        _write(data_set, files[-1])
    return files


def enhanced_mr(path: Path, frames: int) -> Path:
    """Writes one multi-frame object.

    Args:
        path: the file.
        frames: of 512 x 512 x 16 bits; 600 make 315 MB.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"mr {frames}")  # noqa: S311 - test data
    data_set = Dataset()
    _shared(data_set, chance)
    _of_slice(data_set, 1, chance)
    data_set.SOPClassUID, data_set.Modality, data_set.NumberOfFrames = ENHANCED_MR, "MR", frames
    data_set.SOPInstanceUID = f"{ROOT}.6.{frames}"
    groups = []
    for number in range(1, frames + 1):
        frame, content, position, orientation = Dataset(), Dataset(), Dataset(), Dataset()
        content.FrameAcquisitionDateTime = f"20240611102211.{number:06}"
        content.FrameReferenceDateTime = f"20240611102211.{number:06}"
        content.DimensionIndexValues, content.StackID, content.InStackPositionNumber = (
            [1, number],
            "1",
            number,
        )
        position.ImagePositionPatient = ["-180", "-338", f"{-700 + number:.1f}"]
        orientation.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
        frame.PlaneOrientationSequence = [orientation]
        frame.ReferencedImageSequence = [_reference(CT, f"{ROOT}.9.{number}")]
        groups.append(frame)
    data_set.PerFrameFunctionalGroupsSequence = groups
    picture = chance.randbytes(512 * 512 * 2)
    data_set.PixelData = picture * frames
    data_set["PixelData"].VR = "OW"
    _write(data_set, path)
    return path


if __name__ == "__main__":
    target, kind_of_object, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if kind_of_object == "ct":
        ct_slices(target, size)
    else:
        enhanced_mr(target / "1.dcm", size)
