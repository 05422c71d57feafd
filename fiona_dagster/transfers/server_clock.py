"""How far REDCap's clock is behind ``LOCALTIMEZONE``: learned from a record that we have just made.

REDCap stamps changes in the time of its server, without a zone, and nothing says which zone that is. Where it
runs in UTC and the site does not, a look at changes would ask for times that are still to come there.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from fiona_dagster.redcap import RequestReader
from fiona_dagster.transfers.context import Gateway

log = logging.getLogger("fiona.transfers")

CLOCK = "requests_clock"
"""Zone, hours that the server is behind it, and when that was found: a fact of the ledger, a hint only."""
_FRESH = timedelta(minutes=5)
"""So young must a registration be: later edits would hide that the clock is behind."""
_BELIEVED = timedelta(days=1)
"""Summer time begins here and not there."""
_FARTHEST_HOURS = 26


def behind(gateway: Gateway, reader: RequestReader, now: datetime) -> timedelta:
    """How much farther back a look at changes has to reach; zero as long as nothing else was found.

    Once a day a study that was registered a moment ago is looked for among the changes: one call more.

    Args:
        gateway: the open gateway.
        reader: of *Incoming*.
        now: the present time, with zone.

    Raises:
        RedcapUnavailable: REDCap gave no usable answer.
    """
    zone = gateway.settings.LOCALTIMEZONE
    known_zone, hours, found = ((gateway.ledger.store.fact(CLOCK) or "") + "||").split("|")[:3]
    known = int(hours) if known_zone == zone else 0
    if known_zone == zone and timedelta(0) <= now - datetime.fromisoformat(found) < _BELIEVED:
        return timedelta(hours=known)
    newest = gateway.ledger.receipts.newest_registration()
    if newest is None or not timedelta(0) <= now - newest[1] < _FRESH:
        return timedelta(hours=known)
    measured = _measured(reader, *newest)
    if measured is None:  # the record was there before, or is gone: it tells nothing
        return timedelta(hours=known)
    if measured and measured != known:
        log.warning(
            "REDCap's clock is %d h behind LOCALTIMEZONE (%s); set that to the zone of REDCap's server. "
            "Requests are found all the same",
            measured,
            zone,
        )
    gateway.ledger.store.remember(CLOCK, f"{zone}|{measured}|{now.isoformat()}")
    return timedelta(hours=measured)


def _measured(reader: RequestReader, study: str, moment: datetime) -> int | None:
    """Full hours, the least that show the record."""
    if reader.was_stamped(study, moment - _FRESH):
        return 0
    if not reader.was_stamped(study, moment - timedelta(hours=_FARTHEST_HOURS)):
        return None
    least, most = 0, _FARTHEST_HOURS
    while most - least > 1:
        middle = (least + most) // 2
        if reader.was_stamped(study, moment - timedelta(hours=middle)):
            most = middle
        else:
            least = middle
    return most
