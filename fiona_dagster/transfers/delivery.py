"""Deliveries: one target at a time, proven or not at all, and what follows when all are proven."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fiona_dagster import landing
from fiona_dagster.config import InstanceTarget, ProjectSettings, require_sending
from fiona_dagster.errors import (
    Busy,
    ConfigurationError,
    ContentUnproven,
    NotVerified,
    PeerNotTrusted,
    PeerUnavailable,
    ProofAwaited,
    RequestRefused,
    Superseded,
    TargetDown,
)
from fiona_dagster.ledger import Content, Package, Sending, Transfer, work_key
from fiona_dagster.transfers.beside import companions_of, move_beside, record_of
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import give_up, remove_working_copy
from fiona_dagster.transfers.restoring import whole_copy
from fiona_dagster.transfers.rules import Watch, rules_digest, settings_of
from fiona_dagster.transfers.targets import (
    ArrivedDamaged,
    InstancesMissing,
    InstancesRefused,
    Proof,
    together,
)
from fiona_dagster.transfers.withdrawals import require_not_withdrawn

PROOFS = ".proofs.json"
"""Ends the name of the file beside a package in ``DAIC/`` that says what each target proved."""
_ANSWERED = (InstancesMissing, InstancesRefused, ContentUnproven, ProofAwaited, ArrivedDamaged)
"""Errors of a target that is there and does what it should."""


def deliver(gateway: Gateway, transfer: Transfer, target_name: str) -> tuple[Proof | None, Package]:
    """Brings a transfer's package to one target and books the proof.

    Returns:
        The proof, or None when this very package was proven there before (nothing was sent).

    Raises:
        RequestRefused: the project does not name this target, is not active any more, or has other
            participants or events now.
        Busy: the package is not made yet.
        NotVerified: the gate; the bytes in hand are not those that were verified. Nothing goes by this
            verification any more, wherever to.
        CopyUnavailable: the disk does not give the copy or the package.
        SendingHeld: an operator holds all sending; also when that happens in the middle.
        PeerUnavailable: the target can't be reached; later may do.
        TargetDown: it did not answer other deliveries either; one at a time tries it.
        PeerNotTrusted: it shows another host key or certificate than it should; the first to meet that.
        DeliveryRefused: the target said no.
        ContentUnproven: the target has everything, but maybe as older bytes.
        Superseded: another request took the place of this one, maybe while it was sent; or the rules changed
            and it is de-identified again.
        RemovalAwaited: the study lies there under another participant or event.
        WithdrawalAsked: the request may have been withdrawn; a person decides.
        ConsentWithdrawn: the participant withdrew the consent.
    """
    transfers = gateway.ledger.transfers
    if target_name not in gateway.project(transfer.project).targets:
        raise RequestRefused(
            f"{target_name} is not among the targets of project {transfer.project} (any more); "
            "nothing was sent"
        )
    transfers.require_current(transfer)
    package = transfers.package(transfer)
    if package is None:
        if transfer.state == "accepted":
            raise Busy(f"the package of study {transfer.study} is not made yet; its delivery follows")
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
    _require_up(gateway, transfer, target_name)
    try:
        proof = _send(gateway, transfer, target_name, package, verified)
    except NotVerified:
        transfers.withdraw_verification(transfer)  # for all targets, until it is verified anew
        raise
    except _ANSWERED:
        gateway.ledger.circuits.succeeded(target_name)  # what is missing or wrong is this study's affair
        raise
    except PeerUnavailable:
        gateway.ledger.circuits.failed(target_name, transfer.study)
        raise
    except PeerNotTrusted as error:
        if gateway.ledger.circuits.distrusted(target_name, transfer.study):
            raise TargetDown(str(error)) from None  # one failure tells of it; all others wait
        raise
    gateway.ledger.circuits.succeeded(target_name)
    transfers.record_delivery(transfer, target_name, package.sha256, proof.to_private_json())
    finish(gateway, transfer)
    return proof, package


def _require_up(gateway: Gateway, transfer: Transfer, target: str) -> None:
    """Keeps deliveries that were queued before a target went down from waiting for it one by one."""
    circuit = gateway.ledger.circuits.of(target)
    key = work_key("deliver", transfer.study, transfer.project, target)
    if circuit.distrusted and transfer.study in circuit.studies:
        return  # it told of that, and a person has it tried again
    if circuit.open and circuit.probe != key and not gateway.ledger.circuits.may_probe(circuit):
        why = "is not who it should be" if circuit.distrusted else "does not answer"
        raise TargetDown(
            f"target {target}: {why} since {circuit.since}; one delivery at a time tries it (the "
            f"next at {circuit.probe_at}), all others follow by themselves when that succeeds"
        )


def _send(
    gateway: Gateway, transfer: Transfer, target_name: str, package: Package, verified: dict[str, str]
) -> Proof:
    target = gateway.target(target_name)
    transfers = gateway.ledger.transfers
    watch = Watch(gateway, transfer)

    def may_go_on() -> None:
        require_sending(gateway.root)
        transfers.require_wanted(transfer)
        watch.check()

    may_go_on()
    require_not_withdrawn(gateway, transfer)
    if not isinstance(target, InstanceTarget):
        from fiona_dagster.transfers.targets.packages import deliver_package

        path = gateway.root.path / package.path
        # What lies beside a package goes first: where the package is, everything is.

        def bring(file: Path, sha256: str) -> Proof:
            return deliver_package(
                target,
                gateway.root,
                file,
                sha256,
                remote_name=file.name,
                begin=lambda: transfers.begin_sending(transfer, target_name, Content(package.sha256)),
                name=target_name,
                may_go_on=may_go_on,
            )

        proofs = [bring(each.path, each.sha256) for each in companions_of(path, package.sha256)]
        proofs.append(bring(path, package.sha256))
        record = record_of(path)  # like its checksums, which come behind it
        if record is not None:
            proofs.insert(-1, bring(record.path, record.sha256))
        return together(proofs)
    from fiona_dagster.transfers.targets.instances import deliver_instances

    begun: list[Sending] = []

    def begin(instances: Mapping[str, str], listed: frozenset[str] | None, counted: int) -> frozenset[str]:
        content = Content(package.sha256, instances, listed, counted)
        begun.append(transfers.begin_sending(transfer, target_name, content))
        return begun[0].uncertain

    folder = whole_copy(gateway, transfer, verified)
    try:
        return deliver_instances(
            target,
            gateway.root,
            [folder / name for name in sorted(verified)],
            {str(folder / name): verified[name] for name in verified},
            begin=begin,
            name=target_name,
            transcode=gateway.project(transfer.project).transcode,
            transfer=transfer.id,
            may_go_on=may_go_on,
        )
    except ContentUnproven as error:
        gateway.ledger.sendings.unproven(begun[0], error.instances)
        gateway.ledger.sendings.complain(begun[0], dict.fromkeys(error.instances, "content unproven"))
        raise
    except (InstancesMissing, InstancesRefused) as error:
        if begun:
            gateway.ledger.sendings.complain(begun[0], error.instances)
        raise


def finish(gateway: Gateway, transfer: Transfer) -> bool:
    """Closes a transfer when every target that its project names is proven; may be called at any time.

    The package moves to ``DAIC/<PROJECT>/``, the working copy goes, and REDCap is to be told. A project
    that names no target (any more) closes nothing: its packages wait.

    Returns:
        Whether every target is proven.

    Raises:
        Superseded: the transfer does not count any more.
    """
    transfers = gateway.ledger.transfers
    transfers.require_current(transfer)
    package = transfers.package(transfer)
    wanted = gateway.project(transfer.project).targets
    if package is None or not wanted or transfers.unproven(transfer, wanted):
        return False
    current = transfers.current(transfer.study, transfer.project)
    if current is not None and current.id == transfer.id and current.state == "delivered":
        return True
    _move_to_daic(gateway, transfer, package)
    with gateway.ledger.store.writing():
        transfers.set_state(transfer, "delivered")
        gateway.ledger.work.drop_deliveries(transfer.study, transfer.project, ())
        transfers.outcome_due(transfer)
    remove_working_copy(gateway, transfer)
    return True


@dataclass(frozen=True)
class Settled:
    """What a look at all packages that wait brought."""

    closed: int = 0
    """Transfers that were proven everywhere and not closed (killed in between, or a target taken out)."""
    added: int = 0
    """Deliveries to targets that were added since the package was made."""
    forgotten: int = 0
    """Deliveries to targets that were taken out."""
    restarted: int = 0
    """Transfers whose copy was made by other rules than those in force; they are de-identified again."""
    problems: tuple[str, ...] = ()
    """Projects whose packages can't be looked at, and why; they wait."""


def settle(gateway: Gateway) -> Settled:
    """Brings every package that is not closed in line with the targets that its project names now.

    Idempotent; the sensor calls it at every tick, so that neither a kill nor an edited project file
    leaves a transfer that nothing moves on.
    """
    closed = added = forgotten = restarted = 0
    projects: dict[str, ProjectSettings] = {}
    problems: dict[str, str] = {}
    for transfer in gateway.ledger.transfers.undelivered():
        name = transfer.project
        if name not in projects and name not in problems:
            try:
                projects[name] = gateway.project(name)
            except ConfigurationError as error:
                problems[name] = str(error)
        if name in problems:
            continue
        targets = projects[name].targets
        if _start_over(gateway, transfer, settings_of(gateway, transfer, projects[name])):
            restarted += 1
            continue
        more, fewer = gateway.ledger.transfers.align_deliveries(transfer, targets)
        added, forgotten = added + more, forgotten + fewer
        if gateway.ledger.transfers.unproven(transfer, targets):
            continue
        # A step that holds the lock closes the transfer itself; one that was replaced needs no closing.
        with (
            contextlib.suppress(Busy, Superseded),
            landing.study_lock(gateway.root, transfer.study, blocking=False),
        ):
            closed += finish(gateway, transfer)
    gateway.ledger.circuits.forget_idle()
    return Settled(closed, added, forgotten, restarted, tuple(problems.values()))


def _start_over(gateway: Gateway, transfer: Transfer, project: ProjectSettings) -> bool:
    """Starts a transfer again whose copy was made by other rules; an ended project only waits."""
    if not (project.active and project.targets) or transfer.rules == rules_digest(project):
        return False
    with contextlib.suppress(Superseded):  # then there is nothing to start again
        gateway.ledger.transfers.start_over(transfer, "the rules of the project changed")
    return True


def failed(gateway: Gateway, transfer: Transfer, target: str, message: str, *, permanent: bool) -> None:
    """Books a delivery that failed; a permanent failure ends the transfer until a person acts.

    A transfer that does not count any more fails nothing: the work of what took its place is left alone. So
    does a target that was taken out of the project meanwhile.
    """
    with gateway.ledger.store.writing():
        try:
            gateway.ledger.transfers.require_current(transfer)
        except Superseded:
            return
        key = work_key("deliver", transfer.study, transfer.project, target)
        gateway.ledger.work.failed(key, message, permanent=permanent)
        try:
            wanted = target in gateway.project(transfer.project).targets
        except ConfigurationError:  # the project's file is gone: that is no failure of this target
            wanted = False
        if permanent and wanted:
            give_up(gateway, transfer, f"{target}: {message}")


def _write_proofs(gateway: Gateway, transfer: Transfer, path: Path) -> None:
    """What each target proved, or that it needed no proof by agreement: kind, time, counts, digests."""
    found = gateway.ledger.transfers.deliveries(transfer)
    document = {
        name: {key: value for key, value in delivery.proof.items() if key != "private"}
        for name, delivery in sorted(found.items())
    }
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)


def _move_to_daic(gateway: Gateway, transfer: Transfer, package: Package) -> None:
    """Side files first, the package last: a package in DAIC/ always has its checksums beside it."""
    source = gateway.root.path / package.path
    folder = gateway.root.daic / transfer.project
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / source.name
    move_beside(source, target)
    _write_proofs(gateway, transfer, source.with_name(f"{source.name}{PROOFS}"))
    for suffix in (".md5", ".sha256", ".json", PROOFS, ""):
        moved_from = Path(f"{source}{suffix}")
        if moved_from.is_file():
            moved_from.replace(f"{target}{suffix}")
    gateway.ledger.transfers.move_package(transfer, str(target.relative_to(gateway.root.path)))
