"""What a study holds: every file's header read once, series by series, and what is wrong with it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.reader import read_instance
from fiona_dagster.studies.values import EMPTY, printed

PATIENT_ID, ISSUER, PATIENT_NAME, BIRTH_DATE = 0x00100020, 0x00100021, 0x00100010, 0x00100030
OTHER_PATIENT_IDS, ACCESSION_NUMBER = 0x00101000, 0x00080050
PERSON_TAGS = frozenset({PATIENT_ID, PATIENT_NAME, OTHER_PATIENT_IDS, ACCESSION_NUMBER})
"""What :func:`person_values` reads."""


@dataclass
class StudyContents:
    """The files of one study.

    Attributes:
        study: StudyInstanceUID.
        files: every file, damaged ones included, in the order of their names.
        series: SeriesInstanceUID -> its instances, by InstanceNumber, then SOPInstanceUID. One entry for each
            distinct SOPInstanceUID; files that can't be placed are in no series.
        damage: (SOPInstanceUID or file name without modality, reason code), sorted.
    """

    study: str
    files: list[InstanceHeader] = field(default_factory=list, repr=False)
    series: dict[str, list[InstanceHeader]] = field(default_factory=dict, repr=False)
    damage: list[tuple[str, str]] = field(default_factory=list)

    @property
    def instance_count(self) -> int:
        """Distinct instances, those that can't be placed included."""
        return len({_identity(header) for header in self.files})

    @property
    def byte_count(self) -> int:
        """Bytes of all files."""
        return sum(header.size for header in self.files)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the sorted set of SOPInstanceUIDs: the data version of the study."""
        uids = sorted({_identity(header) for header in self.files})
        return hashlib.sha256("\n".join(uids).encode()).hexdigest()

    @property
    def instances(self) -> list[InstanceHeader]:
        """All placed instances, series by series."""
        return [header for series in sorted(self.series) for header in self.series[series]]

    @property
    def patient_count(self) -> int:
        """Distinct patients: 1 where nothing contradicts."""
        known = [distinct(self.instances, tag) for tag in (PATIENT_ID, ISSUER, PATIENT_NAME, BIRTH_DATE)]
        return max(1, *(len(values) for values in known)) if self.instances else 0

    def first(self, series: str) -> InstanceHeader:
        """The instance from which the record of a series is made."""
        return self.series[series][0]


def scan_study(root: DataRoot, study: str, tags: Collection[int] | None = None) -> StudyContents:
    """Reads the header of every archived file of a study once.

    Args:
        root: the data root.
        study: StudyInstanceUID.
        tags: elements to keep besides the basic ones; ``None``: all short ones.

    Raises:
        UnknownStudy: no such study in the archive.
    """
    folder = root.archive / f"scp_{study}"
    if not is_uid(study) or not folder.is_dir():
        raise UnknownStudy(f"study {study[:64]!r}: nothing in site/archive; `fiona status` lists the studies")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return collect(study, (read_instance(path, tags) for path in paths))


def collect(study: str, headers: Iterable[InstanceHeader]) -> StudyContents:
    """Sorts headers into series and notes what is wrong; the order in which they come doesn't matter."""
    contents = StudyContents(study)
    placed: dict[str, dict[str, InstanceHeader]] = {}
    seen: set[str] = set()
    shared: dict[tuple[str, bytes], tuple[str, bytes]] = {}
    for header in headers:
        contents.files.append(header)
        for tag, value in header.elements.items():  # most values repeat: equal ones share memory
            header.elements[tag] = shared.setdefault(value, value)
    contents.files.sort(key=lambda each: str(each.path))
    for header in contents.files:
        _check_identity(header, study)
        instance = header.sop_instance
        if instance in seen:
            header.flag("duplicate_instance")
        elif is_uid(instance) and is_uid(header.series) and header.study == study:
            seen.add(instance)
            placed.setdefault(header.series, {})[instance] = header
    for series in sorted(placed):
        contents.series[series] = sorted(
            placed[series].values(), key=lambda each: (each.instance_number, each.sop_instance)
        )
    contents.damage = sorted((_identity(each), code) for each in contents.files for code in each.damage)
    return contents


def _check_identity(header: InstanceHeader, study: str) -> None:
    if "not_dicom" in header.damage or "empty_file" in header.damage or "unreadable" in header.damage:
        return
    uids = (header.study, header.series, header.sop_instance)
    if not all(uids):
        header.flag("uid_missing")
    elif not all(is_uid(uid) for uid in uids):
        header.flag("uid_malformed")
    if header.study and header.study != study:
        header.flag("wrong_study")


def _identity(header: InstanceHeader) -> str:
    """SOPInstanceUID, or what the file's name says of it."""
    if is_uid(header.sop_instance):
        return header.sop_instance
    return header.path.name.partition(".")[2] or header.path.name


def _normal(tag: int, header: InstanceHeader) -> str:
    value = header.value(tag)
    if value is None or value == EMPTY:
        return ""
    text = printed(value).strip()
    if tag == PATIENT_NAME:
        return " ".join(text.split("=")[0].replace("^", " ").casefold().split())
    return text


def distinct(headers: Iterable[InstanceHeader], tag: int) -> set[str]:
    """Values that are there; a missing one contradicts nothing."""
    return {_normal(tag, header) for header in headers} - {""}


def person_values(contents: StudyContents) -> tuple[set[str], ...]:
    """Patient ids, patient names, accession numbers and other patient ids of all instances, as they stand."""
    return tuple(
        {
            part
            for header in {
                each.elements[tag]: each for each in contents.instances if tag in each.elements
            }.values()
            for part in _parts(header, tag)
        }
        for tag in (PATIENT_ID, PATIENT_NAME, ACCESSION_NUMBER, OTHER_PATIENT_IDS)
    )


def _parts(header: InstanceHeader, tag: int) -> set[str]:
    value = header.value(tag)
    if value is None:
        return set()
    return {printed(part).strip() for part in (value if isinstance(value, tuple) else (value,))} - {""}


def flags(root: DataRoot, contents: StudyContents) -> list[str]:
    """Why a study needs a person before it can be assigned; empty when nothing is wrong.

    Returns:
        ``two_patients``, ``damaged_instances``, ``conflicts``, in this order.
    """
    found = []
    if contents.patient_count > 1:
        found.append("two_patients")
    if contents.damage:
        found.append("damaged_instances")
    if has_conflicts(root, contents.study):
        found.append("conflicts")
    return found


def has_conflicts(root: DataRoot, study: str) -> bool:
    """Whether ``site/conflicts/<Study>/`` holds anything that waits for a decision."""
    folder: Path = root.conflicts / study
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
