"""Same SOP Instance UID, other data set: where such files lie, and what a person decides about them.

``site/conflicts/<Study>/`` holds what waits for a decision, ``site/conflicts/rejected/<Study>/`` what was
rejected, ``site/conflicts/superseded/<Study>/`` what stood in the archive before a conflict was accepted,
``site/conflicts/accepted/<Study>/`` the reasons of what is in the archive now.
Nothing is ever removed; each file has its reason beside it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid

ACCEPTED, REJECTED, SUPERSEDED = "accepted", "rejected", "superseded"
_CONFLICTS = re.compile(r"(sites/\w+/)?site/conflicts/")


def is_set_aside(path: str) -> bool:
    """Whether a path of a journal line, relative to the data root, lies beside the archive."""
    return _CONFLICTS.match(path) is not None


def waiting_folder(root: DataRoot, study: str) -> Path:
    """Files of a study that wait for a decision."""
    return root.conflicts / study


def rejected_folder(root: DataRoot, study: str) -> Path:
    """Files of a study that a person rejected."""
    return root.conflicts / REJECTED / study


def superseded_folder(root: DataRoot, study: str) -> Path:
    """Bytes of a study that gave way to an accepted conflict."""
    return root.conflicts / SUPERSEDED / study


def place_of(root: DataRoot, path: str, study: str, state: str) -> Path | None:
    """Where the bytes of a set-aside file are.

    Args:
        root: the data root.
        path: its name for ever, relative to the data root.
        study: StudyInstanceUID.
        state: ``conflict``, ``accepted``, ``rejected`` or ``superseded``.

    Returns:
        The file, or None for ``accepted``: those bytes are in the archive.
    """
    if state == "accepted":
        return None
    name = path.rpartition("/")[2]
    tree = root.tree_of(path)
    return rejected_folder(tree, study) / name if state == REJECTED else root.path / path


def kept_at(root: DataRoot, study: str, name: str) -> Path | None:
    """Where a file of this name (it holds the digest) was kept aside before, whatever was decided since."""
    folders = (waiting_folder, rejected_folder, superseded_folder)
    return next((path for folder in folders if (path := folder(root, study) / name).exists()), None)


def reason_of(path: Path) -> dict[str, Any]:
    """What stands beside a kept-aside file; empty if it can't be read."""
    try:
        document = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def decision_waits(root: DataRoot, path: str) -> bool:
    """Whether somebody decided about this file (relative to the data root) and the moves are not done yet."""
    return "decision" in reason_of(root.path / path)


def interrupted_decisions(root: DataRoot) -> list[tuple[Path, str]]:
    """(where the bytes were kept, study) of decisions that were cut short by a kill."""
    return [
        (path.with_suffix(".dcm"), path.parent.name)
        for path in reasons(root)
        if "decision" in reason_of(path.with_suffix(".dcm"))
    ]


def reasons(root: DataRoot) -> list[Path]:
    """The reason files of everything that waits for a decision, or for its end."""
    studies = sorted(root.conflicts.iterdir()) if root.conflicts.is_dir() else []
    return [path for folder in studies if is_uid(folder.name) for path in sorted(folder.glob("*.json"))]
