"""Digests of received bytes: taken after the answer, compared before anything leaves.

A digest is SHA-256 over transfer syntax and data set (``landing.digest_of``), without the rest of file meta.
"""

from __future__ import annotations

from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.errors import PermanentError
from fiona_dagster.transfers.context import Gateway


def take_digests(gateway: Gateway, study: str) -> int:
    """Books the digests that are still missing; the caller holds the study's lock.

    A file whose size is not that of its receipt is altered. One that was altered and is right again (restored
    from a backup) is sound from now on.

    Returns:
        How many instances have a digest now.
    """
    receipts = gateway.ledger.receipts
    digests: dict[str, str] = {}
    altered, sound, known = [], [], 0
    for row in receipts.instances(study):
        path: Path = gateway.root.path / row["path"]
        uid, digest = row["sop_instance"], row["digest"]
        if digest and not row["altered"]:
            known += 1
        elif path.stat().st_size != row["size"]:
            altered.append(uid)
        elif not digest:
            digests[uid] = landing.digest_of(path)
            sound.append(uid)
        elif landing.digest_of(path) == digest:
            sound.append(uid)
        else:
            altered.append(uid)
    with gateway.ledger.store.writing():
        receipts.record_digests(study, digests)
        receipts.mark_sound(study, sound)
        if altered:
            receipts.mark_altered(study, altered)
    return known + len(sound)


def check_digests(gateway: Gateway, study: str) -> None:
    """Reads every archived byte of a study and compares it with what was received.

    Raises:
        PermanentError: bytes differ; the study is flagged and nothing of it leaves.
        OriginalUnavailable: the disk does not give a file.
    """
    from fiona_dagster.deid.files import from_disk

    with from_disk():
        take_digests(gateway, study)
        rows = gateway.ledger.receipts.instances(study)
        altered = [
            row["sop_instance"]
            for row in rows
            if row["altered"] or landing.digest_of(gateway.root.path / row["path"]) != row["digest"]
        ]
    if altered:
        gateway.ledger.receipts.mark_altered(study, altered)
        raise PermanentError(
            f"study {study}: {len(altered)} instances are not what was received, first {altered[0]}; "
            "restore them from the backup and process the study again; nothing of it leaves"
        )
