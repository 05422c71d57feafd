"""A REDCap that gave no usable answer at the last poll: since when, why, and what goes on afterwards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fiona_dagster.ledger import Ledger, utc_now

_FACT = "redcap_silent"


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
