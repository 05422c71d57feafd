"""Whether the instances of a series can belong together; what is said holds no value of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fiona_dagster.studies.contents import (
    BIRTH_DATE,
    ISSUER,
    PATIENT_ID,
    PATIENT_NAME,
    StudyContents,
    distinct,
)
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.values import number

OTHER_PATIENT, OTHER_FRAME, OTHER_MATRIX = "other_patient", "other_frame_of_reference", "other_matrix"
PROBLEMS = {
    OTHER_PATIENT: "the instances name more than one patient",
    OTHER_FRAME: "more than one FrameOfReferenceUID",
    OTHER_MATRIX: "more than one matrix (Rows, Columns) among slices of one orientation",
}
"""Code -> what it means; PS3.3 section A.1.2.3: a series has one patient and one frame of reference."""
_FRAME, _ROWS, _COLUMNS, _ORIENTATION = 0x00200052, 0x00280010, 0x00280011, 0x00200037


def series_problems(contents: StudyContents) -> dict[str, tuple[str, ...]]:
    """SeriesInstanceUID -> codes of :data:`PROBLEMS`, in that order; series without any are left out."""
    found = {series: tuple(_problems(instances)) for series, instances in contents.series.items()}
    return {series: problems for series, problems in found.items() if problems}


def _problems(instances: Sequence[InstanceHeader]) -> Iterable[str]:
    if any(len(distinct(instances, tag)) > 1 for tag in (PATIENT_ID, ISSUER, PATIENT_NAME, BIRTH_DATE)):
        yield OTHER_PATIENT
    if len(distinct(instances, _FRAME)) > 1:
        yield OTHER_FRAME
    if any(len(matrices) > 1 for matrices in _matrices(instances).values()):
        yield OTHER_MATRIX


def _matrices(instances: Sequence[InstanceHeader]) -> Mapping[tuple[float, ...], set[tuple[str, str]]]:
    """Orientation -> the matrices of its slices; a scout beside a volume has an orientation of its own."""
    matrices: dict[tuple[float, ...], set[tuple[str, str]]] = {}
    for header in instances:
        value = header.value(_ORIENTATION)
        if not isinstance(value, tuple) or len(value) != 6:
            continue
        cosines = [number(part) for part in value]
        rows, columns = header.text(_ROWS), header.text(_COLUMNS)
        if rows and columns and all(cosine is not None for cosine in cosines):
            place = tuple(round(cosine or 0.0, 2) + 0.0 for cosine in cosines)
            matrices.setdefault(place, set()).add((rows, columns))
    return matrices
