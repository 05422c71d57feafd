"""Delivery of de-identified instances by STOW-RS, proven by QIDO-RS or by retrieving them (WADO-RS)."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fiona_dagster.config import DataRoot, StowTarget, resolve
from fiona_dagster.dicom.dimse import SOP_CLASS_NOT_SUPPORTED
from fiona_dagster.dicom.instances import Instance, StoreResult, read_instance
from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.dicom.sameness import same_data_set
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE
from fiona_dagster.dicom.web import NOT_MENTIONED, SYNTAX_NOT_SUPPORTED, WebClient, WebPeer
from fiona_dagster.errors import (
    ConfigurationError,
    ContentUnproven,
    DeliveryRefused,
    PeerNotTrusted,
    RefusedDicom,
    UnreadableDicom,
)
from fiona_dagster.transfers.package import require_records
from fiona_dagster.transfers.targets import InstancesMissing, Proof, ProofKind, utc_now
from fiona_dagster.transfers.targets.comparing import room_to_compare
from fiona_dagster.transfers.targets.instances import Begin, Gate, complain, one_study, uid_digest
from fiona_dagster.transfers.targets.transcoded import OFFERED, Copies

INDEXING_SECONDS = 10.0
"""How long a server may take to list what it has just stored."""
_SPARE = 1 << 20
"""Bytes by which a retrieved file may be larger than ours and still be the same: file meta information."""


def web_peer(target: StowTarget, root: DataRoot, name: str) -> WebPeer:
    """The target as a client needs it, with its secrets.

    Raises:
        ConfigurationError: a secret file can't be read.
    """
    headers, login = {}, None
    if target.token_file:
        headers["Authorization"] = f"Bearer {_secret(root, target.token_file, name)}"
    elif target.username:
        login = (target.username, _secret(root, target.password_file, name))
    certificate = None
    if target.certificate_file:
        certificate = (resolve(root, target.certificate_file), resolve(root, target.key_file))
    for file in (target.ca_file, target.certificate_file, target.key_file):
        if file and not resolve(root, file).is_file():
            raise ConfigurationError(f"target {name}: no file {resolve(root, file)}")
    return WebPeer(
        f"target {name}",
        target.url.rstrip("/"),
        target.timeout_seconds,
        resolve(root, target.ca_file) if target.ca_file else None,
        certificate,
        headers,
        login,
    )


def _secret(root: DataRoot, file: str, name: str) -> str:
    path = resolve(root, file)
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"target {name}: {path} can't be read") from None
    if not secret or "\n" in secret:
        raise ConfigurationError(f"target {name}: {path}: expected one line with the secret")
    return secret


def deliver_stow(
    target: StowTarget,
    root: DataRoot,
    files: Sequence[Path],
    expected: Mapping[str, str],
    *,
    begin: Begin,
    name: str = "stow",
    transcode: bool = False,
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings the instances of one study to a DICOMweb server and proves that it has all of them.

    What it lists and the ledger can vouch for is not sent again. What it lists and nobody can vouch for is
    retrieved and compared, unless ``compare`` is ``none``; without that it never counts as proven.

    Args:
        target: where.
        root: relative secret files lie below its ``config/``.
        files: de-identified files of one study.
        expected: SHA-256 of every verified file by ``str(path)``; exactly the given files.
        begin: called before the first instance leaves; writes that down and says what is uncertain.
        name: the target's name in config.json, for messages and the proof.
        transcode: what the server does not take as it is stored may go in Explicit VR Little Endian, without
            loss. It is tried as it is stored first: nothing is negotiated over HTTP.
        may_go_on: called before each instance; what it raises ends the delivery.

    Returns:
        A proof of kind ``wado-compare`` (every instance was retrieved and is the same) or ``qido-instances``
        (every SOP Instance UID was listed).

    Raises:
        NotVerified: the gate; a file is not what was verified.
        InstancesRefused: instances were refused for good; ``instances`` has their mapped UIDs.
        InstancesMissing: some are not stored or not listed; trying again sends only these.
        ContentUnproven: it lists all, but some of it is not, or not provably, what was to be there.
        DeliveryRefused: the server does not accept us.
        StorageFull: it has no room.
        PeerUnavailable: no answer.
    """
    require_records([str(path) for path in files], expected)
    gate = Gate(expected)
    instances = [read_instance(path) for path in files]
    for instance in instances:
        gate.check(instance)  # all of them before the first byte leaves
    study = one_study(instances)
    digests = {instance.sop_instance: expected[str(instance.path)] for instance in instances}
    with WebClient(web_peer(target, root, name)) as client:
        may_go_on()
        listed = client.list_instances(study)
        unsure = set(begin(digests, listed, len(listed)))
        copies = Copies(expected) if transcode else None
        if target.compare != "none":
            unsure -= _same(client, instances, unsure & listed, may_go_on, copies)
        known = listed & digests.keys() - unsure
        missing = [instance for instance in instances if instance.sop_instance not in known]
        results = client.store(missing, expected, may_go_on)
        if copies is not None:
            results = _transcoded(client, results, copies, may_go_on)
        gate.close()
        complain(name, [result for result in results if result.stored or result.reason != NOT_MENTIONED])
        found = _prove(name, client, study, digests.keys(), target.timeout_seconds)
        compared: set[str] = set()
        if target.compare == "all":
            compared = _same(client, instances, digests.keys(), may_go_on, copies)
            unsure = set(digests) - compared
        elif unsure and target.compare == "uncertain":
            unsure -= _same(client, instances, unsure, may_go_on, copies)
    if unsure:
        raise ContentUnproven(
            f"target {name}: {len(unsure)} of {len(instances)} instances are present, content unproven: "
            "what the server gives under their UIDs is not what was to be there, or was there before and "
            "could not be compared; have its operator remove the study there, then confirm it with "
            "`fiona removed`",
            frozenset(unsure),
        )
    transcoded = dict(copies.to) if copies is not None else {}
    kind: ProofKind = "wado-compare" if compared else "qido-instances"
    return Proof(
        kind=kind,
        target=name,
        time=utc_now(),
        counts={
            "instances": len(instances),
            "sent": len(results),
            "there_before": len(known),
            "warnings": sum(1 for result in results if result.status),
            "found": found,
            "compared": len(compared),
            **({"transcoded": len(transcoded)} if transcoded else {}),
        },
        digests={"sha256-of-uids": uid_digest(instances)},
        private={"StudyInstanceUID": study, "transcoded": transcoded},
    )


def _transcoded(
    client: WebClient, results: Sequence[StoreResult], copies: Copies, may_go_on: Callable[[], None]
) -> list[StoreResult]:
    """Sends in another transfer syntax what the server refused for its own; what became of everything."""
    refused = [each.instance for each in results if _may_go_otherwise(each)]
    again = {each.sop_instance: EXPLICIT_LITTLE for each in refused}
    for each in results:  # what was looked at before lies there otherwise now
        copies.to.pop(each.instance.sop_instance, None)
    copies.to.update(again)
    sent = copies.send(refused, lambda made, digests: client.store(made, digests, may_go_on), may_go_on)
    return [*(each for each in results if each.instance.sop_instance not in again), *sent]


def _may_go_otherwise(result: StoreResult) -> bool:
    # Some servers know no reason of its own for a transfer syntax.
    refused = result.status in (SYNTAX_NOT_SUPPORTED, SOP_CLASS_NOT_SUPPORTED)
    return refused and result.instance.transfer_syntax != EXPLICIT_LITTLE


def _prove(name: str, client: WebClient, study: str, wanted: Collection[str], timeout: float) -> int:
    """Waits until the server lists all of them; how many of these it lists."""
    deadline, pause = time.monotonic() + min(INDEXING_SECONDS, timeout), 0.1
    while missing := set(wanted) - client.list_instances(study):
        if time.monotonic() > deadline:
            raise InstancesMissing(
                f"target {name}: the server lists only {len(wanted) - len(missing)} of {len(wanted)} "
                "instances; trying again sends what is missing",
                dict.fromkeys(sorted(missing), "not listed"),
            )
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
    return len(wanted)


def _same(
    client: WebClient,
    instances: Sequence[Instance],
    uids: Collection[str],
    may_go_on: Callable[[], None],
    copies: Copies | None = None,
) -> set[str]:
    """Those of these instances that the server gives with the same transfer syntax and data set.

    What it lists and does not find is asked for again for a while: an index may be ahead of a store. A server
    that gives none at all leaves them unproven.

    Args:
        client: the server.
        instances: our files.
        uids: SOP Instance UIDs to look at.
        may_go_on: called before each instance.
        copies: makes what the server has in another transfer syntax as we would send it so; None: we don't.

    Raises:
        InstancesMissing: it gives some, and still does not find others that it lists.
        StorageFull: no room for one instance at a time.
    """
    same: set[str] = set()
    waiting = [instance for instance in instances if instance.sop_instance in uids]
    deadline, pause, gives = time.monotonic() + INDEXING_SECONDS, 0.1, False
    while waiting:
        absent = []
        for instance in waiting:
            may_go_on()
            with room_to_compare():
                found = _compare(client, instance, copies)
            if found is None:
                absent.append(instance)
                continue
            gives = True
            if found:
                same.add(instance.sop_instance)
        waiting = absent
        if waiting and time.monotonic() > deadline:
            if not gives:
                return same
            raise InstancesMissing(
                f"{client.name}: the server lists {len(waiting)} instances that it does not find; trying "
                "again may help",
                {instance.sop_instance: "listed, not found" for instance in waiting},
            )
        if waiting:
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
    return same


def _compare(client: WebClient, instance: Instance, copies: Copies | None) -> bool | None:
    """Whether the server gives the same; None: it does not find it."""
    with from_copy():
        limit = instance.path.stat().st_size + _SPARE
    # Without a name, so that nothing stays after a kill; beside ours, where there is room for it.
    with tempfile.TemporaryFile(dir=instance.path.parent) as file:
        try:
            if copies is not None:
                from fiona_dagster.transfers.transcoding import decoded_size

                limit += decoded_size(instance.path)
            whole = client.retrieve(instance, file, limit)
            file.flush()
            if not whole:
                return whole
            theirs = read_instance(Path(f"/proc/self/fd/{file.fileno()}"))
            with contextlib.ExitStack() as stack:
                ours = instance
                if copies is not None and _another(theirs, instance):
                    copies.to[instance.sop_instance] = theirs.transfer_syntax
                    ours = stack.enter_context(copies.as_sent(instance))
                if theirs.transfer_syntax != ours.transfer_syntax:
                    return False
                start, syntax = theirs.data_set_offset, ours.transfer_syntax
                with ours.path.open("rb") as one:
                    return same_data_set(one, ours.data_set_offset, file, start, syntax)
        except PeerNotTrusted:
            raise
        except (DeliveryRefused, UnreadableDicom, RefusedDicom):
            return False


def _another(theirs: Instance, ours: Instance) -> bool:
    """Whether it may be one of our copies, or what the server made of it by itself."""
    return theirs.transfer_syntax in OFFERED and theirs.transfer_syntax != ours.transfer_syntax
