"""Working copies of which a power loss may have taken bytes.

Belongs here: that such a copy is compared with its verification record before it is used, and made again if
it lost anything. Stays out: making and verifying one (``execution``), and the gate: whoever packs or sends
compares what is in hand, whatever was said here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import deidentify, made_since_start, working_copy


def whole_copy(gateway: Gateway, transfer: Transfer, verified: Mapping[str, str]) -> Path:
    """The working copy of a transfer; the caller holds the study's lock.

    One that was made since the machine was started has lost nothing. Another is compared with the record;
    if it is not as it was, or gone, it is made again, byte for byte: the same originals by the same rules
    give the same copies.

    Args:
        gateway: the open gateway.
        transfer: whose.
        verified: SHA-256 of each file, from the verification record.

    Raises:
        CopyUnavailable: the disk does not give it, so that nobody knows.
        NotVerified: what was made again is not what was verified.
        PermanentError: it can't be made again.
    """
    folder = working_copy(gateway, transfer)
    if made_since_start(gateway, transfer) or _is(folder, verified):
        return folder
    deidentify(gateway, transfer)
    if not _is(folder, verified):
        raise NotVerified(
            f"study {transfer.study}: its copy for {transfer.project} was lost, and what was made again is "
            f"not what was verified; `fiona launch --study {transfer.study} --project {transfer.project}` "
            "verifies it"
        )
    return folder


def _is(folder: Path, verified: Mapping[str, str]) -> bool:
    """Whether a folder holds the verified files and nothing else."""
    try:
        with from_copy():
            return {path.name for path in folder.iterdir()} == set(verified) and all(
                _sha256(folder / name) == digest for name, digest in verified.items()
            )
    except NotVerified:  # something of it is gone
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
