"""One ZIP a study: written reproducibly behind the gate, verified offline.

Belongs here: what lies in the ZIP, the manifest, checksums beside it.
Stays out: names inside (``transfers.layout``), bytes of ZIP headers (``transfers.zipformat``), checking a
package again (``transfers.verify``), where packages go (``transfers.targets``), verification (``deid``).

A package is ``manifest.json``, the other documents, then the DICOM files, each in sorted order. Its ZIP
comment is a SHA-256 over every byte before the digest itself, and the project's signature of it, so that
checking it needs nothing beside the file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified, StorageFull, UsageError
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.layout import arcnames
from fiona_dagster.transfers.verify import FORMATS, MANIFEST, REPORT, read_manifest, verify_package
from fiona_dagster.transfers.writing import Blocks, PackageWriter, write_synced
from fiona_dagster.transfers.zipformat import SIGNED

if TYPE_CHECKING:
    from fiona_dagster.transfers.signature import SigningKey

__all__ = [
    "PackageInfo",
    "arcnames",
    "build_package",
    "read_manifest",
    "require_records",
    "software_version",
    "verify_package",
]

REQUIRED = (
    "project",
    "participant",
    "event",
    "StudyInstanceUID",
    "generation",
    "key_fingerprint",
    "software",
)
"""What the caller says about a package; ``StudyInstanceUID`` is the mapped one, never the original."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackageInfo:
    """A package on disk.

    Attributes:
        path: the ZIP; ``<path>.md5`` and ``<path>.sha256`` stand beside it.
        size: bytes.
        md5: hexadecimal digest of the whole ZIP.
        sha256: hexadecimal digest of the whole ZIP.
        files: number of files inside, besides the documents.
    """

    path: Path
    size: int
    md5: str
    sha256: str
    files: int


def software_version() -> str:
    """Name and version of what writes the package, for manifest and report."""
    try:
        return f"fiona-dagster {version('fiona-dagster')}"
    except PackageNotFoundError:
        return "fiona-dagster (not installed)"


def build_package(
    files: Sequence[tuple[str, Path]],
    target_zip: Path,
    manifest_extra: Mapping[str, Any],
    expected: Mapping[str, str],
    *,
    key: SigningKey,
    report: Mapping[str, Any] | None = None,
    documents: Mapping[str, bytes] | None = None,
    record: bytes | None = None,
    looked_at: Mapping[str, Blocks] | None = None,
    unchanged: Callable[[], None] = lambda: None,
    progress: Progress | None = None,
) -> PackageInfo:
    """Packs verified files; every byte that goes in is compared with the verification record.

    Args:
        files: pairs of name inside the ZIP (see :func:`arcnames`) and de-identified file.
        target_zip: where the ZIP shall stand; replaced atomically.
        manifest_extra: at least :data:`REQUIRED` (``software`` is filled in); nothing from the original.
        expected: SHA-256 of every verified file, keyed by its name inside the ZIP; exactly the
            given files.
        key: signs the package.
        report: the de-identification report, stored as ``report.json``.
        documents: further files at the top of the package, by their names.
        record: goes into ``<package>.json`` beside the package; the manifest has its size and SHA-256.
        looked_at: by name, what of a large file the documents show; compared with what is packed.
        unchanged: called when all bytes were compared; what it raises lets nothing appear.
        progress: called with (bytes packed, bytes in all).

    Returns:
        What was written.

    Raises:
        NotVerified: a file differs from its record, or the sets of files differ. Nothing appears.
        StorageFull: no room for the package.
        UsageError: an unsafe or repeated name, or a lacking manifest entry.
    """
    if record is not None:
        digest = hashlib.sha256(record).hexdigest()
        manifest_extra = {**manifest_extra, "record": {"size": len(record), "sha256": digest}}
    if files or expected or not manifest_extra.get("beside"):
        require_records([name for name, _ in files], expected)
    content = sorted(((name, path, expected[name]) for name, path in files), key=lambda item: item[0])
    _check_names([MANIFEST, REPORT, *(documents or {}), *(name for name, _, _ in content)])
    if not all("/" in name for name, _, _ in content) or any("/" in name for name in documents or {}):
        raise UsageError("DICOM files lie in folders of a package, documents at its top")
    sizes = [_size(path) for _, path, _ in content]
    texts = _documents(
        content, sizes, manifest_extra, {REPORT: _json(report or {}), **(documents or {})}, key
    )
    part = _part_of(target_zip)
    sides: dict[Path, bytes] = {}
    try:
        with _no_room(target_zip.parent):
            with _written(part) as descriptor, PackageWriter(descriptor) as writer:
                for name, data in texts:
                    writer.add(name, data)
                total = sum(sizes)
                for (name, path, digest), size in zip(content, sizes, strict=True):
                    writer.add_file(name, path, size, digest, (looked_at or {}).get(name))
                    if progress is not None:
                        progress(writer.offset, total)
                writer.finish(key)
            unchanged()
            info = PackageInfo(
                target_zip, writer.offset, writer.md5.hexdigest(), writer.sha256.hexdigest(), len(content)
            )
            sides = side_files(info, record)
            for side, data in sides.items():
                write_synced(_part_of(side), data)
            for side in sides:
                _part_of(side).replace(side)
            part.replace(target_zip)
            _sync_folder(target_zip.parent)
    finally:
        for leftover in (part, *(_part_of(side) for side in sides)):
            leftover.unlink(missing_ok=True)
    return info


def side_files(info: PackageInfo, record: bytes | None = None) -> dict[Path, bytes]:
    """What stands beside a package: checksums as ``md5sum -c`` and ``sha256sum -c`` read them, its record."""
    name = info.path.name
    sides = {"md5": f"{info.md5}  {name}\n".encode(), "sha256": f"{info.sha256}  {name}\n".encode()}
    if record is not None:
        sides["json"] = record
    return {info.path.with_name(f"{name}.{kind}"): data for kind, data in sides.items()}


def require_records(keys: Sequence[str], expected: Mapping[str, str]) -> None:
    """Half of the gate: what is in hand must be exactly what the verification record names.

    Args:
        keys: how the files in hand are called in the record.
        expected: SHA-256 by that key.

    Raises:
        NotVerified: nothing in hand, a file without a record, a record without a file, or a file given twice.
    """
    if not keys or len(set(keys)) != len(keys) or set(keys) != set(expected):
        raise NotVerified(
            f"{len(keys)} files in hand are not the {len(expected)} of the verification record; "
            "de-identify and verify the study again"
        )


def _check_names(names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if not zipformat.is_safe_name(name):
            raise UsageError(f"file {index + 1} of the package: its name inside the ZIP is not safe")
    if len({name.lower() for name in names}) != len(names):
        raise UsageError("two files of the package have the same name inside the ZIP")


def _size(path: Path) -> int:
    with from_copy("a verified file has vanished before it was packed; de-identify again"):
        return path.stat().st_size


def _documents(
    content: Sequence[tuple[str, Path, str]],
    sizes: Sequence[int],
    extra: Mapping[str, Any],
    texts: Mapping[str, bytes],
    key: SigningKey,
) -> list[tuple[str, bytes]]:
    head = {"software": software_version(), **extra}
    missing = [name for name in REQUIRED if name not in head]
    if missing:
        raise UsageError(f"manifest: {', '.join(missing)} missing")
    listed = [
        {"name": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in sorted(texts.items())
    ]
    for (name, _, digest), size in zip(content, sizes, strict=True):
        listed.append({"name": name, "size": size, "sha256": digest})
    manifest = {"format": FORMATS[SIGNED], **head, "signing_key": key.public.hex(), "files": listed}
    return [(MANIFEST, _json(manifest)), *sorted(texts.items())]


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode("ascii")


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[int]:
    """Descriptor of a new file, which is on the disk at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _no_room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{folder}: no room for a package; free space and try again") from None
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
