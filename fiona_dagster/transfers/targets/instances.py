"""What all targets that take instances have in common: the gate, and what refusals mean."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fiona_dagster.config import DataRoot, InstanceTarget, StowTarget
from fiona_dagster.dicom.instances import Instance, StoreResult
from fiona_dagster.dicom.opened import CHANGED, from_copy
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers.targets import InstancesMissing, InstancesRefused, Proof

Begin = Callable[[Mapping[str, str], frozenset[str] | None, int], frozenset[str]]
"""Writes down that sending begins. Takes mapped SOP Instance UID -> SHA-256 of what is to be there, which of
them are listed already (None: the PACS can only count), and how many; returns those we can't vouch for."""


class Gate:
    """Hashes every file before the first byte leaves, and makes sure that they stayed as they were.

    The sender compares the very bytes that it sends once more.
    """

    def __init__(self, expected: Mapping[str, str]) -> None:
        self._expected = expected
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def check(self, instance: Instance) -> None:
        """Compares one file with its record.

        Raises:
            NotVerified: it differs.
            CopyUnavailable: the disk does not give it.
        """
        path = instance.path
        with from_copy(), path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._seen[path] = _stamp(os.fstat(stream.fileno()))
        if digest != self._expected.get(str(path)):
            raise NotVerified(
                "a file differs from its verification record; de-identify and verify the study again"
            )

    def close(self) -> None:
        """Looks once more at everything that was sent.

        Raises:
            NotVerified: a file was replaced or written to while it was sent.
        """
        for path, stamp in self._seen.items():
            with from_copy(CHANGED):
                same = _stamp(path.stat()) == stamp
            if not same:
                raise NotVerified(CHANGED)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def one_study(instances: Sequence[Instance]) -> str:
    """StudyInstanceUID of what is to be sent.

    Raises:
        NotVerified: it is not one study, or an instance is there twice.
    """
    studies = {instance.study for instance in instances}
    uids = {instance.sop_instance for instance in instances}
    if len(studies) != 1 or len(uids) != len(instances):
        raise NotVerified("the files in hand are not the instances of one study; de-identify the study again")
    return studies.pop()


def uid_digest(instances: Sequence[Instance]) -> str:
    """SHA-256 of the sorted SOP Instance UIDs: says which instances, and nobody can read them from it."""
    text = "\n".join(sorted(instance.sop_instance for instance in instances))
    return hashlib.sha256(text.encode()).hexdigest()


def complain(name: str, results: Sequence[StoreResult]) -> None:
    """Names what was not stored.

    Raises:
        InstancesMissing: all of it may be stored at another attempt.
        InstancesRefused: something was refused for good.
    """
    failed = [result for result in results if not result.stored]
    if not failed:
        return
    named = {result.instance.sop_instance: result.reason or f"{result.status or 0:04X}" for result in failed}
    reasons = ", ".join(sorted(set(named.values())))
    message = f"target {name}: {len(failed)} of {len(results)} instances were not stored ({reasons})"
    if all(result.may_pass for result in failed):
        raise InstancesMissing(f"{message}; trying again sends only these", named)
    raise InstancesRefused(f"{message}; ask the operator of the PACS", named)


def deliver_instances(
    target: InstanceTarget,
    root: DataRoot,
    files: Sequence[Path],
    expected: Mapping[str, str],
    *,
    begin: Begin,
    name: str,
    transcode: bool = False,
    transfer: int = 0,
    may_go_on: Callable[[], None],
) -> Proof:
    """Brings the instances of one study to a target of any kind and proves that it has all of them.

    Args:
        target: where.
        root: relative secret files lie below its ``config/``.
        files: de-identified files of one study.
        expected: SHA-256 of every verified file by ``str(path)``; exactly the given files.
        begin: called before the first instance leaves; writes that down and says what is uncertain.
        name: the target's name in config.json, for messages and the proof.
        transcode: what the target does not take as it is stored may go in another transfer syntax, without
            loss.
        transfer: number of the transfer in the ledger, for requests that are answered later.
        may_go_on: called before each instance; what it raises ends the delivery.

    Raises:
        NotVerified: the gate; a file is not what was verified.
        InstancesRefused: the target refused instances for good.
        InstancesMissing: some are not there yet; trying again sends only these.
        ContentUnproven: it lists all, but maybe with other bytes.
        DeliveryRefused: it does not accept us.
        PeerUnavailable: it can't be reached.
    """
    # What speaks to a target is imported when it is needed: every run is a new process.
    if isinstance(target, StowTarget):
        from fiona_dagster.transfers.targets.stow import deliver_stow

        return deliver_stow(
            target,
            root,
            files,
            expected,
            begin=begin,
            name=name,
            transcode=transcode,
            may_go_on=may_go_on,
        )
    from fiona_dagster.transfers.targets.dicom import deliver_dicom

    return deliver_dicom(
        target,
        root,
        files,
        expected,
        begin=begin,
        name=name,
        transcode=transcode,
        transfer=transfer,
        may_go_on=may_go_on,
    )


def count_at(target: InstanceTarget, root: DataRoot, name: str, study: str) -> int:
    """How many instances a target lists of a study (mapped StudyInstanceUID).

    Raises:
        DeliveryRefused: it does not answer such questions.
        PeerUnavailable: no answer.
    """
    if isinstance(target, StowTarget):
        from fiona_dagster.dicom.web import WebClient
        from fiona_dagster.transfers.targets.stow import web_peer

        with WebClient(web_peer(target, root, name)) as client:
            return len(client.list_instances(study))
    from fiona_dagster.dicom.clients import count_instances
    from fiona_dagster.transfers.targets.dicom import peer_of

    return count_instances(peer_of(target, root), study)
