"""Names of files inside a package, from the de-identified headers.

A project's template says which folders a series gets (``package.layout``); its files are numbered. A field
that the headers do not have is left out or stands as a zero; whatever is not plain ASCII is ``_``.
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fiona_dagster.config import PackageSettings
from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import UnreadableDicom
from fiona_dagster.studies import InstanceHeader, read_instance
from fiona_dagster.studies.attributes import RECORD_TAGS
from fiona_dagster.studies.header import stamp_of
from fiona_dagster.transfers.writing import changed

PATIENT_ID, MODALITY, STUDY_DATE = 0x00100020, 0x00080060, 0x00080020
SERIES_NUMBER, SERIES_DESCRIPTION = 0x00200011, 0x0008103E
INSTANCE_NUMBER, FRAMES, TIME_POINT = 0x00200013, 0x00280008, 0x00120050
SLICE_LOCATION = 0x00201041
TAGS = frozenset(
    (
        PATIENT_ID, MODALITY, STUDY_DATE, SERIES_NUMBER, SERIES_DESCRIPTION, INSTANCE_NUMBER, FRAMES,
        TIME_POINT, SLICE_LOCATION,
    )
)  # fmt: skip
"""What is read of each file: what names need, and what of a series record differs from file to file."""
FIRST_TAGS = TAGS | frozenset(RECORD_TAGS.values())
"""What is read of the first file of a series: what its record holds."""

_NAME_TAGS = (
    0x00080005, PATIENT_ID, MODALITY, STUDY_DATE, SERIES_NUMBER, SERIES_DESCRIPTION, TIME_POINT,
)  # fmt: skip
"""What the folder of a series follows from, and the character set that it is read in."""
_FIELD = re.compile(r"<([^<>/]*)>")
_NO_HEADER = {"unreadable", "empty_file", "not_dicom"}
_UNSAFE = re.compile(r"[^A-Za-z0-9+\-]+")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class PackedFile:
    """One file of a package.

    Attributes:
        name: inside the package.
        record: how the verification record calls it.
        path: the de-identified file.
        header: what it says.
    """

    name: str
    record: str
    path: Path
    header: InstanceHeader


@dataclass(frozen=True)
class PackedSeries:
    """One series of a package: its folder, and its files in order of InstanceNumber.

    The header of the first has :data:`FIRST_TAGS`, those of the others :data:`TAGS`.
    """

    folder: str
    files: tuple[PackedFile, ...]


def safe_component(text: str, fallback: str = "") -> str:
    """One component of a name that every file system takes.

    Args:
        text: anything.
        fallback: what stands there when nothing is left of ``text``.
    """
    safe = _UNSAFE.sub("_", text.strip()).strip("_-+")[:64] or fallback
    return f"_{safe}" if _DEVICE.fullmatch(safe) else safe


def lay_out(
    files: Sequence[tuple[str, Path]],
    *,
    template: str = "",
    project: str = "",
    participant: str = "",
    event: str = "",
    separator: str = "_",
) -> list[PackedSeries]:
    """The series of a package with their folders and file names, sorted, without repeats.

    Args:
        files: (name in the verification record, path) of the de-identified files of one study.
        template: see ``package.layout`` of project files; default: the one there.
        project: value of that field.
        participant: the same; default: PatientID of the headers.
        event: the same; default: ClinicalTrialTimePointID (PS3.3 C.7.2.3) of the headers.
        separator: see ``package.separator`` of project files.

    Raises:
        UnreadableDicom: a file is no DICOM.
        NotVerified: one changed meanwhile.
    """
    series: dict[str, dict[str, list[tuple[str, InstanceHeader]]]] = {}
    given = {"project": project, "participant": participant, "event": event, "separator": separator}
    known: dict[tuple[object, ...], str] = {}  # the files of a series have the same values
    with _no_collection():
        for name, path in files:
            header = _read(path, TAGS)
            values = tuple(map(header.elements.get, _NAME_TAGS))
            folder = known.get(values) or _folder(header, template or PackageSettings().layout, given)
            known[values] = folder
            series.setdefault(folder, {}).setdefault(header.series, []).append((name, header))
    laid_out: list[PackedSeries] = []
    taken: set[str] = set()
    for wanted in sorted(series):
        for uid in sorted(series[wanted]):
            folder = _free(wanted, taken)
            laid_out.append(PackedSeries(folder, _number(folder, series[wanted][uid])))
    return sorted(laid_out, key=lambda each: each.folder)


def require_unchanged(files: Iterable[PackedFile]) -> None:
    """What the headers say is what was packed: asked when all bytes were compared with their records.

    Raises:
        NotVerified: a file was replaced or written to since its header was read.
    """
    for file in files:
        with from_copy():
            same = stamp_of(file.path.stat()) == file.header.stamp
        if not same:
            raise changed()


def arcnames(
    files: Sequence[tuple[str, Path]], *, participant: str = "", event: str = "", template: str = ""
) -> list[tuple[str, Path]]:
    """Names and paths alone of what :func:`lay_out` lays out, sorted."""
    laid_out = lay_out(files, participant=participant, event=event, template=template)
    return sorted((file.name, file.path) for series in laid_out for file in series.files)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Headers hold no cycles, and are many: the search for cycles takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _free(name: str, taken: set[str]) -> str:
    # Names are told apart without regard to case: packages are unpacked on Windows and macOS too.
    candidate, count = name, 1
    while candidate.lower() in taken:
        count += 1
        candidate = f"{name}_s{count}"
    taken.add(candidate.lower())
    return candidate


def _number(folder: str, headers: list[tuple[str, InstanceHeader]]) -> tuple[PackedFile, ...]:
    ordered = sorted(headers, key=lambda each: (each[1].instance_number, each[1].sop_instance, each[0]))
    name, first = ordered[0]
    again = _read(first.path, FIRST_TAGS)
    if again.stamp != first.stamp:
        raise changed()
    ordered[0] = (name, again)
    return tuple(
        PackedFile(f"{folder}/{index:05d}.dcm", name, header.path, header)
        for index, (name, header) in enumerate(ordered, 1)
    )


def _folder(header: InstanceHeader, template: str, given: dict[str, str]) -> str:
    values = {
        "project": given["project"],
        "participant": given["participant"] or header.text(PATIENT_ID),
        "event": given["event"] or header.text(TIME_POINT),
        "modality": header.text(MODALITY) or "OT",
        "series number": f"{whole_number(header, SERIES_NUMBER):03d}",
        "description": header.text(SERIES_DESCRIPTION),
        "study date": header.text(STUDY_DATE),
    }
    folders = []
    for folder in template.split("/"):
        filled = _FIELD.sub(
            lambda field: safe_component(values[field[1]]).replace("_", given.get("separator", "_")), folder
        )
        if safe := safe_component(filled):
            folders.append(safe)
    return "/".join(folders) or "series"


def whole_number(header: InstanceHeader, tag: int) -> int:
    """An element as a number that is not negative; 0 if it is none."""
    text = header.text(tag).strip()
    return int(text[:9]) if text[:9].isascii() and text[:9].isdigit() else 0


def _read(path: Path, tags: frozenset[int]) -> InstanceHeader:
    header = read_instance(path, tags)
    if _NO_HEADER & set(header.damage) or not header.sop_instance:
        raise UnreadableDicom("a de-identified file can't be read; de-identify the study again")
    return header
