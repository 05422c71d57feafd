"""De-identifies files and whole studies.

Belongs here: files in, files out, reports. Stays out: rules (``profile``), their execution (``engine``), and
the decision whether a copy may leave (``verify`` and the gate in transfers).
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import assignment as assigned
from fiona_dagster.deid.assignment import Assignment
from fiona_dagster.deid.compatibility import identities_for
from fiona_dagster.deid.elements import (
    DEFLATED,
    DicomFile,
    Element,
    Streamed,
    Value,
    opened,
    text,
)
from fiona_dagster.deid.encoding import encode, flat
from fiona_dagster.deid.engine import SERIES, SOP_INSTANCE, STUDY, Engine, Tally
from fiona_dagster.deid.folding import fold
from fiona_dagster.deid.identities import Identities
from fiona_dagster.deid.keys import ProjectKey
from fiona_dagster.deid.kinds import held_kind
from fiona_dagster.deid.profile import Profile
from fiona_dagster.errors import RefusedDicom, UnreadableDicom

IMPLEMENTATION_CLASS_UID = "2.25.229451862133703155108373893150541573905"
IMPLEMENTATION_VERSION = "FIONA_DAGSTER"


def basic_profile_only(project: str) -> ProjectSettings:
    """Settings of a project without a file: the Basic Profile, no options, no targets."""
    return ProjectSettings(name=project)


@dataclass(frozen=True)
class FileReport:
    """What was done to one file; holds nothing of the original.

    Attributes:
        name: file name of the copy.
        sop_instance: new SOP Instance UID.
        study: new Study Instance UID.
        sha256: digest of the copy's bytes.
        size: bytes of the copy.
        actions: action -> elements.
        tags: attribute and action -> elements.
        held: why a transfer would hold this kind of object back ("" if it would not).
    """

    name: str
    sop_instance: str
    study: str
    sha256: str
    size: int
    actions: dict[str, int]
    tags: dict[tuple[str, str], int]
    held: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the tags, which the study's report sums up."""
        keys = ("name", "sha256", "size", "actions", "held")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Failure:
    """A file that has no copy, by its position among the inputs (names of files may identify)."""

    number: int
    kind: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"number": self.number, "kind": self.kind, "reason": self.reason}


@dataclass
class StudyReport:
    """What was done to a set of files."""

    header: dict[str, Any]
    files: list[FileReport] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def actions(self) -> Counter[str]:
        """Action -> elements, over all files."""
        total: Counter[str] = Counter()
        for report in self.files:
            total.update(report.actions)
        return total

    @property
    def tags(self) -> dict[str, dict[str, int]]:
        """``(gggg,eeee)`` -> action -> elements, over all files."""
        total: dict[str, dict[str, int]] = {}
        for report in self.files:
            for (tag, action), count in report.tags.items():
                row = total.setdefault(tag, {})
                row[action] = row.get(action, 0) + count
        return dict(sorted(total.items()))

    def to_json(self) -> dict[str, Any]:
        """As plain data; nothing in it identifies a person."""
        return {
            **self.header,
            "actions": dict(sorted(self.actions.items())),
            "tags": self.tags,
            "files": [report.to_json() for report in self.files],
            "failures": [failure.to_json() for failure in self.failures],
        }


class Deidentifier:
    """De-identifies files for one project, participant and event.

    Args:
        project: its settings (options).
        key: its key.
        assignment: what the transfer request says.
        generation: see design section 8.
        identities: others than those that follow from key, participant and generation (derived data).
    """

    def __init__(
        self,
        project: ProjectSettings,
        key: ProjectKey,
        assignment: Assignment,
        generation: int = 0,
        identities: Identities | None = None,
    ) -> None:
        self.project, self.key, self.assignment, self.generation = project, key, assignment, generation
        self.profile = Profile.of(project, assignment.names())
        self.identities = identities or identities_for(project, key, assignment.participant, generation)
        self.engine = Engine(self.profile, self.identities, self.assigned_words())

    def assigned_words(self) -> frozenset[str]:
        """Values that the request assigns, folded: exempt from the residual search."""
        words = (value for _, value in self.assignment.values().values() if value)
        return frozenset(map(fold, (*words, *self.identities.kept_words)))

    def assigned_tags(self) -> frozenset[int]:
        """Top-level attributes that the request assigns."""
        return frozenset(self.assignment.values()) - self.profile.kept_of_assigned

    def new_uid(self, tag: int, uid: str) -> str:
        """The UID that copies hold in an attribute of the top level in place of ``uid``."""
        if self.engine.keeps(tag, "UI", (), None):
            return uid
        return self.identities.study_uid(uid) if tag == STUDY else self.identities.uid(uid)

    def new_study_uid(self, uid: str) -> str:
        """The Study Instance UID of the copies of a study."""
        return self.new_uid(STUDY, uid)

    def new_series_uid(self, uid: str) -> str:
        """The Series Instance UID of the copies of a series."""
        return self.new_uid(SERIES, uid)

    def map_uid(self, uid: str) -> str:
        """The UID that stands in place of ``uid`` in every output of this project and generation."""
        return self.identities.uid(uid)

    def header(self) -> dict[str, Any]:
        """What a report says about the rules; no participant, no event."""
        return {
            "software": f"fiona-dagster {version('fiona-dagster')}",
            "project": self.project.name,
            "profile": [{"code": code, "meaning": meaning} for code, meaning in self.profile.codes],
            "options": list(self.project.options),
            "rules_digest": self.profile.digest,
            "key_fingerprint": self.key.fingerprint,
            "generation": self.generation,
        }

    def file(self, source: Path, target: Path) -> FileReport:
        """De-identifies one file into ``target`` (or a name of its own when ``target`` is a folder).

        The copy appears under its name only when it is complete and on disk.

        Raises:
            UnreadableDicom: no DICOM, damaged, or cut off.
            RefusedDicom: can be read but not passed on.
        """
        try:
            with opened(source, self.engine.opaque) as found:
                self.identities.begin(_value(found, STUDY))
                elements, tally = self.engine.clean(found)
                return self._write(found, elements, tally, target)
        except RecursionError:
            raise RefusedDicom("sequences are nested too deep; such an object is not passed on") from None
        except OSError as error:
            if error.filename is not None and Path(error.filename) == source:
                raise UnreadableDicom(f"the file can't be read ({error.strerror})") from None
            raise

    def _write(self, found: DicomFile, elements: list[Element], tally: Tally, target: Path) -> FileReport:
        study, instance = _value(found, STUDY), _value(found, SOP_INSTANCE)
        accession = self.identities.accession_number(study)
        elements = assigned.write(elements, self.assignment, accession, self.profile, found)
        new_instance = self.map_or_keep(elements, SOP_INSTANCE, instance)
        chunks = _with_meta(found, elements, new_instance)
        if target.is_dir():
            target = target / f"{new_instance}.dcm"
        digest, size = _store(chunks, target)
        return FileReport(
            target.name,
            new_instance,
            self.map_or_keep(elements, STUDY, study),
            digest,
            size,
            dict(tally.actions),
            dict(tally.tags),
            held_kind(found, tally.unchecked, self.project),
        )

    @staticmethod
    def map_or_keep(elements: list[Element], tag: int, original: str) -> str:
        """The value that was written for a UID."""
        return next((text(e.value) for e in elements if e.tag == tag), original)


def _value(found: DicomFile, tag: int) -> str:
    element = found.find(tag)
    return text(element.value) if element else ""


def _with_meta(found: DicomFile, elements: list[Element], instance: str) -> list[Value | Streamed]:
    """Preamble of zeros, file meta of our own (PS3.10 7.1), data set."""
    meta = [
        Element(0x00020001, "OB", b"\0\1"),
        Element(0x00020002, "UI", found.sop_class.encode()),
        Element(0x00020003, "UI", instance.encode()),
        Element(0x00020010, "UI", found.transfer_syntax.encode()),
        Element(0x00020012, "UI", IMPLEMENTATION_CLASS_UID.encode()),
        Element(0x00020013, "SH", IMPLEMENTATION_VERSION.encode()),
    ]
    body = b"".join(flat(encode(meta, False, True)))
    length = Element(0x00020000, "UL", len(body).to_bytes(4, "little"))
    start = bytes(128) + b"DICM" + b"".join(flat(encode([length], False, True))) + body
    chunks = encode(elements, found.implicit, found.little)
    if found.transfer_syntax in DEFLATED:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = b"".join(packer.compress(chunk) for chunk in flat(chunks)) + packer.flush()
        chunks = [packed + b"\0" * (len(packed) & 1)]
    return [start, *chunks]


def _store(chunks: list[Value | Streamed], target: Path) -> tuple[str, int]:
    """Writes the file whole or not at all; its SHA-256 and size."""
    digest, size = sha256(), 0
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    small: list[Value] = []
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
            for chunk in chain(flat(chunks), [b""]):
                if len(chunk) < 4096 and chunk:
                    small.append(chunk)
                    continue
                block = b"".join(small)
                small.clear()
                for piece in (block, chunk):
                    digest.update(piece)
                    size += handle.write(piece)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest(), size


def deidentify_study(
    deidentifier: Deidentifier,
    sources: Sequence[Path],
    out_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> StudyReport:
    """De-identifies files into ``out_dir``, one copy each, named by new UIDs.

    Args:
        deidentifier: rules and identities.
        sources: the files; their order decides which of two with the same UID gets the plain name.
        out_dir: made if missing; nothing but copies is put there.
        progress: told (done, total) after each file.

    Returns:
        The report. Files that failed are in it by position, with the reason; the others are done.
    """
    out_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = StudyReport(deidentifier.header())
    taken: set[str] = set()
    for number, source in enumerate(sources, 1):
        part = out_dir / f".{number}.{os.getpid()}.tmp"
        try:
            done = deidentifier.file(source, part)
            name = _free_name(done.sop_instance, taken)
            part.replace(out_dir / name)
            report.files.append(FileReport(**{**vars(done), "name": name}))
        except (UnreadableDicom, RefusedDicom) as error:
            report.failures.append(Failure(number, type(error).__name__, str(error)))
        finally:
            part.unlink(missing_ok=True)
        if progress:
            progress(number, len(sources))
    return report


def _free_name(instance: str, taken: set[str]) -> str:
    name, number = f"{instance}.dcm", 1
    while name in taken:
        number += 1
        name = f"{instance}_{number}.dcm"
    taken.add(name)
    return name
