"""Headers of the demo's studies: valid IODs of PS3.3 that are full of identifying values."""

from __future__ import annotations

import hashlib
from typing import Any

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence

from fiona_dagster.demo.persons import Person

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
US_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"
US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLEMENTATION = "2.25.302093417582734190571238461234987611"


def uid(seed: int, *parts: object) -> str:
    """A UID of PS3.5 B.2 that follows from the seed."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def study_header(person: Person, study: str, day: str, modality: str, description: str) -> Dataset:
    """Patient, General Study and General Equipment modules (PS3.3 C.7.1 to C.7.5), names wherever they fit.

    Args:
        person: whose study it is.
        study: Study Instance UID.
        day: StudyDate.
        modality: Modality.
        description: StudyDescription without anything identifying.
    """
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName = person.name
    header.PatientID = person.PatientID
    header.IssuerOfPatientID = person.institution
    header.OtherPatientIDsSequence = Sequence([_other_id(person)])
    header.PatientBirthDate = person.birth_date
    header.PatientSex = person.sex
    header.PatientAge = person.age
    header.PatientWeight = "71.5"
    header.PatientSize = "1.74"
    header.PatientBirthName = f"{person.mother}^{person.given}"
    header.PatientMotherBirthName = person.mother
    header.PatientAddress = f"{person.street}, {person.city}"
    header.PatientTelephoneNumbers = person.phone
    header.PatientInsurancePlanCodeSequence = Sequence(
        [_code(person.insurance, "99LOCAL", f"Plan of {person.family}")]
    )
    header.MedicalRecordLocator = f"Shelf {person.other_id}"
    header.PatientComments = f"Call {person.given} {person.family} at {person.phone}"
    header.AdditionalPatientHistory = (
        f"Pt {person.family} lives in {person.city}, seen by Dr {_family(person.referring)}"
    )
    header.StudyInstanceUID = study
    header.StudyDate = day
    header.StudyTime = "101532.120000"
    header.StudyID = person.StudyID
    header.AccessionNumber = person.AccessionNumber
    header.StudyDescription = description
    header.ReferringPhysicianName = person.referring
    header.ReferringPhysicianIdentificationSequence = Sequence([_identification(person, "PHYS")])
    header.RequestingPhysician = person.referring
    header.RequestingService = person.department
    header.NameOfPhysiciansReadingStudy = person.performing
    header.InstitutionName = person.institution
    header.InstitutionAddress = f"{person.street}, {person.city}"
    header.InstitutionalDepartmentName = person.department
    header.StationName = person.station
    header.DeviceSerialNumber = person.serial
    header.Modality = modality
    header.PerformingPhysicianName = person.performing
    header.OperatorsName = person.operator
    header.PerformedProcedureStepID = person.StudyID
    header.PerformedProcedureStepStartDate = day
    header.PerformedProcedureStepStartTime = "101600"
    header.PerformedProcedureStepDescription = description
    header.RequestAttributesSequence = Sequence([_request(person, description)])
    _private(header, person)
    return header


def _family(name: str) -> str:
    return name.split("^", maxsplit=1)[0]


def _other_id(person: Person) -> Dataset:
    item = Dataset()
    item.PatientID = person.other_id
    item.IssuerOfPatientID = person.city
    item.TypeOfPatientID = "TEXT"
    return item


def _identification(person: Person, value: str) -> Dataset:
    item = Dataset()
    item.PersonIdentificationCodeSequence = Sequence([_code(value, "99LOCAL", _family(person.referring))])
    item.PersonAddress = f"{person.street}, {person.city}"
    item.PersonTelephoneNumbers = person.phone
    item.InstitutionName = person.institution
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def _request(person: Person, description: str) -> Dataset:
    item = Dataset()
    item.AccessionNumber = person.AccessionNumber
    item.RequestedProcedureID = person.StudyID
    item.RequestedProcedureDescription = f"{description} for {person.family}"
    item.ScheduledProcedureStepID = person.StudyID
    item.ScheduledProcedureStepDescription = f"{description}, Dr {_family(person.performing)}"
    return item


def _private(header: Dataset, person: Person) -> None:
    block = header.private_block(0x0009, "FIONA DEMO HOSPITAL", create=True)
    block.add_new(0x01, "PN", person.name)
    block.add_new(0x02, "LO", person.PatientID)
    block.add_new(0x03, "DA", person.birth_date)
    block.add_new(0x04, "OB", f"{person.family} {person.phone} ".encode("latin-1").ljust(64, b"\0"))
    nested, inner = Dataset(), Dataset()
    inner.PatientName = person.name
    inner.PatientID = person.other_id
    inner.InstitutionName = person.institution
    nested.ReferencedPatientSequence = Sequence([])
    nested.OriginalAttributesSequence = Sequence([])
    nested.ContentSequence = Sequence([inner])
    del nested.ReferencedPatientSequence, nested.OriginalAttributesSequence
    block.add_new(0x05, "SQ", Sequence([nested]))


def image_file(base: Dataset, sop_class: str, sop_instance: str, transfer_syntax: str) -> Any:
    """A data set with file meta information and the SOP Common module, ready for its pixels."""
    meta: Any = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = "FIONA_DEMO"
    image: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.update(base)
    image.SOPClassUID = sop_class
    image.SOPInstanceUID = sop_instance
    return image


def set_pixels(image: Dataset, pixels: Any, *, bits: int, frames: int = 1, signed: bool = False) -> None:
    """Image Pixel module (PS3.3 C.7.6.3).

    Args:
        image: gets the attributes.
        pixels: rows x columns (x 3), with frames in front when there are several.
        bits: BitsStored.
        frames: number of frames.
        signed: two's complement.
    """
    shape = pixels.shape[1:] if frames > 1 else pixels.shape
    colour = len(shape) == 3
    image.SamplesPerPixel = 3 if colour else 1
    image.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        image.PlanarConfiguration = 0
    image.Rows, image.Columns = shape[:2]
    image.BitsAllocated = 8 * pixels.dtype.itemsize
    image.BitsStored = bits
    image.HighBit = bits - 1
    image.PixelRepresentation = int(signed)
    data = pixels.tobytes()
    image.add_new(0x7FE00010, "OB" if pixels.dtype.itemsize == 1 else "OW", data + b"\0" * (len(data) % 2))
