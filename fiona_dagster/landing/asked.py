"""Storage commitment that we asked a research PACS for: one JSON file each in ``site/.commitment/asked``.

The delivery writes what it asks before it asks; the answer may come later, on an association to our receiver,
which puts it into the same file. Both are durable before anybody is told so.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.commitment import commitment_folder
from fiona_dagster.landing.files import make_directory, room_errors, sync_directory
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import now

log = logging.getLogger("fiona.landing")


@dataclass(frozen=True)
class AskedCommitment:
    """What we asked for, and the answer.

    Attributes:
        time: when it was asked: UTC, ISO 8601 with microseconds and ``Z``.
        transaction: Transaction UID.
        target: name of the target in config.json.
        peer_ae: AE title of the PACS; an answer must come from it.
        what: digest of what was asked for, with the contents that it should have.
        instances: SOP Instance UIDs that were asked for.
        answered: when the answer came; empty: not yet.
        committed: SOP Instance UIDs that the PACS keeps safe.
        failed: those that it does not, with its Failure Reason.
        transfer: number of the transfer in the ledger; 0: not known.
        woken: the delivery was woken for the answer.
    """

    time: str
    transaction: str
    target: str
    peer_ae: str
    what: str
    instances: tuple[str, ...] = field(repr=False)
    answered: str = ""
    committed: tuple[str, ...] = field(default=(), repr=False)
    failed: Mapping[str, int] = field(default_factory=dict, repr=False)
    transfer: int = 0
    woken: bool = False

    @property
    def refused(self) -> dict[str, int]:
        """What an answer does not promise: with its Failure Reason, 0 for what it left out."""
        if not self.answered:
            return {}
        missing = set(self.instances) - set(self.committed)
        return {uid: self.failed.get(uid, 0) for uid in sorted(missing | set(self.failed))}


def _folder(root: DataRoot) -> Path:
    return commitment_folder(root) / "asked"


def keep_asked(root: DataRoot, asked: AskedCommitment) -> None:
    """Keeps what is about to be asked, or its answer; it is durable when this returns.

    Raises:
        StorageFull: no room.
    """
    folder = _folder(root)
    with room_errors(folder.parent):
        make_directory(folder.parent)
        make_directory(folder)
        write_json_new(folder / f"{asked.transaction}.json", asdict(asked))


def keep_answer(
    root: DataRoot, transaction: str, calling_ae: str, committed: tuple[str, ...], failed: Mapping[str, int]
) -> bool:
    """Keeps an answer with the request that it belongs to; a second one changes nothing.

    Args:
        root: the data root.
        transaction: Transaction UID, well formed.
        calling_ae: who says so.
        committed: SOP Instance UIDs that are kept safe.
        failed: those that are not, with the Failure Reason.

    Returns:
        Whether this peer was asked so.

    Raises:
        StorageFull: no room; the answer must not be acknowledged.
    """
    with _alone(root):
        asked = _read(_folder(root) / f"{transaction}.json")
        if asked is None or asked.peer_ae != calling_ae:
            return False
        if not asked.answered:
            keep_asked(root, replace(asked, answered=now(), committed=committed, failed=dict(failed)))
    return True


def keep_woken(root: DataRoot, transaction: str) -> None:
    """Keeps that the delivery was woken for the answer; what is settled meanwhile stays settled.

    Raises:
        StorageFull: no room.
    """
    with _alone(root):
        asked = _read(_folder(root) / f"{transaction}.json")
        if asked is not None:
            keep_asked(root, replace(asked, woken=True))


def forget_asked(root: DataRoot, transaction: str) -> None:
    """It is settled, for good: nobody who had read it before brings it back."""
    with _alone(root):
        path = _folder(root) / f"{transaction}.json"
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_directory(path.parent)


@contextmanager
def _alone(root: DataRoot) -> Iterator[None]:
    """Nobody else changes or forgets a request meanwhile: sensor, delivery and receiver are processes."""
    try:
        handle = os.open(_folder(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # nothing was ever asked for
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def all_asked(root: DataRoot) -> list[AskedCommitment]:
    """Everything that was asked for and is not settled."""
    folder = _folder(root)
    found = [_read(path) for path in sorted(folder.glob("[!.]*.json"))] if folder.is_dir() else []
    return [asked for asked in found if asked is not None]


def awaits_answer(root: DataRoot, calling_ae: str) -> bool:
    """Whether an answer of this peer is awaited."""
    return any(asked.peer_ae == calling_ae for asked in all_asked(root))


def _read(path: Path) -> AskedCommitment | None:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        document["instances"] = tuple(map(str, document["instances"]))
        document["committed"] = tuple(map(str, document["committed"]))
        document["failed"] = {str(uid): int(reason) for uid, reason in document["failed"].items()}
        return AskedCommitment(**document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        log.error("%s: is no request of ours for storage commitment; remove it", path)  # noqa: TRY400
        return None
