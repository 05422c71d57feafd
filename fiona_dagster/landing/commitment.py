"""Requests for storage commitment that are to be answered: one JSON file each in ``site/.commitment``."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.files import make_directory, room_errors, sync_directory
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import now

log = logging.getLogger("fiona.landing")


@dataclass(frozen=True)
class PendingCommitment:
    """A request that was acknowledged and not yet answered.

    Attributes:
        time: when it came: UTC, ISO 8601 with microseconds and ``Z``.
        transaction: Transaction UID.
        references: pairs of SOP Class UID and SOP Instance UID.
        calling_ae: AE title of who asked.
        called_ae: AE title that it called.
        attempts: how often an answer was tried.
        not_before: when to try next; empty: at once.
    """

    time: str
    transaction: str
    references: tuple[tuple[str, str], ...]
    calling_ae: str
    called_ae: str
    attempts: int = 0
    not_before: str = ""


def commitment_folder(root: DataRoot) -> Path:
    """Where the requests lie."""
    return root.site / ".commitment"


def keep_request(
    root: DataRoot,
    transaction: str,
    references: tuple[tuple[str, str], ...],
    *,
    calling_ae: str,
    called_ae: str,
) -> None:
    """Keeps a request; it is durable when this returns.

    Raises:
        StorageFull: no room; the request must not be acknowledged.
    """
    time = now()
    pending = PendingCommitment(time, transaction, references, calling_ae, called_ae)
    _write(commitment_folder(root) / f"{time.replace(':', '')}-{os.urandom(4).hex()}.json", pending)


def postpone(path: Path, pending: PendingCommitment, not_before: str) -> None:
    """Notes that an attempt failed."""
    _write(path, replace(pending, attempts=pending.attempts + 1, not_before=not_before))


def keep_references(path: Path, pending: PendingCommitment, references: tuple[tuple[str, str], ...]) -> None:
    """Leaves only these of what is to be answered."""
    _write(path, replace(pending, references=references))


def forget_request(path: Path) -> None:
    """The request was answered."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def pending_requests(root: DataRoot) -> list[tuple[Path, PendingCommitment]]:
    """All requests of one ``site/`` tree, oldest first; a file that can't be read is named in the log."""
    folder = commitment_folder(root)
    found = []
    for path in sorted(folder.glob("[!.]*.json")) if folder.is_dir() else ():
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            pairs = tuple((str(one), str(other)) for one, other in document.pop("references"))
            found.append((path, PendingCommitment(references=pairs, **document)))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError):
            log.error("%s: is no request for storage commitment; remove it", path)  # noqa: TRY400
    return found


def _write(path: Path, pending: PendingCommitment) -> None:
    with room_errors(path.parent):
        make_directory(path.parent)
        write_json_new(path, asdict(pending))
        sync_directory(path.parent)
