"""Delivery of de-identified instances to a research PACS, proven by asking it what it has."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fiona_dagster.config import DataRoot, DicomTarget, PeerTlsSettings, resolve
from fiona_dagster.dicom.clients import count_instances, find_instance_uids
from fiona_dagster.dicom.instances import Instance, read_instance
from fiona_dagster.dicom.peers import Peer, PeerTls
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import ContentUnproven, DeliveryRefused, PeerNotTrusted
from fiona_dagster.transfers.package import require_records
from fiona_dagster.transfers.targets import (
    InstancesMissing,
    Proof,
    ProofKind,
    utc_now,
)
from fiona_dagster.transfers.targets.committing import Commitment
from fiona_dagster.transfers.targets.comparing import Comparison
from fiona_dagster.transfers.targets.instances import Begin, Gate, complain, one_study, uid_digest
from fiona_dagster.transfers.targets.transcoded import Transcoded

INDEXING_SECONDS = 10.0
"""How long a PACS may take to list what it has just acknowledged."""


def peer_of(target: DicomTarget, root: DataRoot) -> Peer:
    """The target as an association needs it; names of files for TLS lie below ``config/``."""
    return Peer(
        target.host,
        target.port,
        target.called_ae_title,
        target.calling_ae_title,
        target.timeout_seconds,
        None if target.tls is None else _tls(target.tls, root),
    )


def _tls(settings: PeerTlsSettings, root: DataRoot) -> PeerTls:
    names = (settings.ca_file, settings.certificate, settings.key)
    ca_file, certificate, key = (resolve(root, name) if name else None for name in names)
    return PeerTls(ca_file, certificate, key, settings.server_name)


def deliver_dicom(
    target: DicomTarget,
    root: DataRoot,
    files: Sequence[Path],
    expected: Mapping[str, str],
    *,
    begin: Begin,
    name: str = "dicom",
    transcode: bool = False,
    transfer: int = 0,
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings the instances of one study to a research PACS and proves that it has all of them.

    What the PACS lists and the ledger can vouch for is not sent again, so that a repeated delivery goes on
    where it stopped. What it lists and nobody can vouch for is retrieved and compared, unless ``compare`` is
    ``none``, and sent again where it differs. Without that it never counts as proven: C-FIND shows names, not
    contents, and many PACS keep what they have when the same UID comes again.

    Args:
        target: where.
        root: the data root; files for TLS lie below its ``config/``.
        files: de-identified files of one study.
        expected: SHA-256 of every verified file by ``str(path)``; exactly the given files.
        begin: called before the first instance leaves; writes that down and says what is uncertain.
        name: the target's name in config.json, for messages and the proof.
        transcode: what the PACS does not take as it is stored may go in another transfer syntax, without
            loss.
        transfer: number of the transfer in the ledger, for requests that are answered later.
        may_go_on: called before each instance; what it raises ends the delivery.

    Returns:
        A proof of kind ``dicom-commitment`` (the PACS promised to keep everything safe), ``dicom-compare``
        (every instance was retrieved and is the same; ``compare`` is ``all``), ``dicom-find``
        (every SOP Instance UID was listed), or ``dicom-find-count`` from a PACS that can only tell numbers.

    Raises:
        NotVerified: the gate; a file is not what was verified. What was sent before it stays there.
        InstancesRefused: the PACS refused instances for good; ``instances`` has their mapped UIDs.
        InstancesMissing: some got no answer, are not listed, or the PACS does not promise to keep them;
            trying again sends only these.
        ProofAwaited: it lists everything, and its answer to the request for storage commitment comes later.
        ContentUnproven: it lists all, but had some before with bytes that we can't vouch for, and that are
            something else or can't be retrieved.
        DeliveryRefused: the PACS does not accept us, or we don't accept its certificate.
        ConfigurationError: the files for TLS can't be used.
        PeerUnavailable: no connection.
    """
    require_records([str(path) for path in files], expected)
    gate = Gate(expected)
    instances = [read_instance(path) for path in files]
    for instance in instances:
        gate.check(instance)  # all of them before the first byte leaves
    study = one_study(instances)
    peer = peer_of(target, root)
    digests = {instance.sop_instance: expected[str(instance.path)] for instance in instances}
    may_go_on()
    listed = _listed(peer, study, instances)
    unsure = set(begin(digests, listed, count_instances(peer, study) if listed is None else len(listed)))
    transcoded = Transcoded(peer, instances, expected, allowed=transcode)
    comparison = Comparison(target, peer, name, may_go_on, transcoded.as_sent)
    if target.compare != "none":  # a PACS that lists nothing may give something all the same
        unsure -= comparison.same(instances, unsure if listed is None else unsure & listed)
    commitment = Commitment(target, root, name, digests, transfer)
    known = (listed or frozenset()) & digests.keys() - unsure - commitment.refused
    missing = [instance for instance in instances if instance.sop_instance not in known]

    results = store_files(
        peer,
        [instance for instance in missing if instance.sop_instance not in transcoded.to],
        digests=expected,
        associations=target.associations,
        before=lambda _: may_go_on(),
    )
    results += transcoded.store(missing, target.associations, may_go_on)
    gate.close()
    complain(name, results)
    if results:
        commitment.sent_again()
    kind, count = _prove(name, peer, study, instances)
    compared = frozenset[str]()
    if target.compare == "all":
        compared = comparison.same(instances, digests.keys())
        unsure = digests.keys() - compared
    elif unsure and target.compare == "uncertain":
        unsure -= comparison.same(instances, unsure)
    if unsure:
        raise ContentUnproven(
            f"target {name}: {len(unsure)} of {len(instances)} instances are present, content unproven: "
            "the PACS may have other bytes under their UIDs than were to be there; "
            f"{comparison.describe()}; have its operator remove the study there, then confirm it with "
            "`fiona removed`",
            frozenset(unsure),
        )
    if compared:
        kind = "dicom-compare"
    if kind != "dicom-find-count" and commitment.proves(peer, instances):
        kind = "dicom-commitment"
    return Proof(
        kind=kind,
        target=name,
        time=utc_now(),
        counts={
            "instances": len(instances),
            "sent": len(results),
            "there_before": len(known),
            "warnings": sum(1 for result in results if result.status),
            "found": count,
            **({"compared": len(compared)} if compared else {}),
            **({"transcoded": len(transcoded.to)} if transcoded.to else {}),
        },
        digests={"sha256-of-uids": uid_digest(instances)},
        private={
            "StudyInstanceUID": study,
            "called_ae_title": target.called_ae_title,
            "warnings": {each.instance.sop_instance: f"{each.status:04X}" for each in results if each.status},
            "transcoded": transcoded.to,
        },
    )


def _listed(peer: Peer, study: str, instances: Sequence[Instance]) -> frozenset[str] | None:
    """What the PACS lists, or None when it can't list instances."""
    try:
        return frozenset(find_instance_uids(peer, study, {instance.series for instance in instances}))
    except PeerNotTrusted:
        raise
    except DeliveryRefused:
        return None


def _prove(name: str, peer: Peer, study: str, instances: Sequence[Instance]) -> tuple[ProofKind, int]:
    wanted = {instance.sop_instance for instance in instances}
    deadline = time.monotonic() + min(INDEXING_SECONDS, peer.timeout)
    pause = 0.1
    while True:
        listed = _listed(peer, study, instances)
        kind: ProofKind = "dicom-find-count" if listed is None else "dicom-find"
        count = count_instances(peer, study) if listed is None else len(wanted & listed)
        if count >= len(wanted):
            return kind, count
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
    missing = wanted - (listed or frozenset())
    raise InstancesMissing(
        f"target {name}: the PACS acknowledged {len(wanted)} instances but lists only {count}; "
        "trying again sends what is missing",
        dict.fromkeys(sorted(missing), "not listed"),
    )
