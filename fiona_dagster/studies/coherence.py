"""Whether the instances of a series can belong together; what is said holds no value of the files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
_TOLERANCE = 0.02
"""Direction cosines of one volume differ by less: about one degree."""
_MOST_ORIENTATIONS = 500
"""Orientations of one series that are told apart; a rotation has some hundred."""


def series_problems(contents: StudyContents) -> dict[str, tuple[str, ...]]:
    """SeriesInstanceUID -> codes of :data:`PROBLEMS`, in that order; series without any are left out."""
    found = {series: tuple(_problems(instances)) for series, instances in contents.series.items()}
    return {series: problems for series, problems in found.items() if problems}


def _problems(instances: Sequence[InstanceHeader]) -> Iterable[str]:
    if any(len(distinct(instances, tag)) > 1 for tag in (PATIENT_ID, ISSUER, PATIENT_NAME, BIRTH_DATE)):
        yield OTHER_PATIENT
    if len(distinct(instances, _FRAME)) > 1:
        yield OTHER_FRAME
    if _matrices_differ(instances):
        yield OTHER_MATRIX


def _matrices_differ(instances: Sequence[InstanceHeader]) -> bool:
    """Whether slices of one orientation have several matrices; a scout beside a volume has another one."""
    found: dict[tuple[float, ...], set[tuple[str, str]]] = {}
    for header in instances:
        orientation, matrix = _orientation(header), (header.text(_ROWS), header.text(_COLUMNS))
        if orientation is not None and all(matrix):
            found.setdefault(orientation, set()).add(matrix)
    if len(set().union(*found.values())) < 2:
        return False  # nearly always
    groups: list[tuple[tuple[float, ...], set[tuple[str, str]]]] = []
    for orientation, matrices in found.items():
        for centre, known in groups:
            if all(abs(one - other) < _TOLERANCE for one, other in zip(centre, orientation, strict=True)):
                known.update(matrices)
                break
        else:
            if len(groups) < _MOST_ORIENTATIONS:
                groups.append((orientation, set(matrices)))
    return any(len(matrices) > 1 for _, matrices in groups)


def _orientation(header: InstanceHeader) -> tuple[float, ...] | None:
    value = header.value(_ORIENTATION)
    cosines = [number(part) for part in value] if isinstance(value, tuple) and len(value) == 6 else []
    known = tuple(cosine for cosine in cosines if cosine is not None)
    return known if len(known) == 6 else None
