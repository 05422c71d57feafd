"""Has sources send what is missing, by C-MOVE: a bounded number of times for each count, remembered for ever.

What was fetched arrives through the receiver like everything else; nothing here believes what a source says
about having sent it. A count that a source keeps reporting and never sends is given up.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fiona_dagster.config import Source, pulling_enabled
from fiona_dagster.dicom.sources import Moved, move
from fiona_dagster.errors import FionaError, PeerUnavailable, UnknownStudy, UsageError
from fiona_dagster.ledger import Count, Fetch
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.sources import peer_of

log = logging.getLogger("fiona.outreach")

PAUSE_SECONDS = 60.0
"""Between two attempts for the same series; what arrives needs its time too."""
MOST_ATTEMPTS = 20
"""Attempts for one series in all, should a source count something else each time."""


def fetch_missing(gateway: Gateway, name: str) -> int:
    """Asks one source to send what it has more of, for every study that waits for that.

    Does nothing if the source is not configured for it, or while the switch file holds pulling.

    Returns:
        The number of series that were asked for.
    """
    source = gateway.settings.sources.get(name)
    if source is None or not source.fetch or not pulling_enabled(gateway.root):
        return 0
    asked = 0
    for study in gateway.ledger.receipts.studies(open_only=True):
        count = _count(gateway, study.study, name, study.last_arrival)
        if count is None:
            continue
        for series, wanted in _due(gateway, source, count):
            asked += 1
            if not _fetch(gateway, source, count, series, wanted):
                return asked  # it can't be reached: not again in this round
    return asked


def is_exhausted(gateway: Gateway, count: Count) -> bool:
    """Whether a source was asked for all that it has more of as often as is allowed.

    Also true when it may not be asked any more: what it did not send then it is not expected to send now.
    """
    source = gateway.settings.sources.get(count.source)
    missing = _missing(gateway, count)
    if source is None or not source.fetch or not missing:
        return False
    before = gateway.ledger.evidence.fetches(count.study, count.source)
    return all(_given_up(source, before.get(series), wanted) for series, wanted in missing.items())


def pull(gateway: Gateway, study: str, name: str) -> Moved:
    """Has a source send a whole study, because a person wants it.

    Args:
        gateway: the open gateway.
        study: StudyInstanceUID.
        name: the source, as in ``sources`` of config.json.

    Returns:
        How it ended, as the source says.

    Raises:
        UsageError: no such source, or the switch file holds pulling.
        PeerUnavailable: the source can't be reached.
        DeliveryRefused: it does not do this for us.
    """
    source = gateway.settings.sources.get(name)
    if source is None:
        known = ", ".join(sorted(gateway.settings.sources)) or "none"
        raise UsageError(f"no source {name!r} in config.json (there: {known})")
    if not pulling_enabled(gateway.root):
        raise UsageError(f"pulling is switched off: the second digit of {gateway.root.enabled_file} is 0")
    return move(peer_of(source), study, "", _destination(gateway, source, study))


def _count(gateway: Gateway, study: str, name: str, since: str) -> Count | None:
    """What the source said about the study as it is now, if that is a count."""
    for count in gateway.ledger.evidence.counts(study):
        if count.source == name and count.since == since and count.state == "counted":
            return count
    return None


def _missing(gateway: Gateway, count: Count) -> dict[str, int]:
    """Series of which the source has more -> what it counts; the whole study if it only counts that."""
    received = gateway.ledger.evidence.received(count.study)
    found = {uid: number for uid, number in count.series.items() if number > received.get(uid, 0)}
    if not found and count.instances > sum(received.values()):
        found[""] = count.instances
    return found


def _given_up(source: Source, before: Fetch | None, wanted: int) -> bool:
    if before is None:
        return False
    if before.wanted == wanted and before.attempts >= source.fetch_attempts:
        return not _is_recent(before)  # what was sent last may still be on its way
    return before.total >= MOST_ATTEMPTS


def _due(gateway: Gateway, source: Source, count: Count) -> list[tuple[str, int]]:
    before = gateway.ledger.evidence.fetches(count.study, count.source)
    found = []
    for series, wanted in sorted(_missing(gateway, count).items()):
        last = before.get(series)
        if last is not None:
            used_up = last.wanted == wanted and last.attempts >= source.fetch_attempts
            if used_up or last.total >= MOST_ATTEMPTS or _is_recent(last):
                continue
        found.append((series, wanted))
    return found


def _is_recent(fetch: Fetch) -> bool:
    """Whether it was just tried; a time to come is of a clock that was set back since."""
    return 0 <= (datetime.now(UTC) - datetime.fromisoformat(fetch.time)).total_seconds() < PAUSE_SECONDS


def _fetch(gateway: Gateway, source: Source, count: Count, series: str, wanted: int) -> bool:
    """One attempt; False if the source can't be reached."""
    book = gateway.ledger.evidence
    book.fetching(count.study, count.source, series, wanted)
    try:
        result = str(move(peer_of(source), count.study, series, _destination(gateway, source, count.study)))
    except FionaError as error:
        log.warning("source %s: C-MOVE: %s", count.source, error)
        book.fetched(count.study, count.source, series, str(error))
        return not isinstance(error, PeerUnavailable)
    log.info("source %s: C-MOVE of %s: %s", count.source, series or count.study, result)
    book.fetched(count.study, count.source, series, result)
    return True


def _destination(gateway: Gateway, source: Source, study: str) -> str:
    if source.move_destination:
        return source.move_destination
    try:
        site = gateway.ledger.receipts.study(study).site
    except UnknownStudy:
        site = ""  # nothing of it is here yet
    return gateway.settings.of_site(site).DICOMAETITLE
