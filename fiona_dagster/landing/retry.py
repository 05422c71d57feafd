"""What a person does about the quarantine: send an object through the door again, or discard it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import FileMeta, Refusal
from fiona_dagster.errors import UsageError
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.door import Landing
from fiona_dagster.landing.files import make_directory, room_errors, sync_directory
from fiona_dagster.landing.imports import Importer
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import IMPORTER, Caller, now
from fiona_dagster.landing.report import ImportReport
from fiona_dagster.landing.shelf import REASON, Quarantined, note, quarantined
from fiona_dagster.landing.workshop import NewFile

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Retried:
    """How one entry fared.

    Attributes:
        id: the entry.
        outcome: ``filed`` (it is in the archive or kept as a conflict, and left the quarantine) or
            ``refused`` (it stays, with the reason of today).
        message: why it was refused, "" if it was not.
        studies: where it was filed to.
    """

    id: str
    outcome: Literal["filed", "refused"]
    message: str
    studies: tuple[str, ...]


class _Again(Importer):
    """An import of quarantined bytes: what is refused as a whole is not put into quarantine twice."""

    own = ""
    refusal: Refusal | None = None

    def _quarantine(self, new: NewFile, label: str, meta: FileMeta | None, refusal: Refusal) -> None:
        if label == self.own:
            self.refusal = refusal
        else:  # an entry of an archive
            super()._quarantine(new, label, meta, refusal)


def find_entries(root: DataRoot, names: Iterable[str]) -> list[Quarantined]:
    """Entries by id, or by the beginning or end of one if no other has it.

    Raises:
        UsageError: none or several have that name; nothing was done.
    """
    everything = quarantined(root)
    found: dict[str, Quarantined] = {}
    for name in names:
        exact = [entry for entry in everything if entry.id == name]
        near = [entry for entry in everything if entry.id.startswith(name) or entry.id.endswith(name)]
        matching = exact or near
        if not name or len(matching) != 1:
            shown = "".join(c if c.isprintable() else "?" for c in name)[:80]
            why = "is the beginning or end of several ids" if matching else "is not in quarantine"
            raise UsageError(f"{shown}: {why}; `fiona quarantine list` shows the ids")
        found[matching[0].id] = matching[0]
    return list(found.values())


def retry(root: DataRoot, entries: Iterable[Quarantined], *, reserve_mb: int = 0) -> list[Retried]:
    """Sends entries through the door again, each as from its first sender.

    An entry leaves the quarantine only after its bytes are durable in the archive (or kept as a conflict); a
    kill in between leaves it in both, and the next retry counts it as a repeat.

    Raises:
        StorageFull: no room; what was done so far stays done.
    """
    results = []
    with Landing(root, reserve_mb=reserve_mb) as landing:
        for entry in entries:
            if entry.has_bytes:
                results.append(_retry(root, landing, entry))
    return results


def _retry(root: DataRoot, landing: Landing, entry: Quarantined) -> Retried:
    report = ImportReport()
    with landing.visit(_caller(entry)) as visit:
        again = _Again(landing, visit, report, source="quarantine")
        again.own = str(entry.path)
        fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            whole = again.take_open(fd, again.own)
        finally:
            os.close(fd)
    refusal = again.refusal
    if refusal is None and report.skipped:
        refusal = Refusal("media_directory", 0, "a media directory (DICOMDIR) is no object of its own")
    if refusal is None and not whole:
        refusal = Refusal("unpacked_in_part", 0, "archive with entries that could not be unpacked")
    if refusal is not None:
        _refused_again(root, entry, refusal)
        return Retried(entry.id, "refused", refusal.message, tuple(sorted(report.studies)))
    note(root, entry.id, "filed", by=operator(), studies=sorted(report.studies), retries=entry.retries + 1)
    _remove(root, entry)
    return Retried(entry.id, "filed", "", tuple(sorted(report.studies)))


def _caller(entry: Quarantined) -> Caller:
    values = (entry.text("calling_ae"), entry.text("called_ae"), entry.text("caller_ip"))
    return Caller(*values) if all(values) else IMPORTER


def _refused_again(root: DataRoot, entry: Quarantined, refusal: Refusal) -> None:
    document = {
        "time": now(),
        "size": entry.size,
        "source": "unknown",
        **entry.reason,
        "code": refusal.code,
        "message": refusal.message,
        "element": f"{refusal.element:08X}" if refusal.element else "",
        "retries": entry.retries + 1,
        "retried": now(),
    }
    with room_errors(root.quarantine):
        write_json_new(entry.path.with_suffix(REASON), document)
        sync_directory(root.quarantine)


def discard(root: DataRoot, entries: Iterable[Quarantined], *, acknowledged: bool = False) -> list[str]:
    """Deletes entries for good; who, when, and the digest of the bytes stay in the quarantine's log.

    Args:
        root: the data root.
        entries: as :func:`find_entries` gives them.
        acknowledged: also such that a sender may have been told Success for.

    Raises:
        UsageError: one of them may have been acknowledged; nothing was deleted.
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`; nothing was deleted.

    Returns:
        The ids that are gone.
    """
    chosen = list(entries)
    held = [entry.id for entry in chosen if entry.acknowledged]
    if held and not acknowledged:
        raise UsageError(
            f"{held[0]}: stood in the archive, a sender may have deleted its copy; "
            "--acknowledged discards it all the same"
        )
    with Use(root):
        make_directory(root.quarantine)
        for entry in chosen:
            note(
                root,
                entry.id,
                "discarded",
                by=operator(),
                size=entry.size,
                sha256=_sha256(entry) if entry.has_bytes else "",
                code=entry.text("code"),
                source=entry.text("source"),
                acknowledged=entry.acknowledged,
            )
            _remove(root, entry)
    return [entry.id for entry in chosen]


def _remove(root: DataRoot, entry: Quarantined) -> None:
    """Bytes first: bytes without a reason would be a riddle after a crash."""
    entry.path.unlink(missing_ok=True)
    entry.path.with_suffix(REASON).unlink(missing_ok=True)
    sync_directory(root.quarantine)


def _sha256(entry: Quarantined) -> str:
    import hashlib  # see landing.compare

    digest = hashlib.sha256()
    with entry.path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def operator() -> str:
    """The account that gives the command; behind sudo, the one that called it."""
    import pwd

    name = os.environ.get("SUDO_USER", "")
    if name:
        return name[:64]
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
