"""What must hold of a data root, whatever happened to it; read by our own readers."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Receipt, adopt_orphans, read_journals


@dataclass
class Promised:
    """What senders were told.

    Attributes:
        success: data sets that were answered with Success, by SOP Instance UID.
        refused: data sets that were answered with a refusal that promises quarantine.
        sent: every data set that was ever begun to be sent, by SOP Instance UID.
    """

    success: dict[str, list[bytes]] = field(default_factory=dict)
    refused: list[bytes] = field(default_factory=list)
    sent: dict[str, list[bytes]] = field(default_factory=dict)
    _answered: dict[str, int] = field(default_factory=dict)

    def acknowledge(self, instance: str, data: bytes) -> None:
        self.success.setdefault(instance, []).append(data)

    def next_of(self, instance: str) -> bytes:
        """The data set that the next answer about this instance is about; one association sends it."""
        answered = self._answered.get(instance, 0)
        self._answered[instance] = answered + 1
        return self.sent[instance][answered]

    def began(self, instance: str, data: bytes) -> None:
        self.sent.setdefault(instance, []).append(data)


def data_set_of(content: bytes) -> bytes:
    """The data set of a file with file meta."""
    if content[128:132] != b"DICM":
        return b""
    (length,) = struct.unpack_from("<I", content, 140)
    return content[144 + length :]


def _receipts(root: DataRoot) -> dict[str, list[Receipt]]:
    found: dict[str, list[Receipt]] = {}
    for _, _, receipt in read_journals(root, {}, on_damage=lambda _: None):
        found.setdefault(receipt.SOPInstanceUID, []).append(receipt)
    return found


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _archived(root: DataRoot) -> Iterator[Path]:
    for folder in root.archive.glob("scp_*"):
        yield from (path for path in folder.iterdir() if not path.name.startswith("."))


def _kept(root: DataRoot, promised: Promised) -> Iterator[str]:
    """Whether each acknowledged object is at the place that a valid journal line names, with equal bytes."""
    receipts = _receipts(root)
    for instance, data_sets in promised.success.items():
        lines = receipts.get(instance, [])
        contents = [data_set_of(_read(root.path / line.path)) for line in lines]
        for data in data_sets:
            if not lines:
                yield f"{instance}: acknowledged, but no journal has a line of it"
            elif data not in contents:
                sizes = sorted({len(content) for content in contents})
                yield f"{instance}: acknowledged, but its {len(data)} bytes are not there (only {sizes})"
        if not any(line.kind != "conflict" for line in lines):
            yield f"{instance}: acknowledged, but the archive has no line of it"


def _quarantined(root: DataRoot, promised: Promised) -> Iterator[str]:
    there = {data_set_of(_read(path)): path for path in root.quarantine.glob("*.dcm")}
    for data in promised.refused:
        if data not in there:
            yield f"a refused object of {len(data)} bytes is not in quarantine"
    for path in there.values():
        yield from _reason(path)


def _reason(path: Path) -> Iterator[str]:
    try:
        if not json.loads(_read(path.with_suffix(".json")) or b"{}"):
            yield f"{path}: no reason beside it"
    except ValueError:
        yield f"{path}: the reason beside it is torn"


def broken_promises(root: DataRoot, promised: Promised) -> list[str]:
    """What is wrong with a data root right after the fault, before anything repaired it."""
    return [*_kept(root, promised), *_quarantined(root, promised), *_torn(root, promised)]


def _torn(root: DataRoot, promised: Promised) -> Iterator[str]:
    """Nothing that is visible may be half there: files of the archive, conflicts, JSON documents."""
    conflicts = [path for path in root.conflicts.glob("*/*.dcm") if not path.name.startswith(".")]
    for path in [*_archived(root), *conflicts]:
        instance = path.name.removesuffix(".dcm").partition(".")[2]
        if path in conflicts:
            instance = instance.rpartition(".")[0]
            yield from _reason(path)
        if data_set_of(_read(path)) not in promised.sent.get(instance, []):
            yield f"{path.relative_to(root.path)}: visible, but nobody sent this"
    for path in root.path.rglob("*.json"):
        if not path.name.startswith("."):
            try:
                json.loads(_read(path))
            except ValueError:
                yield f"{path.relative_to(root.path)}: a torn document"


def age(root: DataRoot) -> None:
    """The restart comes later than what a living process may still be busy with (landing/tidy.py)."""
    for folder in (root.conflicts, root.quarantine):
        for path in folder.rglob("*"):
            os.utime(path, (time.time() - 3600,) * 2)


def broken_after_restart(root: DataRoot, promised: Promised, *, early_lines: bool = False) -> list[str]:
    """Does what a restarted receiver does, and says what is still wrong."""
    age(root)
    adopt_orphans(root, everything=True)
    return broken_when_settled(root, promised, early_lines=early_lines)


def broken_when_settled(root: DataRoot, promised: Promised, *, early_lines: bool = False) -> list[str]:
    """What is wrong although unfinished files were removed and unknown ones adopted.

    Args:
        root: the data root.
        promised: what senders were told.
        early_lines: the line of an object that was never answered may be there without its file: lines are
            flushed before names, which matters only on file systems without a common log (landing/door.py).
    """
    faults = broken_promises(root, promised)
    files: dict[str, list[str]] = {}
    for path in _archived(root):
        files.setdefault(path.name.partition(".")[2], []).append(path.relative_to(root.path).as_posix())
    receipts = _receipts(root)
    for instance, paths in files.items():
        if len(paths) > 1:
            faults.append(f"{instance}: there {len(paths)} times")
        if paths[0] not in {line.path for line in receipts.get(instance, [])}:
            faults.append(f"{instance}: in the archive without a journal line")
    for instance, lines in receipts.items():
        for line in lines:
            excused = early_lines and instance not in promised.success
            if not (excused or (root.path / line.path).is_file()):
                faults.append(f"{line.SOPInstanceUID}: the journal names a file that is not there")
    left = [path for path in (root.archive / ".incoming").glob("*/*") if path.is_file()]
    left += [
        path for path in (*root.conflicts.glob("*/.*"), *root.quarantine.glob(".*.part")) if path.is_file()
    ]
    lonely = [*root.conflicts.glob("*/*.json"), *root.quarantine.glob("*.json")]
    left += [path for path in lonely if not path.with_suffix(".dcm").is_file()]
    return faults + [f"{path.relative_to(root.path)}: a leftover" for path in left]
