"""What became of the files of one import."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class ImportReport:
    """What became of the files of one import.

    Attributes:
        stored: instances that are new.
        repeats: instances that were there already with the same data set.
        conflicts: other data set under a known SOP Instance UID, kept aside.
        quarantined: files that can't be filed.
        skipped: media directories (DICOMDIR), links in archives, and things that are no regular files.
        failed: files that could not even be read; nothing was kept of them.
        missing: instances that a media directory lists and that are not in the archive after the import.
        directories_damaged: media directories that could not be read to their end.
        bytes: of the sources that were looked at.
        problems: (path, reason) of everything that was quarantined, failed or missed. In an archive, the path
            is the archive's, a colon, and the name of the entry.
        studies: StudyInstanceUIDs that were filed to.
    """

    stored: int = 0
    repeats: int = 0
    conflicts: int = 0
    quarantined: int = 0
    skipped: int = 0
    failed: int = 0
    missing: int = 0
    directories_damaged: int = 0
    bytes: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    studies: set[str] = field(default_factory=set)

    @property
    def files(self) -> int:
        """Everything that was looked at; an archive counts as the files in it."""
        counts = (self.stored, self.repeats, self.conflicts, self.quarantined, self.skipped, self.failed)
        return sum(counts)

    @property
    def sound(self) -> bool:
        """Whether everything was filed and nothing is known to be missing."""
        return not (self.quarantined or self.failed or self.missing or self.directories_damaged)

    def add(self, other: ImportReport) -> None:
        """Adds the counts of another import."""
        for item in fields(self):
            value = getattr(other, item.name)
            if isinstance(value, int):
                setattr(self, item.name, getattr(self, item.name) + value)
        self.problems += other.problems
        self.studies |= other.studies

    def to_json(self) -> dict[str, Any]:
        """A JSON-able picture."""
        return {
            "files": self.files,
            "bytes": self.bytes,
            "stored": self.stored,
            "repeats": self.repeats,
            "conflicts": self.conflicts,
            "quarantined": self.quarantined,
            "skipped": self.skipped,
            "failed": self.failed,
            "missing": self.missing,
            "directories_damaged": self.directories_damaged,
            "studies": sorted(self.studies),
            "problems": [{"path": path, "reason": reason} for path, reason in self.problems],
        }
