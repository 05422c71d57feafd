"""Removes one study from a landing zone for good: archive, conflicts, quarantine, journals, evidence.

Only for the erasure of a person's data (``operations.erasure``), while no service runs. Everything here can
be repeated, and a kill leaves nothing that the next call does not finish.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import Busy
from fiona_dagster.landing.asked import all_asked, forget_asked
from fiona_dagster.landing.commitment import forget_request, keep_references, pending_requests
from fiona_dagster.landing.conflicts import ACCEPTED, REJECTED, SUPERSEDED
from fiona_dagster.landing.evidence import (
    KIND_OF,
    Commitment,
    Evidence,
    FlagDecision,
    PerformedStep,
    SiteChoice,
    decode_evidence,
    evidence_folder,
)
from fiona_dagster.landing.files import sync_directory
from fiona_dagster.landing.journal import journals_of, open_associations
from fiona_dagster.landing.mpps import step_file
from fiona_dagster.landing.shelf import REASON, log_file, quarantined
from fiona_dagster.landing.workshop import clear_workshops

_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")


def erase_landed(root: DataRoot, study: str, instances: Collection[str]) -> None:
    """Removes what was received of a study, in every ``site/`` tree, and every line that tells of it.

    Args:
        root: the data root.
        study: StudyInstanceUID.
        instances: SOP Instance UIDs of the study, as far as they are known.

    Raises:
        Busy: an association that sent to the study is still open.
    """
    for tree in root.site_trees():
        if open_associations(tree, study):
            raise Busy(f"study {study}: an association that sends to it is open; erase it when it is closed")
    known = frozenset(instances)
    for tree in root.site_trees():
        _forget_evidence(tree, study, known)
        _remove(tree.archive / f"scp_{study}")
        for name in ("", ACCEPTED, REJECTED, SUPERSEDED):
            _remove(tree.conflicts / name / study)
        for path in journals_of(tree, study):
            path.unlink(missing_ok=True)
        if tree.arrived.is_dir():
            sync_directory(tree.arrived)
        clear_workshops(tree)  # half-received, and nobody was told Success
    _forget_quarantined(root, study)


def erase_commitments(root: DataRoot, uids: Collection[str]) -> None:
    """Removes what was asked, by us and of us, about the safe-keeping of instances.

    Args:
        root: the data root.
        uids: SOP Instance UIDs, as received and of copies, that must not be found any more.
    """
    for asked in all_asked(root):
        if not frozenset(asked.instances).isdisjoint(uids):
            forget_asked(root, asked.transaction)
    for tree in root.site_trees():
        for path, pending in pending_requests(tree):
            kept = tuple(pair for pair in pending.references if pair[1] not in uids)
            if not kept:
                forget_request(path)
            elif kept != pending.references:
                keep_references(path, pending, kept)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
        sync_directory(folder.parent)


def _forget_quarantined(root: DataRoot, study: str) -> None:
    gone = [item for item in quarantined(root) if item.study == study]
    for item in gone:
        item.path.unlink(missing_ok=True)
        item.path.with_suffix(REASON).unlink(missing_ok=True)
    log = log_file(root)
    if log.is_file():
        names = {item.id for item in gone}
        rewrite_lines(log, lambda line: not (_names(line, study) or _id_of(line) in names))


def _names(text: bytes, study: str) -> bool:
    """Whether a text has this UID in it, as a whole: one UID may be the beginning of another."""
    return study.encode() in text and study.encode() in _UID.findall(text)


def _id_of(line: bytes) -> str:
    try:
        document = json.loads(line)
    except ValueError:
        return ""
    return str(document.get("id", "")) if isinstance(document, dict) else ""


def _forget_evidence(tree: DataRoot, study: str, instances: frozenset[str]) -> None:
    folder = evidence_folder(tree)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith("."):
            path.unlink()  # of a rewriting that was killed
        elif path.is_file() and _names(path.read_bytes(), study):
            lines = path.read_bytes().splitlines(keepends=True)
            _replace(path, b"".join(_without(tree, line, study, instances) for line in lines))


def _without(tree: DataRoot, line: bytes, study: str, instances: frozenset[str]) -> bytes:
    """A line of evidence as if the study had never been; a damaged one that names it goes."""
    if not _names(line, study):
        return line
    found = decode_evidence(line.rstrip(b"\n"))
    if found is None:
        return b""
    left = _strip(tree, found, study, instances)
    if left is None:
        return b""
    if left is found:
        return line
    text = json.dumps({"kind": KIND_OF[type(left)], **asdict(left)}, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _strip(tree: DataRoot, found: Evidence, study: str, instances: frozenset[str]) -> Evidence | None:
    if isinstance(found, SiteChoice | FlagDecision):
        return None if found.study == study else found
    if isinstance(found, Commitment):
        kept = {uid: of for uid, of in found.instances.items() if of != study}
        return replace(found, instances=kept) if kept else None
    if not isinstance(found, PerformedStep) or study not in found.studies:
        return found
    step_file(tree, found.instance).unlink(missing_ok=True)  # holds the patient
    others = tuple(uid for uid in found.studies if uid != study)
    series = {uid: listed for uid, listed in found.series.items() if not instances & set(listed)}
    return replace(found, studies=others, series=series) if others else None


def rewrite_lines(path: Path, keep: Callable[[bytes], bool]) -> bool:
    """Replaces a file by its lines that are kept, in one step; whether anything went."""
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if keep(line)]
    if len(kept) == len(lines):
        return False
    _replace(path, b"".join(kept))
    return True


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)
