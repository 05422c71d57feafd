"""Beside the archive, after a crash: decisions cut short are finished, leftovers removed, lines written."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import Busy
from fiona_dagster.landing.conflicts import decision_waits, interrupted_decisions
from fiona_dagster.landing.decisions import adopt_kept_aside, finish_decisions
from fiona_dagster.landing.files import make_directory
from fiona_dagster.landing.journal import open_associations, read_journals
from fiona_dagster.landing.locks import study_lock
from fiona_dagster.landing.shelf import BYTES, PART, REASON, note, shelf_names

log = logging.getLogger("fiona.landing")

STALE_SECONDS = 600.0
"""A part file lives for milliseconds, a reason waits for its bytes as long: older ones belong to nobody."""


def tidy(root: DataRoot) -> None:
    """Brings conflicts and quarantine back to a known state; safe beside everything that runs."""
    for _, study in interrupted_decisions(root):
        try:
            with study_lock(root, study, blocking=False):
                finish_decisions(root, study)
        except Busy:
            continue  # somebody is at it
    for folder in _conflict_folders(root):
        _remove_stale_parts(folder)
        _adopt_kept_aside(root, folder)
    _remove_stale_parts(root.quarantine)
    _forget_reasons_without_bytes(root)


def _conflict_folders(root: DataRoot) -> list[Path]:
    if not root.conflicts.is_dir():
        return []
    return sorted(path for path in root.conflicts.iterdir() if is_uid(path.name) and path.is_dir())


def _remove_stale_parts(folder: Path) -> None:
    if not folder.is_dir():
        return
    for name in os.listdir(folder):  # noqa: PTH208 - names only, however many there are
        path = folder / name
        if name.startswith(".") and name.endswith(PART) and _is_stale(path):
            path.unlink(missing_ok=True)


def _is_stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return False


def _adopt_kept_aside(root: DataRoot, folder: Path) -> None:
    study = folder.name
    paths = {path.relative_to(root.path).as_posix() for path in folder.glob("*.dcm")}
    if open_associations(root, study):  # asked after the listing, as for the archive
        return
    for _, _, receipt in read_journals(root, {}, study=study, on_damage=lambda _: None):
        paths.discard(receipt.path)
    for path in sorted(paths):
        if not decision_waits(root, path) and adopt_kept_aside(root, root.path / path, study):
            log.warning("study %s: a conflict without a journal line was adopted", study)
    for side in folder.glob("*.json"):
        relative = side.with_suffix(".dcm").relative_to(root.path).as_posix()
        lonely = not side.with_suffix(".dcm").exists() and not decision_waits(root, relative)
        if lonely and _is_stale(side):
            side.unlink(missing_ok=True)  # written just before a kill; the bytes never came


def _forget_reasons_without_bytes(root: DataRoot) -> None:
    with_bytes, with_reason = shelf_names(root)
    for name in sorted(with_reason - with_bytes):
        path = root.quarantine / f"{name}{REASON}"
        if _is_stale(path) and not path.with_suffix(BYTES).exists():
            make_directory(root.quarantine)
            note(root, name, "reason without bytes removed", by="fiona")
            path.unlink(missing_ok=True)
