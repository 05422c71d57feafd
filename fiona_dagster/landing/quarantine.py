"""What could not be read or accepted: the bytes, and the reason beside them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.landing.files import make_directory, rename_new, room_errors, sync_directory
from fiona_dagster.landing.receipt import now


def write_json_new(path: Path, document: dict[str, Any]) -> None:
    """Writes a JSON file that appears complete or not at all and is durable; an existing one is replaced."""
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def quarantine_file(root: DataRoot, source: Path, reason: dict[str, Any]) -> Path:
    """Moves a file into ``quarantine/`` and writes the reason beside it.

    Args:
        root: the data root.
        source: the file, already flushed; it is moved, so callers that must keep theirs pass a copy.
        reason: JSON-able facts (``code``, ``message``, where it came from), without any value of an
            attribute but well-formed UIDs. ``time`` and ``size`` are added.

    Returns:
        Where the bytes are now; the reason has the same name with ``.json``.

    Raises:
        StorageFull: no room for it.
    """
    folder = root.quarantine
    with room_errors(folder):
        make_directory(folder)
        while True:
            time = now()
            target = folder / f"{time.replace(':', '')}-{os.urandom(4).hex()}.dcm"
            # The reason comes first: bytes without a reason would be a riddle after a crash.
            write_json_new(
                target.with_suffix(".json"), {"time": time, "size": source.stat().st_size, **reason}
            )
            if _move(source, target):
                break
        sync_directory(folder)
    return target


def _move(source: Path, target: Path) -> bool:
    try:
        return rename_new(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    part = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    moved = rename_new(part, target)
    source.unlink()
    return moved
