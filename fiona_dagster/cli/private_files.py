"""Files that a person asked for outside the data root: theirs alone, and there as a whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from fiona_dagster.errors import UsageError


def write_private(path: Path, write: Callable[[Path], object] | bytes) -> None:
    """Writes a file with mode 0600, whatever the umask is and whatever was there.

    Args:
        path: takes the place of a file of that name; its folder is made if missing.
        write: the content, or what writes it to the path that it is given.

    Raises:
        UsageError: it can't be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(descriptor)
        if isinstance(write, bytes):
            part.write_bytes(write)
        else:
            write(part)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)
