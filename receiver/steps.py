"""What a Modality Performed Procedure Step says, and what is wrong with one (PS3.4 section F.7)."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fiona_dagster.dicom import is_uid
from fiona_dagster.landing import Caller, PerformedStep
from fiona_dagster.landing.evidence import STEP_STATUSES
from fiona_dagster.landing.receipt import now

MPPS = "1.2.840.10008.3.1.2.3.3"

INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE, NO_SUCH_INSTANCE = 0x0106, 0x0110, 0x0111, 0x0112
INVALID_INSTANCE, MISSING_ATTRIBUTE, MISSING_VALUE, RESOURCE_LIMITATION = 0x0117, 0x0120, 0x0121, 0x0213
MAY_NO_LONGER_BE_UPDATED = 0xA710
"""Error ID of an N-SET on a step that has ended (PS3.4 table F.7.2-2)."""

IN_PROGRESS = "IN PROGRESS"

_FIXED = frozenset(
    (
        *("ScheduledStepAttributesSequence", "PatientName", "PatientID", "IssuerOfPatientID"),
        *("PatientBirthDate", "PatientSex", "ReferencedPatientSequence", "AdmissionID", "StudyID"),
        *("PerformedProcedureStepID", "PerformedStationAETitle", "PerformedStationName", "PerformedLocation"),
        *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "Modality"),
    )
)
"""What an N-SET may not change (PS3.4 table F.7.2-1)."""

_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class StepRefused(Exception):
    """A request that is answered with a failure.

    Attributes:
        status: DIMSE status.
        error_id: Error ID; 0 for none.
        keep: whether its bytes go to quarantine, since they might be evidence that we can't read.
    """

    def __init__(self, status: int, why: str, *, error_id: int = 0, keep: bool = True) -> None:
        super().__init__(why)
        self.status = status
        self.error_id = error_id
        self.keep = keep


def decode(data: bytes, transfer_syntax: str) -> Dataset:
    """The data set of a request, every element of it read.

    Raises:
        StepRefused: it can't be read.
    """
    from pynetdicom.dsutils import decode as decode_data_set

    try:
        with pydicom_config.disable_value_validation():
            found: Dataset = decode_data_set(
                BytesIO(data),
                transfer_syntax == ImplicitVRLittleEndian,
                transfer_syntax != "1.2.840.10008.1.2.2",
                transfer_syntax == "1.2.840.10008.1.2.1.99",
            )
            for _ in found.iterall():
                pass
    except Exception as error:  # noqa: BLE001 - pydicom raises anything on broken bytes
        raise StepRefused(
            PROCESSING_FAILURE, f"the data set can't be read ({type(error).__name__})"
        ) from None
    return found


def encode(step: Dataset, instance: str) -> bytes:
    """A step as a DICOM file.

    Raises:
        StepRefused: a value can't be written.
    """
    step.file_meta = FileMetaDataset()
    step.file_meta.MediaStorageSOPClassUID = UID(MPPS)
    step.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    step.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    step.SOPClassUID, step.SOPInstanceUID = MPPS, instance
    buffer = BytesIO()
    try:
        with pydicom_config.disable_value_validation():
            dcmwrite(buffer, step, enforce_file_format=True, implicit_vr=False, little_endian=True)
    except Exception as error:  # noqa: BLE001 - see above
        raise StepRefused(PROCESSING_FAILURE, f"a value can't be written ({type(error).__name__})") from None
    return buffer.getvalue()


def read(content: bytes) -> Dataset:
    """A step from its file."""
    with pydicom_config.disable_value_validation():
        return dcmread(BytesIO(content))


def update(step: Dataset, changes: Dataset) -> None:
    """Applies an N-SET: what may be changed is replaced, the rest of the changes is left out."""
    for element in changes:
        if element.keyword not in _FIXED and element.tag.group > 2:
            step[element.tag] = element


def describe(step: Dataset, instance: str, caller: Caller) -> PerformedStep:
    """What others need of a step; no value in it but UIDs, status and who sent it.

    Raises:
        StepRefused: something that is needed is missing or malformed.
    """
    status = _text(step, "PerformedProcedureStepStatus")
    if status not in STEP_STATUSES:
        raise StepRefused(INVALID_VALUE, "Performed Procedure Step Status has an unknown value")
    studies = {_uid(item, "StudyInstanceUID") for item in _items(step, "ScheduledStepAttributesSequence")}
    if not studies:
        raise StepRefused(MISSING_ATTRIBUTE, "Scheduled Step Attributes Sequence is missing or empty")
    series: dict[str, dict[str, None]] = {}
    for item in _items(step, "PerformedSeriesSequence"):
        found = series.setdefault(_uid(item, "SeriesInstanceUID"), {})
        for reference in (each for keyword in _REFERENCES for each in _items(item, keyword)):
            found[_uid(reference, "ReferencedSOPInstanceUID")] = None
    return PerformedStep(
        time=now(),
        instance=instance,
        status=status,  # type: ignore[arg-type]
        studies=tuple(sorted(studies)),
        series={uid: tuple(instances) for uid, instances in series.items()},
        calling_ae=caller.calling_ae,
        caller_ip=caller.ip,
    )


def _items(data_set: Dataset, keyword: str) -> Iterator[Dataset]:
    value: Any = data_set.get(keyword)
    if value is None:
        return
    if not isinstance(value, Sequence):
        raise StepRefused(INVALID_VALUE, f"{keyword} is no sequence")
    yield from value


def _text(data_set: Dataset, keyword: str) -> str:
    if keyword not in data_set:
        raise StepRefused(MISSING_ATTRIBUTE, f"{keyword} is missing")
    value = str(data_set.get(keyword) or "").strip()
    if not value:
        raise StepRefused(MISSING_VALUE, f"{keyword} has no value")
    return value


def _uid(data_set: Dataset, keyword: str) -> str:
    value = _text(data_set, keyword)
    if not is_uid(value):
        raise StepRefused(INVALID_VALUE, f"{keyword} is malformed")
    return value
