"""Small file systems of their own: a missing one skips a test, or fails it where peers are required."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.peers_fixtures import unavailable


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system in memory over an empty folder.

    Args:
        folder: the place.
        options: of mount(8) for tmpfs, such as ``size=4m``.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"{options},mode=700", "fiona-test", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        unavailable("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
