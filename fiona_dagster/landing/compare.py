"""Whether two files hold the same object: the same transfer syntax and data set."""

from __future__ import annotations

from pathlib import Path

from fiona_dagster.dicom import read_file_meta
from fiona_dagster.errors import PermanentError

_CHUNK = 1024 * 1024


def _begin(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        try:
            meta = read_file_meta(file)
        except PermanentError:
            return "", 0
    return meta.transfer_syntax, meta.data_set_offset


def same_object(one: Path, other: Path) -> bool:
    """Whether two files hold the same transfer syntax and data set; the rest of the meta does not count."""
    (syntax, start), (other_syntax, other_start) = _begin(one), _begin(other)
    if syntax != other_syntax or one.stat().st_size - start != other.stat().st_size - other_start:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        a.seek(start)
        b.seek(other_start)
        while chunk := a.read(_CHUNK):
            if chunk != b.read(_CHUNK):
                return False
    return True


def digest_of(path: Path) -> str:
    """SHA-256 in hex over transfer syntax and data set of a file."""
    syntax, start = _begin(path)
    import hashlib  # its library weighs as much as the rest of a receiver, and conflicts are rare

    digest = hashlib.sha256(syntax.encode("ascii", "replace") + b"\0")
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
