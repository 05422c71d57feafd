"""Classifies files wherever they lie; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster.dicom.uids import MEDIA_DIRECTORY, is_uid
from fiona_dagster.studies.attributes import needed_tags
from fiona_dagster.studies.header import InstanceHeader
from fiona_dagster.studies.model import RuleSet
from fiona_dagster.studies.reader import read_instance
from fiona_dagster.studies.record import clean_connection, series_record

_NO_FILE_OF_OURS = ("not_dicom", "empty_file")


@dataclass
class Classified:
    """What ``fiona classify`` found.

    Attributes:
        records: one record a series, by StudyInstanceUID, SeriesNumber, SeriesInstanceUID.
        unreadable: (path, reason code) of files that could not be classified.
        skipped: (path, reason code) of files found in folders that are no DICOM instances.
        damaged: (path, reason codes) of files that were classified but are not whole.
        instances: (StudyInstanceUID, SeriesInstanceUID) -> headers, in the order of the series.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    instances: dict[tuple[str, str], list[InstanceHeader]] = field(default_factory=dict, repr=False)


def classify_paths(paths: Sequence[Path], rules: RuleSet) -> Classified:
    """Classifies files and folders.

    Args:
        paths: files, or folders that are searched through; names that begin with a point are left out.
        rules: what gives the types.
    """
    result = Classified()
    tags = needed_tags(rules.tags)
    series: dict[tuple[str, str], dict[str, InstanceHeader]] = {}
    seen: set[Path] = set()
    for given in paths:
        for path in _files(given, result):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                _sort_in(read_instance(path, tags), series, result, named=path == given)
    for uids, instances in series.items():
        ordered = sorted(instances.values(), key=lambda each: (each.instance_number, each.sop_instance))
        result.instances[uids] = ordered
        result.records.append(series_record(ordered, rules, clean_connection(None)))
    result.records.sort(key=_order)
    return result


def _order(record: dict[str, Any]) -> tuple[str, float, str]:
    text = str(record.get("SeriesNumber", ""))
    number = float(text) if text.isdecimal() else float("inf")
    return record["StudyInstanceUID"], number, record["SeriesInstanceUID"]


def _files(given: Path, result: Classified) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        result.unreadable.append((Path(error.filename), "folder_unreadable"))

    if not given.is_dir():
        yield given
        return
    for folder, folders, names in os.walk(given, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def _sort_in(
    header: InstanceHeader,
    series: dict[tuple[str, str], dict[str, InstanceHeader]],
    result: Classified,
    *,
    named: bool,
) -> None:
    uids = (header.study, header.series, header.sop_instance)
    if all(is_uid(uid) for uid in uids):
        series.setdefault((uids[0], uids[1]), {}).setdefault(header.sop_instance, header)
        if header.damage:
            result.damaged.append((header.path, ", ".join(header.damage) + _where(header)))
        return
    reason = header.damage[0] if header.damage else "uid_malformed" if all(uids) else "uid_missing"
    if header.media_class == MEDIA_DIRECTORY:
        reason = "media_directory"
    skip = not named and (reason in _NO_FILE_OF_OURS or reason == "media_directory")
    (result.skipped if skip else result.unreadable).append((header.path, reason + _where(header)))


def _where(header: InstanceHeader) -> str:
    return "" if header.broken_at is None else f" at byte {header.broken_at}"
