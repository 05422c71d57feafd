"""Taking over from the system before this one: what it carried out is known before anything is sent.

The first contact with a REDCap that has finished transfers which this ledger does not know is report-only:
nothing is taken up or assigned until ``fiona adopt`` books them as delivered by that system, with their
mapped UIDs. Without such transfers there is nothing to adopt, and the first contact ends by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from fiona_dagster.errors import UsageError
from fiona_dagster.ledger import Ledger
from fiona_dagster.redcap import RequestReader, TransferRequest
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.words import as_request

ADOPTED = "redcap_adopted"
"""Fact of the ledger: the address of the REDCap whose finished transfers are known."""
TO_ADOPT = "redcap_to_adopt"
"""Fact of the ledger: how many transfers have to be adopted before anything is assigned or sent."""


@dataclass(frozen=True)
class Inventory:
    """What REDCap has that this ledger does not know."""

    finished: dict[str, int]
    """Transfers that another system finished, by project."""
    unfinished: dict[str, int]
    """Requests that it did not finish, by project: they are taken up once their study is here."""
    adopted: int = 0
    """Transfers that were booked by this call."""


def is_report_only(gateway: Gateway) -> bool:
    """Whether this REDCap was never looked at, or what it has was not adopted yet."""
    known = gateway.ledger.store.fact(ADOPTED)
    if known is None:
        return not gateway.ledger.transfers.any()  # a gateway that worked before there was this fact
    return known != gateway.settings.redcap.url


def first_contact(gateway: Gateway, listing: Iterable[TransferRequest]) -> int:
    """Decides on a first contact; returns how many transfers have to be adopted before it ends."""
    finished = sum(inventory(gateway, listing).finished.values())
    if not finished:
        gateway.ledger.store.remember(ADOPTED, gateway.settings.redcap.url)
    if finished != to_adopt(gateway.ledger):
        gateway.ledger.store.remember(TO_ADOPT, str(finished))
    return finished


def to_adopt(ledger: Ledger) -> int:
    """How many finished transfers of another system the last look found that hold everything up."""
    return int(ledger.store.fact(TO_ADOPT) or 0)


def inventory(gateway: Gateway, listing: Iterable[TransferRequest]) -> Inventory:
    """Counts what the ledger does not know; changes nothing."""
    finished, unfinished = Counter[str](), Counter[str]()
    known = gateway.ledger.transfers.newest_of_requests()
    for request in listing:
        if request.active and (request.study, request.instance, request.requested_date) not in known:
            (finished if is_finished(request) else unfinished)[request.project] += 1
    return Inventory(dict(sorted(finished.items())), dict(sorted(unfinished.items())))


def is_finished(request: TransferRequest) -> bool:
    """Whether REDCap says that the request was carried out after it was made."""
    return bool(request.transfer_date and request.transfer_date >= request.requested_date)


def adopt(gateway: Gateway, *, report: bool = False) -> Inventory:
    """Books everything that another system finished as delivered by it; repeatable.

    Args:
        gateway: the open gateway.
        report: only count.

    Raises:
        UsageError: no REDCap is configured.
        RedcapUnavailable: REDCap gave no usable answer; nothing was changed.
    """
    if not gateway.settings.redcap.url:
        raise UsageError("no REDCap is configured (redcap.url): there is nothing to adopt")
    reader = RequestReader(gateway.incoming(), gateway.settings.LOCALTIMEZONE)
    listing = reader.listing()
    found = inventory(gateway, listing)
    if report:
        return found
    known = gateway.ledger.transfers.newest_of_requests()
    studies = {
        request.study
        for request in listing
        if request.active
        and is_finished(request)
        and (request.study, request.instance, request.requested_date) not in known
    }
    adopted = 0
    requests = reader.of(sorted(studies))
    with gateway.ledger.store.writing():
        for request in requests:
            if not (request.active and is_finished(request)):
                continue
            if (request.study, request.instance, request.requested_date) in known:
                continue
            gateway.ledger.transfers.adopt(as_request(request), request.mapped_uid, request.transfer_date)
            adopted += 1
        gateway.ledger.store.remember(ADOPTED, gateway.settings.redcap.url)
        gateway.ledger.store.remember(TO_ADOPT, "0")
    return Inventory(found.finished, found.unfinished, adopted)
