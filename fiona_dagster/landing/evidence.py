"""Evidence about studies that is no image: one journal a day in ``site/.evidence``, appended to and tailed.

A line is a CRC-32 in hex, a blank, and JSON in ASCII, as in the journals of receipts. Nothing identifying
stands in it but UIDs and AE titles.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fiona_dagster.config import PROJECT_NAME, DataRoot
from fiona_dagster.dicom import is_uid
from fiona_dagster.errors import StorageFull
from fiona_dagster.landing.claim import Use
from fiona_dagster.landing.files import make_directory, room_errors, sync_directory
from fiona_dagster.landing.receipt import now

log = logging.getLogger("fiona.landing")

StepStatus = Literal["IN PROGRESS", "COMPLETED", "DISCONTINUED"]
STEP_STATUSES: frozenset[str] = frozenset(get_args(StepStatus))

_NAME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class PerformedStep:
    """A Modality Performed Procedure Step as it stands after an N-CREATE or N-SET (PS3.4 section F.7).

    Attributes:
        time: UTC, ISO 8601 with microseconds and ``Z``.
        instance: SOP Instance UID of the step.
        status: Performed Procedure Step Status (0040,0252).
        studies: Study Instance UIDs of the scheduled steps.
        series: performed series: Series Instance UID -> SOP Instance UIDs that it references.
        calling_ae: AE title of the modality.
        caller_ip: its address.
    """

    time: str
    instance: str
    status: StepStatus
    studies: tuple[str, ...]
    series: Mapping[str, tuple[str, ...]]
    calling_ae: str
    caller_ip: str


@dataclass(frozen=True)
class Commitment:
    """Instances whose safekeeping was confirmed to a sender (PS3.4 annex J): they must never be deleted.

    Attributes:
        time: UTC, ISO 8601 with microseconds and ``Z``.
        transaction: Transaction UID.
        instances: SOP Instance UID -> Study Instance UID.
        calling_ae: AE title of who asked.
    """

    time: str
    transaction: str
    instances: Mapping[str, str]
    calling_ae: str


@dataclass(frozen=True)
class SiteChoice:
    """A person decided at which of several sites a study counts.

    Attributes:
        time: UTC, ISO 8601 with microseconds and ``Z``.
        study: Study Instance UID.
        site: name of the entry in ``SITES``, "" for the main one.
        by: login name of who decided.
    """

    time: str
    study: str
    site: str
    by: str


@dataclass(frozen=True)
class FlagDecision:
    """A person looked into a flag of a study and accepts it, as long as the study has the same instances.

    Attributes:
        time: UTC, ISO 8601 with microseconds and ``Z``.
        study: Study Instance UID.
        flag: its code.
        content: digest of the set of instances that was looked at.
        by: login name of who decided.
        reason: why; nothing identifying.
    """

    time: str
    study: str
    flag: str
    content: str
    by: str
    reason: str


Evidence = PerformedStep | Commitment | SiteChoice | FlagDecision
_KINDS: dict[str, type[PerformedStep | Commitment | SiteChoice | FlagDecision]] = {
    "mpps": PerformedStep,
    "commitment": Commitment,
    "site": SiteChoice,
    "flag": FlagDecision,
}
KIND_OF = {build: name for name, build in _KINDS.items()}
"""How a line calls what it tells of."""


def evidence_folder(root: DataRoot) -> Path:
    """Where the journals of evidence lie."""
    return root.site / ".evidence"


def append_evidence(root: DataRoot, evidence: Evidence) -> None:
    """Appends one line to today's journal; it is durable when this returns.

    Raises:
        StorageFull: no room; the line is not there, or torn and so without effect.
        ErasureUnfinished, Busy: see :class:`~fiona_dagster.landing.claim.Use`; nothing was written.
    """
    text = json.dumps({"kind": KIND_OF[type(evidence)], **asdict(evidence)}, separators=(",", ":")).encode(
        "ascii"
    )
    # A newline in front ends what a crash may have left torn; an empty line means nothing.
    line = b"\n%08x %s\n" % (zlib.crc32(text), text)
    folder = evidence_folder(root)
    with Use(root), room_errors(folder):
        make_directory(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(folder / now()[:10], flags, 0o600)
        try:
            if os.write(fd, line) < len(line):
                raise StorageFull(f"{folder}: no room for a journal line; make room")
            os.fdatasync(fd)
        finally:
            os.close(fd)
        sync_directory(folder)


def read_evidence(root: DataRoot, offsets: Mapping[str, int]) -> Iterator[tuple[str, int, Evidence]]:
    """Tails all journals of evidence.

    Args:
        root: the data root.
        offsets: name of a journal -> byte from which to read; absent means from the start. A journal that is
            shorter was put back or written anew: it is read from its start, and so is every later one, since
            the last word counts.

    Yields:
        (name of the journal, offset after this line, what it says), oldest journal first.
    """
    folder = evidence_folder(root)
    try:
        names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))  # noqa: PTH208
    except FileNotFoundError:
        return
    anew = False
    for name in names:
        offset, size = offsets.get(name, 0), (folder / name).stat().st_size
        anew = anew or size < offset
        if anew:
            offset = 0
        if size == offset:
            continue
        with (folder / name).open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written, or torn by a crash
                offset += len(line)
                found = decode_evidence(line[:-1])
                if found is not None:
                    yield name, offset, found
                elif line.strip():
                    log.warning("journal of evidence %s: the line before byte %d is damaged", name, offset)


def decode_evidence(line: bytes) -> Evidence | None:
    """What a line without its newline says, or None if it is damaged in any way."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        document = json.loads(text)
        build = _KINDS[document.pop("kind")]
        found = build(**{key: _frozen(value) for key, value in document.items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if _is_sound(found) else None


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _is_sound(found: Evidence) -> bool:
    if isinstance(found, Commitment):
        uids = [found.transaction, *found.instances, *found.instances.values()]
        return all(isinstance(uid, str) and is_uid(uid) for uid in uids)
    if isinstance(found, FlagDecision):
        return all(isinstance(text, str) for text in asdict(found).values()) and is_uid(found.study)
    if isinstance(found, SiteChoice):
        texts = (found.time, found.study, found.site, found.by)
        named = all(isinstance(text, str) for text in texts) and is_uid(found.study)
        return named and (not found.site or PROJECT_NAME.fullmatch(found.site) is not None)
    if found.status not in STEP_STATUSES:
        return False
    uids = [found.instance, *found.studies, *found.series]
    uids += [uid for instances in found.series.values() for uid in instances]
    return all(isinstance(uid, str) and is_uid(uid) for uid in uids)
