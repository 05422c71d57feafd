"""What lies in ``quarantine/``, read back: bytes and the reason beside them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.landing.receipt import now

BYTES, REASON = ".dcm", ".json"
PART = ".part"


@dataclass(frozen=True)
class Quarantined:
    """One entry of the quarantine.

    Attributes:
        id: name of both files without their ending.
        path: the bytes (they may be missing, see ``has_bytes``).
        has_bytes: whether the bytes are there.
        has_reason: whether a readable reason is there.
        size: bytes.
        reason: what stands in the reason file; empty if there is none that can be read.
    """

    id: str
    path: Path
    has_bytes: bool
    has_reason: bool
    size: int
    reason: dict[str, Any]

    def text(self, key: str) -> str:
        """One entry of the reason as printable text, "" if it is not there."""
        value = self.reason.get(key, "")
        return "".join(c if c.isprintable() else "?" for c in str(value))[:500]

    @property
    def acknowledged(self) -> bool:
        """Whether a sender may have been told Success: the bytes stood in the archive before."""
        return self.text("source") == "archive"

    @property
    def study(self) -> str:
        """The study, as far as it is known."""
        return self._uid("StudyInstanceUID")

    @property
    def sop_instance(self) -> str:
        """The instance, as far as it is known."""
        return self._uid("SOPInstanceUID")

    @property
    def retries(self) -> int:
        """How often it was sent through the door again."""
        value = self.reason.get("retries")
        return value if isinstance(value, int) else 0

    def _uid(self, key: str) -> str:
        text = self.text(key)
        return text if is_uid(text) else ""


def shelf_names(root: DataRoot) -> tuple[set[str], set[str]]:
    """Ids of what has bytes, and of what has a reason file; hidden files are none of both."""
    try:
        names = os.listdir(root.quarantine)  # noqa: PTH208 - names only, however many there are
    except FileNotFoundError:
        return set(), set()
    visible = [name for name in names if not name.startswith(".")]
    return (
        {name.removesuffix(BYTES) for name in visible if name.endswith(BYTES)},
        {name.removesuffix(REASON) for name in visible if name.endswith(REASON)},
    )


def quarantine_count(root: DataRoot) -> int:
    """How many objects are in quarantine."""
    return len(shelf_names(root)[0])


def quarantined(root: DataRoot) -> list[Quarantined]:
    """Everything in quarantine, oldest first, also entries that lack bytes or reason."""
    with_bytes, with_reason = shelf_names(root)
    return [read_entry(root, name) for name in sorted(with_bytes | with_reason)]


def read_entry(root: DataRoot, name: str) -> Quarantined:
    """One entry; ``name`` is its id."""
    path = root.quarantine / f"{name}{BYTES}"
    try:
        size, has_bytes = path.stat().st_size, True
    except FileNotFoundError:
        size, has_bytes = 0, False
    reason: Any = None
    try:
        reason = json.loads(path.with_suffix(REASON).read_bytes())
    except (OSError, ValueError, RecursionError):
        reason = None
    has_reason = isinstance(reason, dict)
    return Quarantined(name, path, has_bytes, has_reason, size, reason if has_reason else {})


def log_file(root: DataRoot) -> Path:
    """What was taken out of quarantine, by whom and when: one JSON document a line."""
    return root.quarantine / ".log.jsonl"


def note(root: DataRoot, name: str, what: str, **more: Any) -> None:
    """Adds a flushed line to the quarantine's log; nothing identifying."""
    line = json.dumps({"time": now(), "id": name, "what": what, **more}, sort_keys=True).encode() + b"\n"
    fd = os.open(log_file(root), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)
