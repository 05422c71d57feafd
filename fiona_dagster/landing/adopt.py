"""After a crash: files in the archive that no journal knows are adopted, unfinished ones removed."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import Refusal, StorageUids, is_uid
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.files import sync_directory
from fiona_dagster.landing.inspect import inspect_file
from fiona_dagster.landing.journal import Journal, JournalDamage, open_associations, read_journals
from fiona_dagster.landing.quarantine import quarantine_file
from fiona_dagster.landing.receipt import UNKNOWN, Receipt, now
from fiona_dagster.landing.tidy import tidy
from fiona_dagster.landing.workshop import clear_workshops

log = logging.getLogger("fiona.landing")

_MARK = ".adopted"
_FULL_MARK = ".adopted-all"
FULL_PASS_SECONDS = 86400.0
"""How often a thorough pass looks at every study: restored folders may have kept old times."""
_MARGIN = 3600.0


@dataclass
class Adoption:
    """What one pass found.

    Attributes:
        adopted: files that got a journal line.
        quarantined: files that turned out to be unfit for the archive.
        removed: unfinished files of processes that are gone.
        waiting: studies that could not be looked at, since something is being sent to them.
    """

    adopted: int = 0
    quarantined: int = 0
    removed: int = 0
    waiting: list[str] = field(default_factory=list)


def adopt_orphans(root: DataRoot, *, everything: bool = False, thorough: bool = False) -> Adoption:
    """Adopts archived files without a journal line and removes unfinished ones.

    Safe beside running receivers and imports: those hold the journal of a study from before they place
    a file until after its line is written. So a file that was there while nobody held a journal, and
    has no line afterwards, will never get one.

    Args:
        root: the data root.
        everything: look at all studies, also those that did not change since the last full pass.
        thorough: do so if that was not done for a day (:data:`FULL_PASS_SECONDS`).

    Raises:
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`.
    """
    with Use(root):
        return _adopt_orphans(root, everything=everything, thorough=thorough)


def _adopt_orphans(root: DataRoot, *, everything: bool, thorough: bool) -> Adoption:
    everything = everything or (thorough and _full_pass_is_due(root))
    result = Adoption(removed=clear_workshops(root))
    mark = root.arrived / _MARK
    since = 0.0 if everything else _since(root)
    begun = root.arrived / f"{_MARK}.begun"
    begun.touch(mode=0o600)
    for study in _studies(root, since):
        _adopt_study(root, study, result)
    if not result.waiting:
        begun.replace(mark)
        if everything:
            (root.arrived / _FULL_MARK).touch(mode=0o600)
    tidy(root)
    return result


def _full_pass_is_due(root: DataRoot) -> bool:
    mark = root.arrived / _FULL_MARK
    return not mark.exists() or abs(time.time() - mark.stat().st_mtime) > FULL_PASS_SECONDS


def _since(root: DataRoot) -> float:
    mark = root.arrived / _MARK
    return mark.stat().st_mtime - _MARGIN if mark.exists() else 0.0


def _studies(root: DataRoot, since: float) -> list[str]:
    if not root.archive.is_dir():
        return []
    with os.scandir(root.archive) as entries:
        return sorted(
            entry.name.removeprefix("scp_")
            for entry in entries
            if entry.name.startswith("scp_")
            and is_uid(entry.name.removeprefix("scp_"))
            and entry.is_dir(follow_symlinks=False)
            and entry.stat().st_mtime >= since
        )


def _adopt_study(root: DataRoot, study: str, result: Adoption) -> None:
    folder = root.archive / f"scp_{study}"
    with os.scandir(folder) as entries:
        names = {e.name for e in entries if e.is_file(follow_symlinks=False) and not e.name.startswith(".")}
    if open_associations(root, study):  # asked after the listing; see adopt_orphans
        result.waiting.append(study)
        return
    for _, _, receipt in read_journals(root, {}, study=study, on_damage=_known_damage):
        names.discard(receipt.path.rpartition("/")[2])
    if not names:
        return
    sync_directory(folder)
    journal = Journal(root, UNKNOWN, study)
    try:
        for name in sorted(names):
            _adopt_file(root, study, folder / name, journal, result)
    finally:
        journal.close()
    log.warning("study %s: %d files without a journal line were adopted or set aside", study, len(names))


def _known_damage(damage: JournalDamage) -> None:
    """Damage is reported by who tails the journals; here a lost line only means adoption."""


def _adopt_file(root: DataRoot, study: str, path: Path, journal: Journal, result: Adoption) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    inspection = inspect_file(path)
    verdict = inspection.verdict
    if isinstance(verdict, StorageUids) and not _belongs(verdict, study, path):
        verdict = Refusal("misplaced", 0, "file in the archive does not stand where its UIDs say")
    if isinstance(verdict, Refusal):
        reason = {"code": verdict.code, "message": verdict.message}
        quarantine_file(root, path, {**reason, "source": "archive", "StudyInstanceUID": study})
        result.quarantined += 1
        return
    journal.append(
        Receipt(
            time=now(),
            kind="adopted",
            StudyInstanceUID=study,
            SeriesInstanceUID=verdict.series,
            SOPInstanceUID=verdict.sop_instance,
            SOPClassUID=verdict.sop_class,
            transfer_syntax=inspection.transfer_syntax,
            path=path.relative_to(root.path).as_posix(),
            size=path.stat().st_size,
            calling_ae=UNKNOWN.calling_ae,
            called_ae=UNKNOWN.called_ae,
            caller_ip=UNKNOWN.ip,
        )
    )
    result.adopted += 1


def _belongs(uids: StorageUids, study: str, path: Path) -> bool:
    return uids.study == study and path.name.endswith(f".{uids.sop_instance}")
