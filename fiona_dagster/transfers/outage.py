"""A REDCap that gave no usable answer at the last poll: since when, why, and what goes on afterwards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fiona_dagster.ledger import Ledger, utc_now
from fiona_dagster.ledger.store import utc_after

_FACT = "redcap_silent"
_TRIED = "redcap_tried"
TRY_SECONDS = 60.0
"""While REDCap is away one piece of work of a kind tries it so often: the poll might be all that fails."""


@dataclass(frozen=True)
class Outage:
    """REDCap is away, or refuses every call."""

    since: str
    why: str
    """Nothing identifying."""


def outage(ledger: Ledger) -> Outage | None:
    """What the last poll met; None: REDCap answered it, or was never asked."""
    text = ledger.store.fact(_FACT)
    return Outage(**json.loads(text)) if text else None


def began(ledger: Ledger, why: str) -> None:
    """A poll got no usable answer."""
    known = outage(ledger)
    ledger.store.remember(_FACT, json.dumps(asdict(Outage(known.since if known else utc_now(), why))))


def ended(ledger: Ledger) -> None:
    """A poll was answered: what waited for REDCap, each piece for a time of its own, is due at once."""
    if outage(ledger) is not None:
        with ledger.store.writing():
            ledger.work.due_at_once("process", "status")
            ledger.store.remember(_FACT, "")


def may_try(ledger: Ledger, kind: str) -> bool:
    """Whether work that needs REDCap may be launched; asked and counted in one.

    During an outage of days hundreds of studies would be classified anew every hour, to fail at their last
    step each time. They are due at once when it is over.
    """
    if outage(ledger) is None:
        return True
    fact = f"{_TRIED}:{kind}"
    last = ledger.store.fact(fact) or ""
    if utc_after(-TRY_SECONDS) < last <= utc_now():
        return False
    ledger.store.remember(fact, utc_now())
    return True
