"""Folders that an export or a conversion works in, and how a living one is told from what a kill left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fiona_dagster.config import DataRoot

SCRATCH = ".export-"
"""Begins the names of these folders; whoever works in one holds a flock on it."""


@contextmanager
def scratch_folder(root: DataRoot, project: str) -> Iterator[Path]:
    """A folder beside the working copies of a project, on their file system; it goes at the end.

    Args:
        root: the data root.
        project: whose copies are worked on.
    """
    parent = root.projects / project
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with scratch_in(parent) as scratch:
        yield scratch


@contextmanager
def scratch_in(parent: Path) -> Iterator[Path]:
    """The same, in the folder that working copies lie in."""
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent))
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(held, fcntl.LOCK_EX)  # tells `leftovers` that somebody is at it; goes with this process
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)
        os.close(held)
