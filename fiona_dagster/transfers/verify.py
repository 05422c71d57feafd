"""Checks a package offline: any changed byte is found, and named by the file that it lies in.

The structure of a package has no freedom: its header bytes follow from names, sizes, CRCs and
positions, so they are rebuilt and compared; contents are compared with the manifest; a digest in the
ZIP comment covers every byte before it, and the project's signature covers that digest.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from fiona_dagster.errors import UsageError
from fiona_dagster.transfers import zipformat
from fiona_dagster.transfers.signature import signature_holds
from fiona_dagster.transfers.zipformat import DamagedError, Entry, Form

MANIFEST = "manifest.json"
REPORT = "report.json"
FORMATS = {zipformat.UNSIGNED: "fiona-package-1", zipformat.SIGNED: "fiona-package-2"}
"""What the manifest says of each form."""
CHUNK = 1 << 20
MANIFEST_LIMIT = 256 << 20
"""Largest manifest that is read, bytes."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a package, without verifying anything.

    Raises:
        UsageError: no such file, or no package.
    """
    try:
        with path.open("rb") as stream:
            entries, _ = zipformat.read_directory(stream, path.stat().st_size)
            manifest = _load_manifest(stream, entries, [])
    except OSError as error:
        raise UsageError(f"the package can't be read ({error.strerror})") from None
    except DamagedError as error:
        raise UsageError(f"not a package: {error}") from None
    if manifest is None:
        raise UsageError(f"not a package: {MANIFEST} can't be read")
    return manifest


def verify_package(path: Path, key: bytes | None = None) -> list[str]:
    """Checks a package offline; any changed byte is found.

    Args:
        path: the ZIP. Checksum files beside it are compared if they are there.
        key: the public key that must have signed it, 32 bytes. Without one the signature is checked against
            the key that the package itself names: that proves integrity, not origin.

    Returns:
        What is wrong, each beginning with the file inside that it concerns; empty when all is well.

    Raises:
        UsageError: the file does not exist or can't be read.
    """
    try:
        with path.open("rb") as stream:
            problems = _verify(stream, path.stat().st_size, key)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}); name a package") from None
    return problems + _check_sides(path) + ([] if problems else _check_beside(path))


def _verify(stream: BinaryIO, length: int, key: bytes | None) -> list[str]:
    problems: list[str] = []
    try:
        form = zipformat.find_form(stream, length)
        entries, start = zipformat.read_directory(stream, length)
    except DamagedError as error:
        return [str(error)]
    end = start + sum(len(zipformat.directory_header(entry)) for entry in entries)
    stream.seek(end)
    records = zipformat.end_records(len(entries), start, end - start, form)
    if stream.read(length - end - form.comment_length) != records:
        problems.append("end of archive: changed")
    problems += _check_layout(stream, entries, start)
    if problems:
        return problems
    manifest = _load_manifest(stream, entries, problems)
    listed = _listed(manifest, form, problems)
    for entry in entries:
        if entry.name != MANIFEST:
            problems += _check_content(stream, entry, listed)
    if listed is not None:
        names = {entry.name for entry in entries}
        problems += [f"{name}: missing" for name in listed if name not in names]
    if not problems and manifest is not None:
        problems += _check_seal(stream, length, form, manifest, key)
    return problems


def _check_layout(stream: BinaryIO, entries: Sequence[Entry], start: int) -> list[str]:
    problems: list[str] = []
    position = 0
    names = [entry.name for entry in entries]
    documents_first = sorted(names[1:], key=lambda name: ("/" in name, name))
    if names[:1] != [MANIFEST] or REPORT not in names or names[1:] != documents_first:
        problems.append("central directory: not in the order of a package")
    if len({name.lower() for name in names}) != len(names):
        problems.append("central directory: a name stands there twice")
    for entry in entries:
        if entry.offset != position or entry.end > start:
            return [*problems, f"{entry.name}: does not lie where it should"]
        stream.seek(position)
        header = zipformat.local_header(entry)
        if stream.read(len(header)) != header:
            problems.append(f"{entry.name}: its header was changed")
        position = entry.end
    if position != start:
        problems.append("central directory: there are bytes before it that belong to no file")
    return problems


def _load_manifest(stream: BinaryIO, entries: Sequence[Entry], problems: list[str]) -> dict[str, Any] | None:
    entry = next((entry for entry in entries if entry.name == MANIFEST), None)
    if entry is None or entry.size > MANIFEST_LIMIT:
        problems.append(f"{MANIFEST}: missing")
        return None
    stream.seek(entry.data_offset)
    data = stream.read(entry.size)
    if zlib.crc32(data) != entry.crc:
        problems.append(f"{MANIFEST}: changed")
        return None
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict):
        problems.append(f"{MANIFEST}: not a JSON object")
        return None
    return manifest


def _listed(
    manifest: dict[str, Any] | None, form: Form, problems: list[str]
) -> dict[str, tuple[int, str]] | None:
    if manifest is None:
        return None
    try:
        listed = {item["name"]: (item["size"], item["sha256"]) for item in manifest["files"]}
    except (KeyError, TypeError):
        problems.append(f"{MANIFEST}: files: not a list of name, size and sha256")
        return None
    if len(listed) != len(manifest["files"]):
        problems.append(f"{MANIFEST}: files: a name stands there twice")
    if manifest.get("format") != FORMATS[form]:
        problems.append(f"{MANIFEST}: format: expected {FORMATS[form]}")
    return listed


def _check_content(stream: BinaryIO, entry: Entry, listed: Mapping[str, tuple[int, str]] | None) -> list[str]:
    stream.seek(entry.data_offset)
    crc, sha256, left = 0, hashlib.sha256(), entry.size
    while left and (chunk := stream.read(min(CHUNK, left))):
        crc = zlib.crc32(chunk, crc)
        sha256.update(chunk)
        left -= len(chunk)
    if left or crc != entry.crc:
        return [f"{entry.name}: changed"]
    if listed is None:
        return []
    if entry.name not in listed:
        return [f"{entry.name}: not in the manifest"]
    if listed[entry.name] != (entry.size, sha256.hexdigest()):
        return [f"{entry.name}: changed (differs from the manifest)"]
    return []


def _check_seal(
    stream: BinaryIO, length: int, form: Form, manifest: Mapping[str, Any], key: bytes | None
) -> list[str]:
    stream.seek(0)
    sha256, left = hashlib.sha256(), length - form.seal_length
    while left and (chunk := stream.read(min(CHUNK, left))):
        sha256.update(chunk)
        left -= len(chunk)
    stream.seek(length - form.comment_length)
    comment = stream.read()
    sealed = form.prefix + sha256.hexdigest().encode()
    if not comment.startswith(sealed):
        return ["archive comment: the digest over the package does not match"]
    if not form.signed:
        return [] if key is None else ["archive comment: a package of format 1, which is not signed"]
    try:
        named = bytes.fromhex(manifest["signing_key"])
        signature = bytes.fromhex(comment[-128:].decode("ascii"))
    except (KeyError, TypeError, ValueError):
        named, signature = b"", b""
    if comment != sealed + zipformat.SIGNATURE_PREFIX + signature.hex().encode():
        return ["archive comment: the signature was changed"]
    if key is not None and named != key:
        return ["archive comment: signed with another key than the one given"]
    if not signature_holds(named, sha256.digest(), signature):
        return ["archive comment: the signature does not match"]
    return []


def _check_beside(path: Path) -> list[str]:
    """Files that the manifest says belong beside the package, as far as they are there: see ``beside``."""
    problems: list[str] = []
    manifest = read_manifest(path)
    record = [{**manifest["record"], "name": f"{path.name}.json"}] if "record" in manifest else []
    for entry in [*manifest.get("beside", ()), *record]:
        name = str(entry["name"])
        if not zipformat.is_safe_name(name) or "/" in name:
            problems.append(f"{MANIFEST}: beside: a name that no file may have")
            continue
        for there in (path.with_name(name), path.with_suffix("") / name):
            if there.is_file():
                with there.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                if digest != entry["sha256"]:
                    problems.append(f"{name} beside the package: changed (differs from the manifest)")
    return problems


def _check_sides(path: Path) -> list[str]:
    problems: list[str] = []
    for kind in ("md5", "sha256"):
        side = path.with_name(f"{path.name}.{kind}")
        try:
            text = side.read_bytes()[:1000].split()
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{kind} file beside the package: can't be read ({error.strerror})")
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, kind).hexdigest()
        if not text or text[0].decode("ascii", "replace").lower() != digest:
            problems.append(f"{kind} file beside the package: does not match the package")
    return problems
