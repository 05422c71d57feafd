"""Answers of research PACS to our requests for storage commitment: they wake the delivery that waits.

Belongs here: which request still has a delivery that may count its answer. Stays out: asking and judging
(``targets.committing``), taking the answer (the receiver).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fiona_dagster.errors import ConfigurationError, StorageFull
from fiona_dagster.landing.asked import AskedCommitment, all_asked, forget_asked, keep_woken
from fiona_dagster.ledger import Transfer, work_key
from fiona_dagster.transfers.context import Gateway

FORGET_DAYS = 30.0
"""A request that does not say whose it is (of an older version) is kept for so long."""


@dataclass(frozen=True)
class Looked:
    """What a look at all requests brought.

    Attributes:
        woken: deliveries that are due now, since their answer is here.
        forgotten: requests that no delivery waits for any more.
    """

    woken: int = 0
    forgotten: int = 0


def take_answers(gateway: Gateway) -> Looked:
    """Wakes deliveries whose answer came, once each, and forgets requests that nobody waits for.

    Idempotent; the sensor calls it at every tick. A request whose answer may still count is never forgotten:
    its transfer waits for the proof of this target.
    """
    every = all_asked(gateway.root)
    if not every:
        return Looked()
    waiting = {transfer.id: transfer for transfer in gateway.ledger.transfers.undelivered()}
    woken = forgotten = 0
    for asked in every:
        if not _may_count(gateway, asked, waiting):
            forget_asked(gateway.root, asked.transaction)
            forgotten += 1
        elif asked.answered and not asked.woken and asked.transfer in waiting:
            transfer = waiting[asked.transfer]
            key = work_key("deliver", transfer.study, transfer.project, asked.target)
            if gateway.ledger.work.wake(key):
                with contextlib.suppress(StorageFull):  # then it is woken once more
                    keep_woken(gateway.root, asked.transaction)  # a failure has its delay again
                woken += 1
    return Looked(woken, forgotten)


def _may_count(gateway: Gateway, asked: AskedCommitment, waiting: dict[int, Transfer]) -> bool:
    if not asked.transfer:
        age = datetime.now(UTC) - datetime.fromisoformat(asked.time)
        return age < timedelta(days=FORGET_DAYS)
    transfer = waiting.get(asked.transfer)
    if transfer is None:
        return False
    try:
        wanted = asked.target in gateway.project(transfer.project).targets
    except ConfigurationError:  # the project's file may come back
        return True
    return wanted and bool(gateway.ledger.transfers.unproven(transfer, [asked.target]))
