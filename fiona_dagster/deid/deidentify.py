"""De-identifies files.

Belongs here: files in, files out, reports. Stays out: studies (``study``), rules (``profile``), their
execution (``engine``), and the decision whether a copy may leave (``verify`` and the gate in transfers).
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fiona_dagster.config import ProjectSettings
from fiona_dagster.deid import assignment as assigned
from fiona_dagster.deid.assignment import Assignment
from fiona_dagster.deid.compatibility import identities_for
from fiona_dagster.deid.copies import Copy, FastWay, Heard, exact
from fiona_dagster.deid.elements import DicomFile, Element, text
from fiona_dagster.deid.engine import SERIES, SOP_INSTANCE, STUDY, Engine
from fiona_dagster.deid.files import from_disk, opened
from fiona_dagster.deid.folding import fold
from fiona_dagster.deid.identities import Identities, Told
from fiona_dagster.deid.keys import ProjectKey
from fiona_dagster.deid.kinds import held_kind
from fiona_dagster.deid.profile import Profile
from fiona_dagster.deid.rewriting import Rewriter
from fiona_dagster.deid.rows import Unsure
from fiona_dagster.deid.writing import part_of, write
from fiona_dagster.errors import RefusedDicom

Place = Callable[[str], AbstractContextManager[int]]
"""A descriptor for the copy with this new SOP Instance UID, open for writing; see ``writing.part_of``."""


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
        size: bytes of the copy.
        actions: action -> elements.
        tags: attribute and action -> elements.
        held: why a transfer would hold this kind of object back ("" if it would not).
        sha256: digest of the copy's bytes, once it was verified.
    """

    name: str
    sop_instance: str
    study: str
    size: int
    actions: dict[str, int]
    tags: dict[tuple[str, str], int]
    held: str = ""
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without the tags, which the study's report sums up."""
        keys = ("name", "sha256", "size", "actions", "held")
        return {key: getattr(self, key) for key in keys if key != "sha256" or self.sha256}


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
    """De-identifies files for one project, participant and event, one at a time.

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
        self.fast = FastWay(Rewriter(self.engine, self._insertions))
        self._turn = threading.Lock()

    def _insertions(self, study: str) -> list[assigned.Insertion] | None:
        return assigned.insertions(self.assignment, self.identities.accession_number(study), self.profile)

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

    def file(self, source: Path, target: Path, *, flush: bool = True) -> FileReport:
        """De-identifies one file into ``target`` (or a name of its own when ``target`` is a folder).

        The copy appears under its name only when it is complete and, with ``flush``, on disk.

        Raises:
            UnreadableDicom: no DICOM, damaged, or cut off.
            RefusedDicom: can be read but not passed on.
            OriginalUnavailable: the disk does not give it.
        """
        folder = target if target.is_dir() else None

        def place(instance: str) -> AbstractContextManager[int]:
            return part_of(target if folder is None else folder / f"{instance}.dcm", flush=flush)

        made = self.heard(source, place)
        if made is None:
            raise AssertionError("a copy without a digest to compare is always made")
        report = made[0]
        return report if folder is not None else replace(report, name=target.name)

    def heard(self, source: Path, place: Place, *, unless: bytes = b"") -> tuple[FileReport, Heard] | None:
        """As :meth:`file`, with what the original told of its person.

        Args:
            source: the original.
            place: of the copy.
            unless: digest of a header (``copies.Heard``).

        Returns:
            ``None``: the copy would have this very header, and was not made.
        """
        with from_disk():
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._turn:
                return self._heard(source, descriptor, place, unless)
        except RecursionError:
            raise RefusedDicom("sequences are nested too deep; such an object is not passed on") from None
        finally:
            os.close(descriptor)

    def _heard(
        self, source: Path, descriptor: int, place: Place, unless: bytes
    ) -> tuple[FileReport, Heard] | None:
        try:
            copy = self.fast.copy(descriptor, self.project)
        except Unsure:
            pass
        else:
            return None if copy.heard.header == unless else self._store(copy, descriptor, place)
        with self.exact_copy(source) as copy:
            return self._store(copy, descriptor, place)

    @contextmanager
    def knowing(self, told: Mapping[str, Iterable[Told]]) -> Iterator[None]:
        """Inside of the block, copies are made as if their originals told this, too.

        Args:
            told: by (original) Study Instance UID.
        """
        try:
            self.engine.know(told)
            self.fast.rewriter.forget()
            yield
        finally:
            self.engine.know({})
            self.fast.rewriter.forget()

    @contextmanager
    def exact_copy(self, source: Path) -> Iterator[Copy]:
        """The copy of a file the exact way; what it is written from is there inside the ``with`` block.

        Raises:
            UnreadableDicom, RefusedDicom: see :meth:`file`.
        """
        with opened(source, self.engine.opaque) as found:
            study, instance = _value(found, STUDY), _value(found, SOP_INSTANCE)
            self.identities.begin(study)
            elements, tally = self.engine.clean(found)
            accession = self.identities.accession_number(study)
            elements = assigned.write(elements, self.assignment, accession, self.profile, found)
            new_instance = self.map_or_keep(elements, SOP_INSTANCE, instance)
            yield Copy(
                exact(found, elements, new_instance),
                new_instance,
                self.map_or_keep(elements, STUDY, study),
                tally,
                held_kind(found, tally.unchecked, self.project),
                Heard(study, frozenset(self.engine.told(found))),
                found.release,
            )

    @staticmethod
    def _store(copy: Copy, descriptor: int, place: Place) -> tuple[FileReport, Heard]:
        with place(copy.instance) as part:
            size = write(part, copy.pieces, descriptor, copy.release)
        tally = copy.tally
        report = FileReport(
            f"{copy.instance}.dcm",
            copy.instance,
            copy.study,
            size,
            dict(tally.actions),
            tally.tags,
            copy.held,
        )
        return report, copy.heard

    @staticmethod
    def map_or_keep(elements: list[Element], tag: int, original: str) -> str:
        """The value that was written for a UID."""
        return next((text(e.value) for e in elements if e.tag == tag), original)


def _value(found: DicomFile, tag: int) -> str:
    element = found.find(tag)
    return text(element.value) if element else ""
