"""In which elements two data sets differ: tags for a person who decides about a conflict, never values."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from fiona_dagster.dicom import read_file_meta
from fiona_dagster.dicom.uids import encoding_of
from fiona_dagster.dicom.walker import FileSource, Walk
from fiona_dagster.errors import UnreadableDicom

_CHUNK = 1024 * 1024
_SHOWN = 12


def differing_tags(one: Path, other: Path) -> list[str]:
    """Top-level elements that only one file has or whose bytes differ, as ``(gggg,eeee)``.

    At most twelve, then how many more. ``transfer syntax`` stands first if that differs; a deflated or
    unreadable data set is not looked into.
    """
    (syntax, first), (other_syntax, second) = _elements(one), _elements(other)
    found = ["transfer syntax"] if syntax != other_syntax else []
    tags = sorted(tag for tag in first.keys() | second.keys() if first.get(tag) != second.get(tag))
    found += [f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags[:_SHOWN]]
    if len(tags) > _SHOWN:
        found.append(f"{len(tags) - _SHOWN} more")
    return found


def _elements(path: Path) -> tuple[str, dict[int, str]]:
    with path.open("rb") as file:
        try:
            meta = read_file_meta(file)
        except UnreadableDicom:
            return "", {}
        encoding = encoding_of(meta.transfer_syntax)
        if encoding.deflated:
            return meta.transfer_syntax, {}
        source = FileSource(file, path.stat().st_size)
        explicit = encoding.explicit is not False
        walk = Walk(source, meta.data_set_offset, explicit=explicit, big=encoding.big_endian)
        starts: list[tuple[int, int]] = []
        for element in walk:
            if element.depth == 0:
                starts.append((element.tag, walk.end))  # the end of what precedes is where this one begins
        ends = [start for _, start in starts[1:]] + [walk.end]
        return meta.transfer_syntax, {
            tag: _digest(file, start, end) for (tag, start), end in zip(starts, ends, strict=True)
        }


def _digest(file: BinaryIO, start: int, end: int) -> str:
    import hashlib  # see landing.compare

    digest = hashlib.sha256()
    file.seek(start)
    while start < end and (chunk := file.read(min(_CHUNK, end - start))):
        digest.update(chunk)
        start += len(chunk)
    return digest.hexdigest()
