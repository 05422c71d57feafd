"""Files that are delivered beside a package: the original's triple of each series.

A package's manifest lists them with size and SHA-256 (``beside``), so that the signature and the ledger's
digest of the package stand for them too. They lie in a folder that has the package's name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified, UsageError
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.verify import read_manifest

SIDE_FILES = ("", ".md5", ".sha256", ".json", ".proofs.json")
"""A package and what lies next to it, by what their names end in."""


@dataclass(frozen=True)
class Companion:
    """One file beside a package.

    Attributes:
        path: where it lies.
        sha256: what the package's manifest says of it.
    """

    path: Path
    sha256: str


_GONE = "the package is gone; package the study again"
_ANOTHER = "the package in hand is not the one in the ledger; package the study again"


def folder_of(package: Path) -> Path:
    """Where the files beside a package lie."""
    return package.with_suffix("")


def listed(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What a manifest says of files beside its package."""
    found = []
    for path in sorted(files, key=lambda each: each.name):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found.append({"name": path.name, "size": path.stat().st_size, "sha256": digest})
    return found


def companions_of(package: Path, sha256: str) -> list[Companion]:
    """The files that go with a package; empty for most.

    Args:
        package: the ZIP.
        sha256: its digest in the ledger; the manifest of another ZIP is not believed.

    Raises:
        NotVerified: the ZIP is not the one in the ledger, or gone.
        CopyUnavailable: the disk does not give it.
    """
    with from_copy(_GONE), package.open("rb") as stream:
        entries: Sequence[Mapping[str, Any]] = _manifest(package).get("beside", ())
        if entries and hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise NotVerified(_ANOTHER)
    names = [str(entry["name"]) for entry in entries]
    if not all(zipformat.is_safe_name(name) and "/" not in name for name in names):
        raise NotVerified("the package's manifest lists a file that has no plain name")
    folder = folder_of(package)
    return [Companion(folder / str(entry["name"]), str(entry["sha256"])) for entry in entries]


def _manifest(package: Path) -> dict[str, Any]:
    try:
        return read_manifest(package)
    except UsageError:
        raise NotVerified(_ANOTHER) from None


def record_of(package: Path) -> Companion | None:
    """The series records beside a package (``<package>.json``), if its manifest vouches for them.

    Args:
        package: the ZIP, which was just compared with the ledger.
    """
    entry: Mapping[str, Any] | None = _manifest(package).get("record")
    if entry is None:  # of an older version
        return None
    return Companion(package.with_name(f"{package.name}.json"), str(entry["sha256"]))


def move_beside(package: Path, target: Path) -> None:
    """Brings the files beside a package to where the package goes; may be called again after a kill."""
    source, folder = folder_of(package), folder_of(target)
    if not source.is_dir():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in sorted(source.iterdir()):
        path.replace(folder / path.name)
    source.rmdir()


def remove_package(package: Path) -> None:
    """Removes a package, its side files and the files beside it, as far as they are there."""
    remove_beside(package)
    for ending in SIDE_FILES:
        Path(f"{package}{ending}").unlink(missing_ok=True)


def remove_beside(package: Path) -> None:
    """Removes the files beside a package."""
    if package.suffix == ".zip" and folder_of(package).is_dir():
        shutil.rmtree(folder_of(package))
