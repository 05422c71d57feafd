"""What lies beside the archive: conflicts, quarantine, unfinished files of processes that are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger, records_folder
from fiona_dagster.operations.accounting.archive import Lines
from fiona_dagster.operations.accounting.findings import MAINTENANCE, RECEIVER, Account

YOUNG_SECONDS = 600.0
"""A part file is finished or given up within seconds; one that is younger than this is somebody's work."""


def check_set_aside(root: DataRoot, ledger: Ledger, lines: Lines, account: Account) -> None:
    """Conflicts, rejected and superseded files against the journals."""
    rows = ledger.store.rows("SELECT path, study, state, size FROM set_aside")
    account.checked["set aside"] = len(rows)
    expected: set[Path] = set()
    for row in rows:
        place = landing.place_of(root, row["path"], row["study"], row["state"])
        decided = landing.decision_waits(root, row["path"])
        if place is None:
            continue
        expected.add(place)
        if row["path"] not in lines.aside:
            account.add("no_receipt", row["study"], row["path"], "set aside, but no journal tells of it")
        if decided:
            continue  # a decision that was cut short; told below
        try:
            size = place.stat().st_size
        except FileNotFoundError:
            account.add(
                "lost_file", row["study"], _relative(root, place), "was set aside, but is not there any more"
            )
            continue
        if size != row["size"]:
            account.add(
                "size_differs",
                row["study"],
                _relative(root, place),
                f"has {size} bytes, received were {row['size']}",
            )
    interrupted = [found for tree in root.site_trees() for found in landing.interrupted_decisions(tree)]
    unfinished = {study for _, study in interrupted}
    for path, study in _aside_files(root):
        tree = root.tree_of(_relative(root, path))
        if study in unfinished:
            continue  # told below
        if path.suffix == ".dcm" and path not in expected and not landing.open_associations(tree, study):
            handled = MAINTENANCE if path.parent == landing.waiting_folder(tree, study) else ""
            account.add(
                "no_journal_line", study, _relative(root, path), "set aside without a journal line", handled
            )
    for path, study in interrupted:
        account.add(
            "interrupted_decision",
            study,
            _relative(root, path),
            "a decision about a conflict was cut short",
            MAINTENANCE,
        )


def _aside_files(root: DataRoot) -> Iterator[tuple[Path, str]]:
    folders = [
        tree.conflicts / name
        for tree in root.site_trees()
        for name in ("", landing.REJECTED, landing.SUPERSEDED)
    ]
    for parent in folders:
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if folder.is_dir() and folder not in folders:
                yield from ((path, folder.name) for path in sorted(folder.iterdir()) if path.name[0] != ".")


def check_quarantine(root: DataRoot, account: Account) -> None:
    """Bytes and reasons must come in pairs."""
    with_bytes, with_reason = landing.shelf_names(root)
    account.checked["in quarantine"] = len(with_bytes)
    for name in sorted(with_bytes - with_reason):
        account.add(
            "no_reason",
            "",
            f"quarantine/{name}.dcm",
            f"bytes in quarantine without a reason; `fiona quarantine retry {name}` takes them up again",
        )
    for name in sorted(with_reason - with_bytes):
        path = root.quarantine / f"{name}.json"
        if _age(path) > YOUNG_SECONDS:
            account.add(
                "no_bytes",
                "",
                f"quarantine/{name}.json",
                "a reason in quarantine without its bytes (killed before they came; the source has them)",
                MAINTENANCE,
            )


def check_unfinished(root: DataRoot, account: Account) -> None:
    """Part files of dead processes."""
    trees = root.site_trees()
    for path in [path for tree in trees for path in landing.dead_workshops(tree)]:
        account.add(
            "unfinished", "", _relative(root, path), "unfinished files of a process that is gone", RECEIVER
        )
    folders = [root.quarantine, *_below(root.outbox), *_below(root.daic)]
    folders += [folder for tree in trees for folder in _below(tree.conflicts)]
    for folder in (*folders, records_folder(root)):
        for path in _parts(folder):
            if _age(path) > YOUNG_SECONDS:
                account.add(
                    "unfinished",
                    "",
                    _relative(root, path),
                    "unfinished file of a process that is gone",
                    MAINTENANCE,
                )


def _below(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _parts(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names only, however many there are
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name.startswith(".") and name.endswith(".part")]


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _relative(root: DataRoot, path: Path) -> str:
    return path.relative_to(root.path).as_posix()
