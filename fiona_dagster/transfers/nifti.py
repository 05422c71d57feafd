"""NIfTI images of a verified copy: dcm2niix for each series, its output cleaned, gzip, names after BIDS.

Belongs here: running dcm2niix and what of its files leaves. Stays out: names (``transfers.bids``), keys of
sidecars (``transfers.sidecar``). dcm2niix writes the time of day and ImageComments into texts of the NIfTI-1
header, whatever it is told about sidecars; these texts are emptied. Of what it wrote only images of exactly
the expected length, sidecars and gradient tables leave.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

from fiona_dagster.errors import ConfigurationError, DeliveryRefused, NotVerified
from fiona_dagster.transfers.bids import Kind, Runs, Session, entities, kind_of
from fiona_dagster.transfers.documents import record_json
from fiona_dagster.transfers.layout import (
    MODALITY,
    SERIES_DESCRIPTION,
    SERIES_NUMBER,
    PackedFile,
    PackedSeries,
    whole_number,
)
from fiona_dagster.transfers.sidecar import clean_sidecar
from fiona_dagster.transfers.sidecar import said as sidecar_said
from fiona_dagster.transfers.writing import changed, write_synced

TIME_LIMIT = 3600.0
"""Seconds that dcm2niix may work on one series."""
_OPTIONS = ("-g i", "-f s", "-z n", "-b y", "-ba y", "-w 2", "-v 0", "-d 0", "--big-endian n")
"""No defaults file, no compression, anonymous sidecars, nothing overwritten, little endian."""
_CONVERTED = re.compile(r"^Convert (\d+) DICOM as ", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_RESAMPLED = re.compile(r"(_(Tilt|Eq)(_\d+)?)+$")
"""What dcm2niix appends to the name of an image that it made from another; such images have no sidecar."""
_HEADER, _DATA = 348, 352
_TEXTS = ((4, 38), (140, 252), (328, 344))
"""From and to: data_type, db_name, extents, session_error; glmax, glmin, descrip, aux_file; intent_name."""
_CODES = {
    2: "found no images",
    4: "found damaged files",
    7: "could not write its output",
    8: "could not convert all of it",
}
"""Exit codes of dcm2niix that say what happened."""


@dataclass(frozen=True)
class Partial:
    """A series that is not whole as NIfTI.

    Attributes:
        series: new SeriesInstanceUID.
        number: SeriesNumber, or 0.
        reason: what happened; no value of a header.
    """

    series: str
    number: int
    reason: str


@dataclass(frozen=True)
class Converted:
    """What came of a study.

    Attributes:
        files: (name below the export's folder, file), sorted by name.
        partial: series that are missing or not whole.
    """

    files: tuple[tuple[str, Path], ...]
    partial: tuple[Partial, ...]


@dataclass(frozen=True)
class _Image:
    """One image that dcm2niix made: its file, its cleaned sidecar, its gradient tables by ending."""

    path: Path
    sidecar: dict[str, Any]
    tables: dict[str, bytes]
    resampled: str


def converter() -> str:
    """The program that converts, from its wheel.

    Raises:
        ConfigurationError: it is not installed.
    """
    if util.find_spec("dcm2niix") is None:
        raise ConfigurationError(
            "the format nifti needs dcm2niix, which is not installed: pip install 'fiona-dagster[nifti]'"
        )
    import dcm2niix

    return str(dcm2niix.bin)


def convert(
    laid_out: Sequence[PackedSeries],
    verified: Mapping[str, str],
    scratch: Path,
    types: Mapping[str, Sequence[str]],
    session: Session,
) -> Converted:
    """NIfTI files of a study, in a folder where nobody looks yet; :func:`place` brings them out.

    Args:
        laid_out: the series of the verified copy.
        verified: SHA-256 of each file by its name in the verification record.
        scratch: a folder on the copy's file system; made, and not removed.
        types: new SeriesInstanceUID -> types that the site's rules gave the series.
        session: where the files shall stand.

    Raises:
        ConfigurationError: dcm2niix is not installed.
        NotVerified: a file differs from its record, or they are not the same files.
    """
    program = converter()
    grouped: dict[str, list[PackedFile]] = {}
    for file in (file for series in laid_out for file in series.files):
        grouped.setdefault(file.header.series, []).append(file)
    if {file.record for files in grouped.values() for file in files} != set(verified):
        raise NotVerified("the files in hand are not those of the verification record; de-identify again")
    runs = Runs(session)
    made: list[tuple[str, Path]] = []
    partial = []
    ready = scratch / "ready"
    ready.mkdir(mode=0o700, parents=True)
    ordered = sorted(grouped, key=lambda uid: (whole_number(grouped[uid][0].header, SERIES_NUMBER), uid))
    for uid in ordered:
        files = grouped[uid]
        folder = scratch / "series"
        images, reasons = _convert_series(program, files, verified, folder)
        names = runs.names(_kinds(images, files[0], types.get(uid, ())))
        for name, image in zip(names, images, strict=True):
            made += _finish(name, image, ready, len(made))
        shutil.rmtree(folder)
        if reasons:
            number = whole_number(files[0].header, SERIES_NUMBER)
            partial.append(Partial(uid, number, "; ".join(reasons)))
    return Converted(tuple(sorted(made)), tuple(partial))


def place(converted: Converted, out: Path) -> list[Path]:
    """Brings the files out, each by rename; returns the images. What is there already and equal stays.

    Args:
        converted: see :func:`convert`.
        out: the export's folder.

    Raises:
        DeliveryRefused: another file has one of the names; then nothing of the study appears.
    """
    for name, path in converted.files:
        there = out / name
        if there.exists() and digest_of(there) != digest_of(path):
            raise DeliveryRefused(
                "the folder holds other images under the same names (from other rules, or another version "
                "of the programs); nothing is overwritten: remove them, or export into an empty folder"
            )
    images = []
    for name, path in converted.files:
        target = out / name
        if not target.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            try:
                shutil.copyfile(path, part)
                with part.open("rb+") as stream:
                    os.fsync(stream.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        if name.endswith(".nii.gz"):
            images.append(target)
    return images


def texts(converted: Converted, session: Session) -> Iterator[tuple[str, list[int | float]]]:
    """What each file says in words and in numbers, to be searched before it leaves.

    Args:
        converted: see :func:`convert`.
        session: what of the names was assigned.
    """
    for name, path in converted.files:
        words = [name.rpartition("/")[2].removeprefix(session.stem).replace("_", "\n")]
        numbers: list[int | float] = []
        if name.endswith(".gz"):
            with gzip.open(path) as stream:
                words.append(stream.read(_DATA).decode("latin-1"))
        elif name.endswith(".json"):
            more, numbers = sidecar_said(json.loads(path.read_text("ascii")))
            words += more
        else:
            words.append(path.read_text("ascii"))
        yield "\n".join(words), numbers


def _convert_series(
    program: str, files: Sequence[PackedFile], verified: Mapping[str, str], folder: Path
) -> tuple[list[_Image], list[str]]:
    """The images of one series, and why it is not whole."""
    inside, out = folder / "dicom", folder / "nifti"
    for each in (folder, inside, out):
        each.mkdir(mode=0o700)
    for index, file in enumerate(files):
        link = inside / f"{index:06d}.dcm"
        os.link(file.path, link)
        if digest_of(link) != verified[file.record]:
            raise changed()
    said, reasons = _run(program, inside, out)
    converted = sum(int(count) for count in _CONVERTED.findall(said))
    if not reasons and converted < len(files):
        reasons.append(f"{converted} of {len(files)} instances were converted")
    description = files[0].header.text(SERIES_DESCRIPTION)
    images, used = [], set()
    for path in sorted(out.glob("*.nii")):
        made_from = path.with_stem(_RESAMPLED.sub("", path.stem))
        beside = {ending: path.with_suffix(ending) for ending in (".bval", ".bvec")}
        beside[".json"] = made_from.with_suffix(".json")
        used |= {path, *beside.values()}
        try:
            _clean_image(path)
            sidecar = clean_sidecar(beside[".json"].read_bytes(), description)
            tables = {
                ending: _numbers(beside[ending].read_text("ascii"))
                for ending in (".bval", ".bvec")
                if beside[ending].exists()
            }
        except (ValueError, FileNotFoundError, RecursionError, struct.error):
            reasons.append("an image of another form than expected was left out")
            continue
        resampled = "".join(word for word in ("tilt", "eq") if f"_{word}" in path.stem.lower())
        images.append(_Image(path, sidecar, tables, resampled))
    if strange := len(set(out.iterdir()) - used):
        reasons.append(f"{strange} files of other kinds were left out")
    if not images and not reasons:
        reasons.append("no image was made")
    return images, reasons


def _run(program: str, inside: Path, out: Path) -> tuple[str, list[str]]:
    """What dcm2niix said (with values of headers: nobody else hears it), and why its work is not whole."""
    surroundings = {"PATH": os.defpath, "HOME": str(out.parent), "LC_ALL": "C", "TZ": "UTC"}
    command = [program, *" ".join(_OPTIONS).split(), "-o", str(out), str(inside)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIME_LIMIT, check=False, env=surroundings, cwd=out.parent
        )
    except subprocess.TimeoutExpired:
        return "", [f"dcm2niix did not end within {TIME_LIMIT:.0f} s"]
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode == 0:
        return said, []
    if done.returncode < 0:
        return said, [f"dcm2niix was ended by signal {-done.returncode}"]
    what = _CODES.get(done.returncode, "failed")
    return said, [f"dcm2niix {what} (exit code {done.returncode})"]


def _clean_image(path: Path) -> None:
    """Empties the texts of a NIfTI-1 header.

    Raises:
        ValueError: the file is anything else than such a header and the values it announces.
    """
    with path.open("rb+") as stream:
        header = bytearray(stream.read(_DATA))
        (size,) = struct.unpack_from("<i", header, 0)
        dimensions = struct.unpack_from("<8h", header, 40)
        (bits,) = struct.unpack_from("<h", header, 72)
        (begins,) = struct.unpack_from("<f", header, 108)
        extended = any(header[_HEADER:_DATA])
        if size != _HEADER or header[344:348] != b"n+1\0" or begins != _DATA or extended:
            raise ValueError("not a single NIfTI-1 file without extensions")
        values = math.prod(dimensions[1 : 1 + dimensions[0]]) if 1 <= dimensions[0] <= 7 else 0
        if values <= 0 or _DATA + values * bits // 8 != path.stat().st_size:
            raise ValueError("another length than the header says")
        for begin, end in _TEXTS:
            header[begin:end] = bytes(end - begin)
        stream.seek(0)
        stream.write(header)


def _numbers(text: str) -> bytes:
    """A gradient table, of numbers alone."""
    rows = [line.split() for line in text.splitlines()]
    if not all(_NUMBER.fullmatch(each) for row in rows for each in row):
        raise ValueError("a gradient table holds numbers only")
    return "".join(" ".join(row) + "\n" for row in rows if row).encode()


def _kinds(images: Sequence[_Image], first: PackedFile, types: Sequence[str]) -> list[tuple[Kind, str, str]]:
    modality = first.header.text(MODALITY)
    echoes = len({image.sidecar.get("EchoNumber") for image in images}) > 1
    found = []
    for image in images:
        kind = kind_of(types, modality, image.sidecar, directions=".bval" in image.tables)
        found.append((kind, *entities(kind, image.sidecar, echoes=echoes, resampled=image.resampled)))
    return found


def _finish(name: str, image: _Image, ready: Path, index: int) -> list[tuple[str, Path]]:
    """The files of an image as they leave."""
    packed = ready / f"{index:06d}.nii.gz"
    with (
        image.path.open("rb") as source,
        packed.open("xb") as stream,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0) as wrapped,
    ):
        shutil.copyfileobj(source, wrapped, 1 << 20)
    sidecar = image.sidecar
    if name.endswith("_bold"):
        sidecar = {**sidecar, "TaskName": name.partition("_task-")[2].partition("_")[0]}
    files = [(f"{name}.nii.gz", packed)]
    for ending, data in {".json": record_json(sidecar), **image.tables}.items():
        path = ready / f"{index:06d}{ending}"
        write_synced(path, data)
        files.append((f"{name}{ending}", path))
    return files


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
