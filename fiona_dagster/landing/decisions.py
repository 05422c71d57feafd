"""What a person decides about a conflict, carried out so that it can be cut short anywhere.

The decision is written into the reason file first; everything after it is done again by
:func:`finish_decisions` if the process dies. Order for *accept*: decision flushed; old bytes linked to
``superseded/``; new bytes renamed over the old name (the archive holds one of both at every moment); journal
lines flushed; reason moved away. So journals alone tell what the archive holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids, is_uid
from fiona_dagster.errors import PermanentError, UsageError
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.compare import digest_of, same_object
from fiona_dagster.landing.conflicts import (
    ACCEPTED,
    interrupted_decisions,
    reason_of,
    rejected_folder,
    superseded_folder,
    waiting_folder,
)
from fiona_dagster.landing.files import make_directory, rename_new, room_errors, sync_directory
from fiona_dagster.landing.inspect import inspect_file
from fiona_dagster.landing.journal import Journal
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import OPERATOR, Kind, Receipt, now

Decision = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class OpenConflict:
    """A file that waits for a decision.

    Attributes:
        id: name of the file, unique within the study.
        study: StudyInstanceUID.
        path: the file.
        reason: what stands beside it.
    """

    id: str
    study: str
    path: Path
    reason: dict[str, Any]

    @property
    def sop_instance(self) -> str:
        """The instance, from the file's name."""
        return self.id.partition(".")[2].rpartition(".")[0]


def open_conflicts(root: DataRoot, study: str | None = None) -> list[OpenConflict]:
    """Everything that waits for a decision, by study and name."""
    folders = sorted(root.conflicts.iterdir()) if root.conflicts.is_dir() else []
    found = []
    for folder in folders:
        if not is_uid(folder.name) or study not in (None, folder.name):
            continue
        for path in sorted(folder.glob("*.dcm")):
            if not path.name.startswith("."):
                found.append(OpenConflict(path.stem, folder.name, path, reason_of(path)))
    return found


def decide(root: DataRoot, conflict: OpenConflict, decision: Decision, *, by: str, reason: str = "") -> None:
    """Carries out a decision; the caller holds the study's lock.

    Args:
        root: the data root.
        conflict: what is decided about.
        decision: ``accepted``: these bytes become the instance, the old ones are kept as superseded;
            ``rejected``: these bytes are kept aside for good.
        by: who decided.
        reason: why; nothing identifying.

    Raises:
        UsageError: it does not wait for a decision any more.
        StorageFull: no room; the decision is finished later.
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`; nothing was decided.
    """
    if not conflict.path.is_file():
        raise UsageError(f"{conflict.id}: no such conflict; `fiona conflicts list` shows those that are open")
    document = {**conflict.reason, "decision": {"state": decision, "time": now(), "by": by, "reason": reason}}
    if decision == "accepted":
        archived = archived_of(root, conflict.study, conflict.path)
        if archived.is_file():
            name = f"{archived.name}.{digest_of(archived)[:16]}.dcm"
            document["decision"]["superseded"] = name
    with Use(root), room_errors(root.conflicts):
        write_json_new(conflict.path.with_suffix(".json"), document)
        sync_directory(conflict.path.parent)
        _finish(root, conflict.path, conflict.study, document)


def finish_decisions(root: DataRoot, study: str | None = None) -> int:
    """Carries on with decisions that were cut short; the caller holds the lock of the study.

    Returns:
        How many there were.
    """
    waiting = [(path, uid) for path, uid in interrupted_decisions(root) if study in (None, uid)]
    with Use(root):
        for path, uid in waiting:
            _finish(root, path, uid, reason_of(path))
    return len(waiting)


def _finish(root: DataRoot, path: Path, study: str, document: dict[str, Any]) -> None:
    decision = document["decision"]
    if decision["state"] == "accepted":
        lines = _accept(root, path, study, document)
        rest = root.conflicts / ACCEPTED / study
    else:
        lines = _reject(root, path, study, decision)
        rest = rejected_folder(root, study)
    journal = Journal(root, OPERATOR, study)
    try:
        for receipt in lines:
            journal.append(receipt)
    finally:
        journal.close()
    _folder(rest)
    side = path.with_suffix(".json")
    side.replace(rest / side.name)
    sync_directory(rest)
    sync_directory(path.parent)


def _accept(root: DataRoot, path: Path, study: str, document: dict[str, Any]) -> list[Receipt]:
    decision = document["decision"]
    archived = archived_of(root, study, path)
    old = None
    if decision.get("superseded"):
        old = _folder(superseded_folder(root, study)) / Path(decision["superseded"]).name
    if path.is_file():
        if old is not None and not old.exists():
            write_json_new(old.with_suffix(".json"), {**decision, "by_conflict": path.name})
            os.link(archived, old)
        if old is not None:
            sync_directory(old.parent)
        path.replace(archived)
        sync_directory(archived.parent)
        sync_directory(path.parent)
    lines = [_line(root, "accepted", archived, decision["time"], name=path)]
    if old is not None:
        lines.insert(0, _line(root, "superseded", old, decision["time"], name=old))
    return lines


def _reject(root: DataRoot, path: Path, study: str, decision: dict[str, Any]) -> list[Receipt]:
    place = _folder(rejected_folder(root, study)) / path.name
    if path.is_file() and not rename_new(path, place):
        if not same_object(path, place):
            raise PermanentError(f"{place}: holds other bytes already; move it away and reject again")
        path.unlink()
    sync_directory(place.parent)
    return [_line(root, "rejected", place, decision["time"], name=path)]


def _folder(path: Path) -> Path:
    make_directory(path)
    return path


def archived_of(root: DataRoot, study: str, path: Path) -> Path:
    """Where the instance of a kept-aside file stands in the archive, or would stand."""
    folder = root.archive / f"scp_{study}"
    instance = path.stem.partition(".")[2].rpartition(".")[0]
    for found in sorted(folder.glob(f"*.{instance}")):
        if found.name.partition(".")[2] == instance and not found.name.startswith("."):
            return found
    return folder / path.stem.rpartition(".")[0]


def _line(root: DataRoot, kind: Kind, place: Path, time: str, *, name: Path) -> Receipt:
    """A journal line about bytes at ``place`` that are called ``name`` for ever."""
    inspection = inspect_file(place)
    uids = inspection.verdict
    if not isinstance(uids, StorageUids):
        raise PermanentError(f"{place}: can't be read ({uids.message}); restore it from the backup")
    return Receipt(
        time=time,
        kind=kind,
        StudyInstanceUID=uids.study,
        SeriesInstanceUID=uids.series,
        SOPInstanceUID=uids.sop_instance,
        SOPClassUID=uids.sop_class,
        transfer_syntax=inspection.transfer_syntax,
        path=name.relative_to(root.path).as_posix(),
        size=place.stat().st_size,
        calling_ae=OPERATOR.calling_ae,
        called_ae=OPERATOR.called_ae,
        caller_ip=OPERATOR.ip,
    )


def adopt_kept_aside(root: DataRoot, path: Path, study: str) -> bool:
    """Writes the journal line that a kept-aside file lacks (killed before the answer).

    Returns:
        False if the file can't be read; it stays as it is.
    """
    try:
        receipt = _line(root, "conflict", path, now(), name=path)
    except PermanentError:
        return False
    if receipt.StudyInstanceUID != study or path.parent != waiting_folder(root, study):
        return False
    journal = Journal(root, OPERATOR, study)
    try:
        journal.append(receipt)
    finally:
        journal.close()
    return True
