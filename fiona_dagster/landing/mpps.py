"""Modality Performed Procedure Steps as they stand: ``site/scanner/MPPS.<UID>``, as in the original.

The files hold the data set as the modality sent it, patient included; what others need of a step stands in
the journals of evidence (:mod:`evidence`), without the patient.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.files import make_directory, room_errors, sync_directory


def step_file(root: DataRoot, instance: str) -> Path:
    """The file of a step; the UID must be sound (``is_uid``)."""
    return root.scanner / f"MPPS.{instance}"


def write_step(root: DataRoot, instance: str, content: bytes) -> None:
    """Writes or replaces a step; it is durable when this returns.

    Args:
        root: the data root.
        instance: SOP Instance UID, sound.
        content: a DICOM file (PS3.10).

    Raises:
        StorageFull: no room; what was there before still is.
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`; nothing was written.
    """
    path = step_file(root, instance)
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    with Use(root), room_errors(path.parent):
        make_directory(path.parent)
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def remove_old_steps(root: DataRoot, days: float) -> int:
    """Removes steps that were not touched for so many days, and what a crash left; returns how many."""
    removed = 0
    for path in root.scanner.glob("*MPPS.*") if root.scanner.is_dir() else ():
        if path.stat().st_mtime < time.time() - days * 86400:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
