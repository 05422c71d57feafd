"""Answers requests for storage commitment: what was verified on disk is promised, then reported (PS3.4 J).

What is promised is written down before it is said: the journal of evidence holds it, the ledger takes it
from there, and nothing that removes files may touch it (``ledger.evidence.committed``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sqlite3 import Row

from fiona_dagster import landing
from fiona_dagster.config import CommitmentPeer, DataRoot
from fiona_dagster.dicom import read_file_meta
from fiona_dagster.dicom.commitment import (
    CLASS_CONFLICT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    Reference,
    report,
)
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import FionaError, PermanentError
from fiona_dagster.landing import Commitment
from fiona_dagster.landing.commitment import PendingCommitment, forget_request, pending_requests, postpone
from fiona_dagster.landing.files import sync_directory
from fiona_dagster.ledger import is_to_come, utc_after, utc_now
from fiona_dagster.transfers.context import Gateway

log = logging.getLogger("fiona.outreach")

FIRST_DELAY_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 3600.0
GIVE_UP_DAYS = 7.0
"""A sender that could not be told for so long does not wait for the answer any more."""


def peers_of(gateway: Gateway) -> list[tuple[str, str]]:
    """Pairs of a site (empty: the main one) and a calling AE title whose requests are answered."""
    settings = gateway.settings
    sites = {"": settings.receiver, **{name: site.receiver for name, site in settings.SITES.items()}}
    return [(name, ae) for name, receiver in sites.items() for ae in receiver.commitment]


def answer_requests(gateway: Gateway, site: str, calling_ae: str) -> int:
    """Answers what one sender asked at one site and whose time has come.

    Each request is verified anew at each attempt, so that a report always says what is true. A sender that
    can't be reached is tried again later and later, and not again in the same round.

    Returns:
        The number of requests that were answered.
    """
    root = gateway.root.of_site(site)
    peer = gateway.settings.of_site(site).receiver.commitment.get(calling_ae)
    answered = 0
    for path, pending in pending_requests(root):
        waits = is_to_come(pending.not_before, LONGEST_DELAY_SECONDS)
        if peer is None or pending.calling_ae != calling_ae or waits:
            continue
        if not _answer(gateway, root, peer, path, pending):
            break
        answered += 1
    return answered


def _answer(
    gateway: Gateway, root: DataRoot, peer: CommitmentPeer, path: Path, pending: PendingCommitment
) -> bool:
    failed = verify(gateway, pending.references)
    committed = [reference for reference in pending.references if reference not in failed]
    _promise(gateway, root, pending, [instance for _, instance in committed])
    to = Peer(
        peer.host,
        peer.port,
        called=peer.called_ae_title,
        calling=peer.calling_ae_title or pending.called_ae,
        timeout=peer.timeout_seconds,
    )
    try:
        report(to, pending.transaction, committed, failed)
    except FionaError as error:
        _later(path, pending, str(error))
        return False
    forget_request(path)
    log.info("commitment of %d instances reported to %s, %d refused", len(committed), to.name, len(failed))
    return True


def _later(path: Path, pending: PendingCommitment, why: str) -> None:
    age = datetime.now(UTC) - datetime.fromisoformat(pending.time)
    if age > timedelta(days=GIVE_UP_DAYS):
        log.error("commitment: gives up after %d attempts: %s", pending.attempts + 1, why)
        forget_request(path)
        return
    delay = min(FIRST_DELAY_SECONDS * 2 ** min(pending.attempts, 20), LONGEST_DELAY_SECONDS)
    log.warning("commitment: tries again in %.0f s: %s", delay, why)
    postpone(path, pending, utc_after(delay))


def verify(gateway: Gateway, references: Iterable[Reference]) -> dict[Reference, int]:
    """Looks for each instance on disk.

    Returns:
        Those that can't be promised, with the Failure Reason: never arrived here, another SOP class, or its
        file is missing or not what was received.
    """
    gateway.ledger.receipts.read_journals()
    wanted = list(references)
    places = gateway.ledger.evidence.places(instance for _, instance in wanted)
    failed: dict[Reference, int] = {}
    for sop_class, instance in wanted:
        rows = places.get(instance, [])
        if not rows:
            failed[(sop_class, instance)] = NO_SUCH_INSTANCE
        elif all(row["sop_class"] != sop_class for row in rows):
            failed[(sop_class, instance)] = CLASS_CONFLICT
        elif not any(_is_whole(gateway.root, row) for row in rows if row["sop_class"] == sop_class):
            failed[(sop_class, instance)] = PROCESSING_FAILURE
    return failed


def _is_whole(root: DataRoot, row: Row) -> bool:
    """Whether the archived file is what was received; flushes it, whatever ``receiver.durability`` says."""
    path = root.path / row["path"]
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            meta = read_file_meta(file)
            os.fsync(file.fileno())
        if size != row["size"] or meta.sop_instance != row["sop_instance"] or row["altered"]:
            return False
        sync_directory(path.parent)
        return not row["digest"] or landing.digest_of(path) == row["digest"]
    except (OSError, PermanentError):
        return False


def _promise(gateway: Gateway, root: DataRoot, pending: PendingCommitment, instances: list[str]) -> None:
    """Writes down what was not promised before."""
    book = gateway.ledger.evidence
    places = book.places(instances)
    studies = {instance: str(rows[0]["study"]) for instance, rows in places.items()}
    before = {instance for study in set(studies.values()) for instance in book.committed(study)}
    new = {instance: study for instance, study in studies.items() if instance not in before}
    if new:
        found = Commitment(utc_now(), pending.transaction, new, pending.calling_ae)
        landing.append_evidence(root, found)
        book.read_journals()
