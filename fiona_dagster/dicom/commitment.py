"""Storage commitment (PS3.4 annex J): requests and reports, read and sent.

Reading and asking are ours, since the Storage SCP and deliveries do it; reporting is pynetdicom's, imported
when it is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fiona_dagster.dicom import dimse
from fiona_dagster.dicom.clients import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN, association_with
from fiona_dagster.dicom.datasets import Values, encode
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.requestor import Context, Requestor
from fiona_dagster.dicom.uids import (
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    clean_uid,
    encoding_of,
    is_uid,
)
from fiona_dagster.dicom.walker import BytesSource, Walk
from fiona_dagster.dicom.wire import Broken
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, UnreadableDicom

REQUEST_ACTION = 1
"""Action Type ID of a request (PS3.4 table J.3-1)."""
COMMITTED, FAILURES = 1, 2
"""Event Type IDs of a report: all instances are safe, or not all (PS3.4 table J.3-2)."""
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure Reasons (PS3.3 section C.14)."""
MAX_REFERENCES = 100_000

ON_THE_SPOT_SECONDS = 2.0
"""How long we keep an association open for a report that comes at once."""

_TRANSACTION, _REFERENCES, _FAILED, _REASON = 0x00081195, 0x00081199, 0x00081198, 0x00081197
_CLASS, _INSTANCE = 0x00081150, 0x00081155
_ITEM = 0xFFFEE000

Reference = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True)
class CommitmentRequest:
    """The data set of an N-ACTION: Transaction UID and what is to be kept safe."""

    transaction: str
    references: tuple[Reference, ...]


@dataclass
class _Item:
    sop_class: str = ""
    sop_instance: str = ""
    reason: int = 0


def read_request(data: bytes, transfer_syntax: str) -> CommitmentRequest:
    """Reads the data set of a request (PS3.4 table J.3-1).

    Args:
        data: the encoded data set.
        transfer_syntax: UID; not deflated.

    Raises:
        UnreadableDicom: it is broken, or a UID is missing or malformed.
    """
    transaction, items = _read(data, transfer_syntax, (_REFERENCES,))
    found = _checked(items[_REFERENCES])
    if not found:
        raise UnreadableDicom("a Referenced SOP Class or Instance UID is missing or malformed")
    return CommitmentRequest(transaction, found)


def _read(data: bytes, transfer_syntax: str, sequences: Sequence[int]) -> tuple[str, dict[int, list[_Item]]]:
    """Transaction UID, and the items of these sequences."""
    encoding = encoding_of(transfer_syntax)
    walk = Walk(
        BytesSource(data),
        explicit=encoding.explicit is not False,
        big=encoding.big_endian,
        max_depth=8,
        is_sequence=lambda tag: tag in sequences,
    )
    order: Literal["big", "little"] = "big" if encoding.big_endian else "little"
    transaction, count = "", 0
    found: dict[int, list[_Item]] = {tag: [] for tag in sequences}
    inside: list[_Item] | None = None
    for element in walk:
        if element.depth == 0:
            inside = found.get(element.tag)
            if element.tag == _TRANSACTION:
                transaction = clean_uid(walk.value(element))
        elif inside is None or element.depth != 1:
            continue
        elif element.tag == _ITEM:
            inside.append(_Item())
            count += 1
        elif inside and element.tag == _CLASS:
            inside[-1].sop_class = clean_uid(walk.value(element))
        elif inside and element.tag == _INSTANCE:
            inside[-1].sop_instance = clean_uid(walk.value(element))
        elif inside and element.tag == _REASON and element.length == 2:
            inside[-1].reason = int.from_bytes(walk.value(element), order)
        if count > MAX_REFERENCES:
            raise UnreadableDicom(f"more than {MAX_REFERENCES} instances in one request")
    if walk.problem is not None:
        raise UnreadableDicom(f"request is broken: {walk.problem.reason}")
    if not is_uid(transaction):
        raise UnreadableDicom("Transaction UID is missing or malformed")
    return transaction, found


def _checked(items: Sequence[_Item]) -> tuple[Reference, ...]:
    found = tuple((item.sop_class, item.sop_instance) for item in items)
    if not all(is_uid(uid) for reference in found for uid in reference):
        raise UnreadableDicom("a Referenced SOP Class or Instance UID is missing or malformed")
    return found


@dataclass(frozen=True)
class CommitmentReport:
    """The data set of an N-EVENT-REPORT: what is kept safe, and what is not, with its Failure Reason."""

    transaction: str
    committed: tuple[Reference, ...]
    failed: Mapping[Reference, int]


def read_report(data: bytes, transfer_syntax: str) -> CommitmentReport:
    """Reads the data set of a report (PS3.4 table J.3-2).

    Args:
        data: the encoded data set.
        transfer_syntax: UID; not deflated.

    Raises:
        UnreadableDicom: it is broken, or a UID is missing or malformed.
    """
    transaction, found = _read(data, transfer_syntax, (_REFERENCES, _FAILED))
    committed = _checked(found[_REFERENCES])
    failed = dict(zip(_checked(found[_FAILED]), (item.reason for item in found[_FAILED]), strict=True))
    if not committed and not failed:
        raise UnreadableDicom("report names no instance")
    return CommitmentReport(transaction, committed, failed)


def request_commitment(
    peer: Peer, transaction: str, references: Sequence[Reference], keep: Callable[[CommitmentReport], object]
) -> None:
    """Asks by N-ACTION that instances are kept safe (PS3.4 section J.3.2).

    Args:
        peer: whom to ask.
        transaction: Transaction UID, never used before.
        references: what is to be kept safe.
        keep: gets the report of a peer that gives it on the same association within
            :data:`ON_THE_SPOT_SECONDS`, before that peer is told that we have it. Otherwise it comes later,
            on an association to us.

    Raises:
        DeliveryRefused: the peer does not offer the service to us, refuses the request, or breaks off.
        PeerUnavailable: no association.
    """
    contexts = [(STORAGE_COMMITMENT, EXPLICIT_LITTLE_ENDIAN), (STORAGE_COMMITMENT, IMPLICIT_LITTLE_ENDIAN)]
    with Requestor(peer, contexts) as association:
        context = next((each for each in contexts if each in association.accepted), None)
        if context is None:
            raise DeliveryRefused(f"{peer.name}: does not offer storage commitment")
        values: Values = {_TRANSACTION: transaction, _REFERENCES: [_values(each) for each in references]}
        data = encode(values, explicit=context[1] == EXPLICIT_LITTLE_ENDIAN)
        number = association.next_message_id()
        command = dimse.encode_action_request(
            number, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, REQUEST_ACTION
        )
        try:
            answer, _ = association.ask(dimse.N_ACTION_RQ, context, command, data)
            status = answer.status
        except Broken as broken:
            association.abort()
            if broken.timed_out:
                return  # it may have taken the request
            # Some say no to those whom they can't report to by an A-ABORT, Orthanc among them.
            raise DeliveryRefused(f"{peer.name}: storage commitment: {broken}") from None
        if status != dimse.SUCCESS:
            raise DeliveryRefused(f"{peer.name}: storage commitment: status {status:04X}")
        _on_the_spot(association, context, transaction, keep)


def _on_the_spot(
    association: Requestor, context: Context, transaction: str, keep: Callable[[CommitmentReport], object]
) -> None:
    try:
        request = association.request(ON_THE_SPOT_SECONDS)
    except Broken:
        return  # the peer went away, or takes its time: the report comes later
    if request[0].field != dimse.N_EVENT_REPORT_RQ:
        return
    try:
        report = read_report(request[1], context[1])
    except UnreadableDicom:
        report = None
    known = report is not None and report.transaction == transaction
    if report is not None and known:
        keep(report)
    with contextlib.suppress(Broken):  # whoever reports and leaves has reported
        association.respond(context, request[0], dimse.SUCCESS if known else dimse.INVALID_ARGUMENT)


def _values(reference: Reference) -> Values:
    return {_CLASS: reference[0], _INSTANCE: reference[1]}


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
