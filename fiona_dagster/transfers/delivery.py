"""Deliveries: one target at a time, proven or not at all, and what follows when all are proven."""

from __future__ import annotations

from pathlib import Path

from fiona_dagster.config import SftpTarget
from fiona_dagster.errors import NotVerified
from fiona_dagster.ledger import Package, Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import package_name, remove_working_copy, working_copy
from fiona_dagster.transfers.targets import Proof


def deliver(gateway: Gateway, transfer: Transfer, target_name: str) -> tuple[Proof | None, Package]:
    """Brings a transfer's package to one target and books the proof.

    Returns:
        The proof, or None when this very package was proven there before (nothing was sent).

    Raises:
        NotVerified: the gate; the bytes in hand are not those that were verified.
        PeerUnavailable: the target can't be reached; later may do.
        DeliveryRefused: the target said no.
    """
    transfers = gateway.ledger.transfers
    package = transfers.package(transfer)
    if package is None:
        raise NotVerified(
            f"transfer {transfer.id}: there is no package; run transfer_{transfer.project} first"
        )
    verified = transfers.verified_files(transfer)
    proven = transfers.deliveries(transfer).get(target_name)
    if proven is not None and proven.sha256 == package.sha256:
        gateway.ledger.work.done(
            f"deliver:{transfer.study}:{transfer.project}:{target_name}", transfer.revision
        )
        finish(gateway, transfer)
        return None, package
    target = gateway.target(target_name)
    # paramiko and pynetdicom are imported when they are needed: every run is a new process.
    if isinstance(target, SftpTarget):
        from fiona_dagster.transfers.targets.sftp import deliver_sftp

        proof = deliver_sftp(
            target,
            gateway.root,
            gateway.root.path / package.path,
            package.sha256,
            remote_name=package_name(transfer),
            name=target_name,
        )
    else:
        from fiona_dagster.transfers.targets.dicom import deliver_dicom

        folder = working_copy(gateway, transfer)
        files = [folder / name for name in sorted(verified)]
        proof = deliver_dicom(
            target, files, {str(folder / name): verified[name] for name in verified}, name=target_name
        )
    transfers.record_delivery(transfer, target_name, package.sha256, proof.to_private_json())
    finish(gateway, transfer)
    return proof, package


def finish(gateway: Gateway, transfer: Transfer) -> bool:
    """Closes a transfer when every configured target is proven; may be called at any time.

    The package moves to ``DAIC/<PROJECT>/``, the working copy goes, and REDCap is to be told.

    Returns:
        Whether every target is proven.
    """
    transfers = gateway.ledger.transfers
    package = transfers.package(transfer)
    if package is None:
        return False
    proven = transfers.deliveries(transfer)
    wanted = gateway.project(transfer.project).targets
    if any(name not in proven or proven[name].sha256 != package.sha256 for name in wanted):
        return False
    current = transfers.current(transfer.study, transfer.project)
    if current is not None and current.id == transfer.id and current.state == "delivered":
        return True
    _move_to_daic(gateway, transfer, package)
    with gateway.ledger.store.writing():
        transfers.set_state(transfer, "delivered")
        transfers.outcome_due(transfer)
    remove_working_copy(gateway, transfer)
    return True


def finish_proven(gateway: Gateway) -> int:
    """Closes every transfer that is proven everywhere but was not closed (killed in between).

    Returns:
        How many were closed.
    """
    waiting = [transfer for transfer in gateway.ledger.transfers.all() if transfer.state == "packaged"]
    return sum(finish(gateway, transfer) for transfer in waiting)


def _move_to_daic(gateway: Gateway, transfer: Transfer, package: Package) -> None:
    """Side files first, the package last: a package in DAIC/ always has its checksums beside it."""
    source = gateway.root.path / package.path
    folder = gateway.root.daic / transfer.project
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / source.name
    for suffix in (".md5", ".sha256", ""):
        moved_from = Path(f"{source}{suffix}")
        if moved_from.is_file():
            moved_from.replace(f"{target}{suffix}")
    gateway.ledger.transfers.move_package(transfer, str(target.relative_to(gateway.root.path)))
