"""``site/raw`` and ``site/participants``: what operators browse, as relative links into the archive.

Everything here can be done again at any time: what is right stays untouched, what is stale goes, and every
link that is seen points to a file at every moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom.uids import is_uid
from fiona_dagster.errors import UnknownStudy
from fiona_dagster.studies.contents import PATIENT_ID, StudyContents
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.names import safe_name

_STUDY_DATE, _STUDY_TIME = 0x00080020, 0x00080030
_PLACES = ".participants"
"""File in ``raw/<Study>/`` that remembers the study's links below ``participants/``."""


def write_raw_tree(root: DataRoot, contents: StudyContents, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Brings the trees of one study to what its contents and records say; the caller holds the study's lock.

    Args:
        root: the data root.
        contents: the study.
        records: SeriesInstanceUID -> record.

    Raises:
        UnknownStudy: the study's UID can't be a folder name.
    """
    if not is_uid(contents.study):
        raise UnknownStudy("a StudyInstanceUID that is no UID has no place in site/raw")
    folder = root.raw / contents.study
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for series, instances in contents.series.items():
        _link_series(root, folder / series, instances)
    for series, record in records.items():
        text = json.dumps(record, indent=2, sort_keys=True, default=str) + "\n"
        write_if_changed(folder / f"{series}.json", text)
    _remove_stale(folder, contents, records)
    _link_participants(root, folder, contents)


def forget_study(root: DataRoot, study: str) -> None:
    """Removes a study from ``raw/`` and ``participants/``; the archive is not touched. Repeatable.

    Args:
        root: the data root, with the tree that is meant.
        study: StudyInstanceUID.
    """
    folder = root.raw / study
    target = f"../../raw/{study}"
    for place in sorted(_remembered(folder)):
        _give_up(root.participants, place, target)
    if folder.is_dir():
        shutil.rmtree(folder)


def write_if_changed(path: Path, text: str) -> None:
    """Writes a file by rename, complete or not at all, mode 0600; leaves an equal one alone."""
    data = text.encode("utf-8", "surrogatepass")
    if path.is_file() and path.read_bytes() == data:
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _link_series(root: DataRoot, folder: Path, instances: list[InstanceHeader]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    there = _links(folder)
    wanted: dict[str, str] = {}
    for header in instances:
        target = header.path.relative_to(root.site)
        wanted[header.sop_instance] = f"../../../{target}"
    for name, target_text in wanted.items():
        if there.get(name) != target_text:
            _set_link(folder / name, target_text)
    for name in there.keys() - wanted.keys():
        (folder / name).unlink(missing_ok=True)


def _links(folder: Path) -> dict[str, str]:
    """Name -> target of everything in a folder; an empty target for what is no link."""
    with os.scandir(folder) as entries:
        return {entry.name: str(Path(entry).readlink()) if entry.is_symlink() else "" for entry in entries}


def _set_link(path: Path, target: str) -> None:
    """Makes or replaces a link in one step."""
    try:
        path.symlink_to(target)
    except FileExistsError:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.unlink(missing_ok=True)
        part.symlink_to(target)
        part.replace(path)


def _remove_stale(folder: Path, contents: StudyContents, records: Mapping[str, Mapping[str, Any]]) -> None:
    keep = {_PLACES, *contents.series, *(f"{series}.json" for series in records)}
    for path in [path for path in folder.iterdir() if path.name not in keep]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _link_participants(root: DataRoot, folder: Path, contents: StudyContents) -> None:
    """``participants/<PatientID>/<StudyDate>_<StudyTime>`` -> raw/<Study>; a taken name gets a suffix."""
    target = f"../../raw/{contents.study}"
    before = _remembered(folder)
    wanted = dict(_places(contents))
    now = set()
    for participant, visit in wanted.items():
        now.add(_claim(root.participants, participant, visit, target))
    write_if_changed(folder / _PLACES, "".join(f"{place}\n" for place in sorted(before | now)))
    for place in before - now:
        _give_up(root.participants, place, target)
    write_if_changed(folder / _PLACES, "".join(f"{place}\n" for place in sorted(now)))


def _places(contents: StudyContents) -> Iterator[tuple[str, str]]:
    """(folder, link name) for every PatientID of the study; the first instance of each names the visit."""
    seen: set[str] = set()
    for header in contents.instances:
        patient = header.text(PATIENT_ID)
        if patient and patient not in seen:
            seen.add(patient)
            visit = f"{header.text(_STUDY_DATE)}_{header.text(_STUDY_TIME)}"
            yield safe_name(patient), safe_name(visit)


def _remembered(folder: Path) -> set[str]:
    path = folder / _PLACES
    return set(path.read_text("ascii").splitlines()) if path.is_file() else set()


def _claim(participants: Path, participant: str, visit: str, target: str) -> str:
    """Makes the link unless it is there; gives its place below ``participants/``."""
    folder = participants / participant
    number = 1
    while True:
        name = visit if number == 1 else f"{visit}_{number}"
        path = folder / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            path.symlink_to(target)
        except FileExistsError:
            taken = path.is_symlink() and str(path.readlink()) == target
        except FileNotFoundError:
            continue  # another study just removed the empty folder
        else:
            taken = True
        if taken:
            return f"{participant}/{name}"
        number += 1


def _give_up(participants: Path, place: str, target: str) -> None:
    path = participants / place
    if path.is_symlink() and str(path.readlink()) == target:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other studies of this participant are still there
        path.parent.rmdir()
