"""What a killed transfer leaves behind that nobody needs any more."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.errors import Busy
from fiona_dagster.ledger import Transfer, remove_parts
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.scratch import SCRATCH
from fiona_dagster.transfers.unbooked import remove_unbooked

STALE_SECONDS = 3600.0
_COPY = re.compile(r"\.?transfer-(\d+)-r(\d+)(\.part|\.report\.json)?")


def remove_leftovers(gateway: Gateway) -> int:
    """Removes working copies of transfers that are over, and what killed steps left of exports and packages.

    Returns:
        How many files and folders went.
    """
    transfers = {transfer.id: transfer for transfer in gateway.ledger.transfers.all()}
    removed = 0
    for path in sorted(gateway.root.projects.glob("*/*")):
        match = _COPY.fullmatch(path.name)
        if match:
            transfer = transfers.get(int(match[1]))
            removed += _remove_copy(gateway, path, transfer, int(match[2]))
    for path in sorted(gateway.root.projects.glob(f"*/{SCRATCH}*")):
        removed += _remove_scratch(path)
    outbox = gateway.root.outbox
    for path in (*sorted(outbox.glob("*/.*.part")), *sorted(outbox.glob("*/*/.*.part"))):
        if _age(path) > STALE_SECONDS:
            path.unlink(missing_ok=True)
            removed += 1
    return removed + remove_unbooked(gateway) + remove_parts(gateway.root, STALE_SECONDS)


def _remove_copy(gateway: Gateway, path: Path, transfer: Transfer | None, revision: int) -> int:
    if transfer is not None and transfer.project == path.parent.name and _is_needed(transfer, revision):
        return 0
    try:
        if transfer is None:
            _remove(path)
        else:
            with landing.study_lock(gateway.root, transfer.study, blocking=False):
                _remove(path)
    except Busy:
        return 0  # somebody is at it
    return 1


def _remove_scratch(path: Path) -> int:
    if _age(path) <= STALE_SECONDS:
        return 0
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
    except BlockingIOError:
        return 0
    finally:
        os.close(descriptor)
    return 1


def _is_needed(transfer: Transfer, revision: int) -> bool:
    return transfer.state in ("accepted", "packaged", "failed") and transfer.revision == revision


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
