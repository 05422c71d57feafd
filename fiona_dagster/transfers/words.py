"""What a request says, in REDCap and in the ledger: the words by which the two are compared.

A request is one instance of REDCap's instrument *transfers* together with its project, participant and event.
The number of the instance alone is none: REDCap gives it out again when an instance was deleted.
"""

from __future__ import annotations

from fiona_dagster.ledger import Request, Transfer
from fiona_dagster.redcap import TransferRequest


def as_request(request: TransferRequest) -> Request:
    """A request of REDCap as the ledger knows requests."""
    return Request(
        study=request.study,
        project=request.project,
        instance=request.instance,
        requested_date=request.requested_date,
        participant=request.participant,
        event=request.event,
    )


def request_of(transfer: Transfer) -> Request:
    """The request that a transfer was made of."""
    return Request(
        study=transfer.study,
        project=transfer.project,
        instance=transfer.request,
        requested_date=transfer.requested_date,
        participant=transfer.participant,
        event=transfer.event,
    )


def expected_of(transfer: Transfer) -> TransferRequest:
    """What REDCap has to say where the outcome of a transfer is to be written."""
    return TransferRequest(
        study=transfer.study,
        instance=transfer.request,
        requested_date=transfer.requested_date,
        project=transfer.project,
        participant=transfer.participant,
        event=transfer.event,
    )


def same_words(request: TransferRequest, transfer: Transfer) -> bool:
    """Whether a request names the project, the participant and the event of a transfer."""
    mine = (transfer.project, transfer.participant, transfer.event)
    return (request.project, request.participant, request.event) == mine
