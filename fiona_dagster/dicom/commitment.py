"""Storage commitment (PS3.4 annex J): reading a request, and reporting what became of it.

Reading is ours, since the Storage SCP does it; reporting is pynetdicom's, imported when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiona_dagster.dicom.clients import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, association_with
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.uids import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    clean_uid,
    encoding_of,
    is_uid,
)
from fiona_dagster.dicom.walker import BytesSource, Walk
from fiona_dagster.errors import PeerUnavailable, UnreadableDicom

REQUEST_ACTION = 1
"""Action Type ID of a request (PS3.4 table J.3-1)."""
COMMITTED, FAILURES = 1, 2
"""Event Type IDs of a report: all instances are safe, or not all (PS3.4 table J.3-2)."""
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure Reasons (PS3.3 section C.14)."""
MAX_REFERENCES = 100_000

_TRANSACTION, _REFERENCES, _CLASS, _INSTANCE = 0x00081195, 0x00081199, 0x00081150, 0x00081155
_ITEM = 0xFFFEE000

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True)
class CommitmentRequest:
    """The data set of an N-ACTION: Transaction UID and what is to be kept safe."""

    transaction: str
    references: tuple[Reference, ...]


def read_request(data: bytes, transfer_syntax: str) -> CommitmentRequest:
    """Reads the data set of a request (PS3.4 table J.3-1).

    Args:
        data: the encoded data set.
        transfer_syntax: UID; not deflated.

    Raises:
        UnreadableDicom: it is broken, or a UID is missing or malformed.
    """
    encoding = encoding_of(transfer_syntax)
    walk = Walk(
        BytesSource(data),
        explicit=encoding.explicit is not False,
        big=encoding.big_endian,
        max_depth=8,
        is_sequence=lambda tag: tag == _REFERENCES,
    )
    transaction = ""
    references: list[dict[int, str]] = []
    inside = False
    for element in walk:
        if element.depth == 0:
            inside = element.tag == _REFERENCES
            if element.tag == _TRANSACTION:
                transaction = clean_uid(walk.value(element))
        elif inside and element.depth == 1 and element.tag == _ITEM:
            references.append({})
        elif inside and element.depth == 1 and element.tag in (_CLASS, _INSTANCE) and references:
            references[-1][element.tag] = clean_uid(walk.value(element))
        if len(references) > MAX_REFERENCES:
            raise UnreadableDicom(f"more than {MAX_REFERENCES} instances in one request")
    if walk.problem is not None:
        raise UnreadableDicom(f"request is broken: {walk.problem.reason}")
    if not is_uid(transaction):
        raise UnreadableDicom("Transaction UID is missing or malformed")
    found = [(each.get(_CLASS, ""), each.get(_INSTANCE, "")) for each in references]
    if not found or not all(is_uid(uid) for reference in found for uid in reference):
        raise UnreadableDicom("a Referenced SOP Class or Instance UID is missing or malformed")
    return CommitmentRequest(transaction, tuple(found))


def report(
    peer: Peer, transaction: str, committed: Sequence[Reference], failed: Mapping[Reference, int]
) -> None:
    """Reports by N-EVENT-REPORT, on an association of ours, what became of a request.

    Args:
        peer: who asked.
        transaction: Transaction UID of the request.
        committed: what is kept safe.
        failed: what is not, with its Failure Reason.

    Raises:
        PeerUnavailable: no association, no answer, or no success.
        DeliveryRefused: the peer refuses us for good.
    """
    from pydicom.dataset import Dataset
    from pynetdicom import build_role

    contexts = [(STORAGE_COMMITMENT, EXPLICIT_LITTLE_ENDIAN), (STORAGE_COMMITMENT, IMPLICIT_LITTLE_ENDIAN)]
    event = Dataset()
    event.TransactionUID = transaction
    if committed:
        event.ReferencedSOPSequence = [_item(reference) for reference in committed]
    if failed:
        event.FailedSOPSequence = [_item(reference, reason) for reference, reason in failed.items()]
    kind = FAILURES if failed else COMMITTED
    # We are the SCP of the service though we open the association (PS3.4 section J.3.3).
    roles = [build_role(STORAGE_COMMITMENT, scp_role=True)]
    with association_with(peer, contexts, peer.timeout, roles) as association:
        for context in association.accepted_contexts:
            context._as_scp = True  # many peers leave the role unanswered and take the report all the same
        try:
            answer, _ = association.send_n_event_report(
                event, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
        except (RuntimeError, OSError, ValueError):
            raise PeerUnavailable(f"{peer.name}: the association broke during N-EVENT-REPORT") from None
        status = answer.get("Status") if answer is not None else None
    if status is None:
        raise PeerUnavailable(f"{peer.name}: no answer to N-EVENT-REPORT")
    if int(status) != 0:
        raise PeerUnavailable(f"{peer.name}: N-EVENT-REPORT: status {int(status):04X}")


def _item(reference: Reference, reason: int | None = None) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    if reason is not None:
        item.FailureReason = reason
    return item
