"""Requests that people took back: found, confirmed, carried out, and what is left of them here removed.

A mark in REDCap is a command. Absence is not: a request that is gone counts as withdrawn when two complete
lists, one after the other, lack it and REDCap's log says that it was deleted or emptied. Where more than
``redcap.withdrawals_at_once`` come together, a person is asked, and nothing of them is sent meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fiona_dagster import landing
from fiona_dagster.errors import Busy, RedcapUnavailable, UsageError
from fiona_dagster.ledger import OTHER_WORDS, Sending, Transfer, Withdrawal
from fiona_dagster.redcap import RequestReader, TransferRequest
from fiona_dagster.transfers.beside import remove_package
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import remove_working_copy
from fiona_dagster.transfers.unbooked import remove_unbooked
from fiona_dagster.transfers.words import as_request, request_of, same_words

log = logging.getLogger("fiona.transfers")

FEW = 20
"""Studies whose transfers are read one study at a time; of more of them all transfers are read at once."""
PATIENCE_SECONDS = 5.0
"""A REDCap that does not answer for so long is not asked again before something is sent."""
LISTS = 2
"""Complete lists that must lack a request."""
_WORDS = {
    "marked": "withdrawn in REDCap",
    "missing": "withdrawn: the request was deleted in REDCap",
    "command": "withdrawn at the gateway",
    "consent": "withdrawn with the participant's consent",
}


@dataclass(frozen=True)
class Looked:
    """What a look at the requests said about withdrawals."""

    carried: tuple[Transfer, ...] = ()
    asked: int = 0
    """Requests that wait for a person's decision."""


def look(
    gateway: Gateway, reader: RequestReader, requests: Sequence[TransferRequest], *, complete: bool
) -> Looked:
    """Finds what was withdrawn among the requests that REDCap has, and carries it out or asks.

    Args:
        gateway: the open gateway.
        reader: asks REDCap's log about what is missing.
        requests: what was read.
        complete: whether these are all that REDCap has.
    """
    book = gateway.ledger.withdrawals
    there = {(request.study, request.instance): request for request in requests}
    studies = {request.study for request in requests}
    living = (
        book.living()
        if complete or len(studies) > FEW
        else [transfer for study in sorted(studies) for transfer in book.living(study)]
    )
    pairs = [(each, there.get((each.study, each.request))) for each in living if each.request]
    _forget_decisions(gateway, there)
    found = [
        (transfer, "marked")
        for transfer, request in pairs
        if request is not None and request.withdrawn and request.project == transfer.project
    ]
    if complete:
        missing = [t for t, request in pairs if request is None or not (request.active or request.withdrawn)]
        found += [(transfer, "missing") for transfer in _confirmed_missing(gateway, reader, missing)]
    looked = _act(gateway, found)
    for transfer, request in pairs:
        if request is not None and not (request.active and same_words(request, transfer)):
            _stop_others(gateway, transfer, request, only_place=reader.only_place)
    return looked


def _stop_others(gateway: Gateway, transfer: Transfer, request: TransferRequest, *, only_place: bool) -> None:
    """What a request said before is not sent any more, whatever becomes of what it says now.

    It was edited or emptied, or deleted and its number given out again. What it says now may be half filled
    in, or refused: the older words don't stay in force because of that.
    """
    known = gateway.ledger.withdrawals.of(transfer)
    stands = known is not None and (known.kind, known.state) == ("missing", "rejected")
    settled = transfer.state == "stopped" and transfer.reason != OTHER_WORDS
    if not settled and (request.active or not stands):
        gateway.ledger.transfers.stop_others(as_request(request), only_place=only_place)


def _forget_decisions(gateway: Gateway, there: Mapping[tuple[str, int], TransferRequest]) -> None:
    """Somebody decided that a request stands; once REDCap agrees, the next withdrawal is a new one."""
    for decided in gateway.ledger.withdrawals.all("rejected"):
        request = there.get((decided.study, decided.request))
        if request is not None and not request.withdrawn and (request.active or decided.kind == "marked"):
            gateway.ledger.withdrawals.forget(decided)


def _confirmed_missing(
    gateway: Gateway, reader: RequestReader, missing: Sequence[Transfer]
) -> list[Transfer]:
    book = gateway.ledger.withdrawals
    book.forget_seen({_key(transfer) for transfer in missing})
    confirmed = []
    for transfer in missing:
        known = book.of(transfer)
        if not _is_news(known, "missing"):
            continue
        lists = (known.exports if known is not None and known.state == "seen" else 0) + 1
        if lists <= LISTS:
            book.book(transfer, "missing", "seen", exports=lists)
        if lists >= LISTS and _log_confirms(reader, transfer):
            confirmed.append(transfer)
    return confirmed


def _is_news(known: Withdrawal | None, kind: str) -> bool:
    """Whether what was found about a living transfer is to be acted upon.

    Nobody decided about it, or about something else: that a request stands although it is missing says
    nothing about a mark that a person sets afterwards. What was carried out under the same date was of
    other words, or the transfer would not live.
    """
    if known is None or known.state in ("seen", "carried"):
        return True
    return known.state == "rejected" and known.kind != kind


def _log_confirms(reader: RequestReader, transfer: Transfer) -> bool:
    try:
        return bool(reader.was_taken_back(transfer.study, datetime.fromisoformat(transfer.created)))
    except RedcapUnavailable as error:
        log.warning("whether a request was deleted can't be told: %s", error)
        return False  # the next list asks again


def _act(gateway: Gateway, found: list[tuple[Transfer, str]]) -> Looked:
    """Each request once; what a person decided about already is left as decided."""
    book = gateway.ledger.withdrawals
    new: dict[tuple[str, str, int, str], tuple[Transfer, str]] = {}
    for transfer, kind in found:
        if _is_news(book.of(transfer), kind):
            new.setdefault(_key(transfer), (transfer, kind))
    waiting = len(book.all("asked"))
    if new and len(new) + waiting > gateway.settings.redcap.withdrawals_at_once:
        with gateway.ledger.store.writing():
            for transfer, kind in new.values():
                book.book(transfer, kind, "asked")  # type: ignore[arg-type]
                gateway.ledger.store.note(
                    transfer.study,
                    f"{transfer.project}: maybe withdrawn ({kind}), with many others at once; "
                    "nothing is sent until a person decides",
                )
        return Looked((), waiting + len(new))
    for transfer, kind in new.values():
        carry_out(gateway, transfer, kind)
    return Looked(tuple(transfer for transfer, _ in new.values()), waiting)


def carry_out(gateway: Gateway, transfer: Transfer, kind: str, *, by: str = "") -> None:
    """Nothing more is sent under this request; where it lies already is told for follow-up.

    What is under way at this moment stops at its next step; local copies go with :func:`clean`.
    """
    places = sorted(
        {sending.target for sending in gateway.ledger.sendings.at(transfer.study, transfer.project)}
    )
    reason = f"{_WORDS[kind]}; nothing more is sent"
    if places:
        reason += (
            f". Something of it may be at: {', '.join(places)}. Have it removed there, then confirm it with "
            f"`fiona removed {transfer.study} --project {transfer.project}`"
        )
    gateway.ledger.transfers.withdraw(transfer, kind, reason, by=by)  # type: ignore[arg-type]


def clean(gateway: Gateway) -> int:
    """Removes working copies and undelivered packages of withdrawn requests; idempotent.

    A study that somebody works on at this moment is left for the next call: what runs there stops by itself.

    Returns:
        How many transfers had something, and packages that a kill had left unbooked.
    """
    cleaned = 0
    for transfer, packages in gateway.ledger.withdrawals.to_clean():
        folder = gateway.root.projects / transfer.project
        if not packages and not any(folder.glob(f"*transfer-{transfer.id}-*")):
            continue
        with contextlib.suppress(Busy), landing.study_lock(gateway.root, transfer.study, blocking=False):
            remove_working_copy(gateway, transfer)
            for path in packages:
                remove_package(gateway.root.path / path)
            gateway.ledger.withdrawals.cleaned(transfer)
            cleaned += 1
    return cleaned + remove_unbooked(gateway)


def decide(gateway: Gateway, study: str | None, *, confirm: bool, by: str) -> list[Withdrawal]:
    """A person decides about what was asked: the requests were withdrawn, or they stand.

    Args:
        gateway: the open gateway.
        study: only requests of this study; None: all.
        confirm: True: withdrawn; False: they stand, and their deliveries go on.
        by: who decides, as the operating system knows this person.

    Returns:
        What was decided.

    Raises:
        UsageError: nothing waits for a decision.
    """
    book = gateway.ledger.withdrawals
    chosen = [found for found in book.all("asked") if study in (None, found.study)]
    if not chosen:
        raise UsageError("no withdrawal waits for a decision; `fiona withdrawals` lists what is known")
    for found in chosen:
        for transfer in book.transfers_of(found):
            if confirm:
                carry_out(gateway, transfer, found.kind, by=by)
                continue
            with gateway.ledger.store.writing():
                book.book(transfer, found.kind, "rejected", by=by)
                gateway.ledger.store.note(found.study, f"{found.project}: the request stands, says {by}")
                gateway.ledger.work.release(found.study, found.project)
                if found.kind == "missing" and transfer.said_otherwise:  # emptied in REDCap, and stopped then
                    revision = gateway.ledger.receipts.study(found.study).registered
                    gateway.ledger.transfers.accept(request_of(transfer), revision)
    if confirm:
        clean(gateway)
    return chosen


def withdraw(gateway: Gateway, study: str, project: str, *, by: str) -> list[Transfer]:
    """A person takes back what was requested of a study for a project, at the gateway.

    Raises:
        UnknownStudy: no such study.
        UsageError: nothing of it was requested, or it is withdrawn already.
    """
    gateway.ledger.receipts.study(study)
    living = [t for t in gateway.ledger.withdrawals.living(study) if t.project == project]
    if not living:
        raise UsageError(f"study {study}: no request for project {project} that could be withdrawn")
    return _withdraw_all(gateway, living, "command", by)


def withdraw_consent(gateway: Gateway, project: str, participant: str, *, by: str) -> list[Transfer]:
    """A participant withdrew the consent: all requests of the project for this participant are withdrawn.

    No request for the participant is accepted from now on, and nothing that runs is sent any more.

    Returns:
        The transfers that were withdrawn; none if nothing had been requested.
    """
    book = gateway.ledger.withdrawals
    book.withdraw_consent(project, participant, by)  # first: from here on nothing new is taken up
    living = [t for t in book.living() if (t.project, t.participant) == (project, participant)]
    return _withdraw_all(gateway, living, "consent", by)


def follow_up(gateway: Gateway) -> list[dict[str, str]]:
    """Where copies of withdrawn requests may still lie: study, project, target, and since when."""
    pairs = sorted({(t.study, t.project) for t, _ in gateway.ledger.withdrawals.to_clean()})
    return [
        {"study": study, "project": project, "target": sending.target, "began": sending.began}
        for study, project in pairs
        if gateway.ledger.transfers.current(study, project) is None
        for sending in _newest_by_target(gateway.ledger.sendings.at(study, project))
    ]


def _newest_by_target(sendings: Sequence[Sending]) -> list[Sending]:
    return list({sending.target: sending for sending in sendings}.values())


def _withdraw_all(gateway: Gateway, living: list[Transfer], kind: str, by: str) -> list[Transfer]:
    with gateway.ledger.store.writing():
        for transfer in living:
            carry_out(gateway, transfer, kind, by=by)
    clean(gateway)
    return living


def require_not_withdrawn(gateway: Gateway, transfer: Transfer) -> None:
    """Asks REDCap once more, directly before something is sent, whether the request still says the same.

    A REDCap that is away holds nothing up: what was known at the last look counts then.

    Raises:
        Superseded: it was withdrawn, or changed; that is booked now.
        WithdrawalAsked, ConsentWithdrawn: see the ledger.
    """
    transfers = gateway.ledger.transfers
    transfers.require_wanted(transfer)
    if not gateway.settings.redcap.url or not transfer.request:
        return
    try:
        with _impatient(gateway):
            reader = RequestReader(gateway.incoming(), gateway.settings.LOCALTIMEZONE)
        look(gateway, reader, reader.of([transfer.study]), complete=False)
    except RedcapUnavailable as error:
        log.warning("sending without having asked REDCap once more: %s", error)
    transfers.require_wanted(transfer)


@contextlib.contextmanager
def _impatient(gateway: Gateway) -> Iterator[None]:
    """A client that is made meanwhile asks once when REDCap does not answer: a delivery waits for it."""
    before, gateway.redcap_patience = gateway.redcap_patience, PATIENCE_SECONDS
    try:
        yield
    finally:
        gateway.redcap_patience = before


def _key(transfer: Transfer) -> tuple[str, str, int, str]:
    return transfer.study, transfer.project, transfer.request, transfer.requested_date
