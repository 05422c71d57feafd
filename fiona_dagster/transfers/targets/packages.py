"""The targets that take packages, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fiona_dagster.config import DataRoot, FolderTarget, PackageTarget, S3Target
from fiona_dagster.transfers.targets import Proof


def deliver_package(
    target: PackageTarget,
    root: DataRoot,
    package: Path,
    expected_sha256: str,
    *,
    remote_name: str,
    begin: Callable[[], object],
    name: str,
    may_go_on: Callable[[], None],
) -> Proof:
    """Brings one package to a target of any kind and proves that it is there.

    Args:
        target: where.
        root: relative secret files lie below its ``config/``.
        package: the ZIP.
        expected_sha256: the package's digest in the ledger; anything else is not sent.
        remote_name: file name at the other side; ``.md5`` and ``.sha256`` come beside it.
        begin: called before the first byte leaves; writes that down.
        name: the target's name in config.json, for messages and the proof.
        may_go_on: called before every MiB; what it raises ends the delivery.

    Raises:
        NotVerified: the bytes in hand are not those of the ledger.
        DeliveryRefused: the target said no, or has other content under our name.
        StorageFull: it has no room.
        ProofAwaited: it has everything; its proof comes later.
        PeerUnavailable: it can't be reached, or what arrived is not what was sent.
    """
    # What speaks to a target is imported when it is needed: every run is a new process.
    if isinstance(target, FolderTarget):
        from fiona_dagster.transfers.targets.folder import deliver_folder

        return deliver_folder(
            target,
            package,
            expected_sha256,
            remote_name=remote_name,
            begin=begin,
            name=name,
            may_go_on=may_go_on,
        )
    if isinstance(target, S3Target):
        from fiona_dagster.transfers.targets.s3 import deliver_s3

        return deliver_s3(
            target,
            root,
            package,
            expected_sha256,
            remote_name=remote_name,
            begin=begin,
            name=name,
            may_go_on=may_go_on,
        )
    from fiona_dagster.transfers.targets.sftp import deliver_sftp

    return deliver_sftp(
        target,
        root,
        package,
        expected_sha256,
        remote_name=remote_name,
        begin=begin,
        name=name,
        may_go_on=may_go_on,
    )
