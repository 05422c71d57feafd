"""Transfer requests: what people want, read from REDCap, checked, and taken up once.

A request is active when its date and its project are filled (behaviour reference 7.1). *Again* means that
the date, the participant or the event differs from what was handled last. Absence is never a command: what
is missing from an export is left alone.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from fiona_dagster.errors import (
    ConfigurationError,
    FionaError,
    RedcapRejected,
    RemovalAwaited,
    RequestRefused,
    TransientError,
    UnknownStudy,
)
from fiona_dagster.ledger import Request, Study, Transfer, set_back, work_key
from fiona_dagster.redcap import RequestReader, TransferRequest, site_time
from fiona_dagster.transfers import adoption, derived, optout, projects, server_clock, withdrawals
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.rules import require_site
from fiona_dagster.transfers.turns import ASSIGNMENT, turn
from fiona_dagster.transfers.words import as_request, same_words

log = logging.getLogger("fiona.transfers")


@dataclass(frozen=True)
class Poll:
    """What one look at REDCap's requests brought."""

    open: int
    """Requests that are filled in."""
    accepted: tuple[Transfer, ...]
    refused: tuple[Transfer, ...]
    waiting: int
    """Requests that are half filled in, or for studies that are not here or not registered yet."""
    foreign: int
    """Requests that another system finished; they are reported and left alone."""
    withdrawn: tuple[Transfer, ...] = ()
    asked: int = 0
    """Withdrawals that wait for a person's decision."""
    complete: bool = True
    """Whether all requests were listed; otherwise the numbers are those of records that changed."""
    report_only: bool = False
    """Nothing is taken up before ``fiona adopt`` booked what another system finished."""
    postponed: bool = False
    """A request could not be checked now (the project's REDCap gives no answer): it is read again."""


def check_assignment(gateway: Gateway, study: Study, project_name: str, participant: str, event: str) -> None:
    """Whether this study may go to this project under this participant and event.

    Raises:
        RequestRefused: says why, without naming participant or event.
        OptOutUnavailable: the opt-out list is configured and can't be used.
        ConsentWithdrawn: the participant withdrew the consent.
        RemovalAwaited: the study was sent there under another participant or event.
    """
    require_site(study, project_name)
    check_names(gateway, project_name, participant, event)
    derived.require_same(gateway, study.study, project_name, participant, event)
    optout.require_willing(gateway, study.study)
    if study.flags:
        raise RequestRefused(
            f"the study is flagged ({', '.join(study.flags)}) and can't be assigned until a person decides"
        )
    # Asked again in the transaction that takes the request up; here so that `fiona assign` says it first.
    wanted = Request(study.study, project_name, 0, "", participant, event)
    gateway.ledger.withdrawals.require_consent(wanted)
    gateway.ledger.transfers.require_removed(wanted)


def check_names(gateway: Gateway, project_name: str, participant: str, event: str) -> None:
    """Whether the project takes this participant and event today, whatever the study.

    Raises:
        RequestRefused: says why, without naming participant or event.
    """
    if not gateway.has_project(project_name):
        raise RequestRefused("the project is not known here; add config/projects/<PROJECT>.json")
    try:
        project = gateway.project(project_name)
    except ConfigurationError as error:
        raise RequestRefused(f"the project's settings are wrong: {error}") from None
    if not project.active:
        raise RequestRefused(f"project {project_name} is not active")
    if not project.targets:
        raise RequestRefused(f"project {project_name} has no targets; name them in its file")
    if not projects.matches(project.participant_pattern, participant, f"project {project_name}"):
        raise RequestRefused(f"the participant id does not match the pattern of project {project_name}")
    if not _printable(participant) or not _printable(event):
        raise RequestRefused("participant and event must be 1 to 64 printable characters without backslash")
    from fiona_dagster.deid import Assignment  # loads pydicom only when somebody asks for a transfer

    try:
        Assignment(project_name, participant, event)
    except (FionaError, ValueError):
        raise RequestRefused(
            "participant or event can't be written into DICOM: too long, or with one of ^ = \\"
        ) from None
    if project.events and event not in project.events:
        raise RequestRefused(f"project {project_name} has no such event")
    projects.require_entry(gateway, project_name, participant)


def _printable(text: str) -> bool:
    return 0 < len(text) <= 64 and text.isprintable() and "\\" not in text and text == text.strip()


LISTED, READ = "requests_listed", "requests_read"
"""When all requests were listed, and when REDCap was asked for changes: facts of the ledger, hints only."""


def poll_requests(gateway: Gateway, now: datetime | None = None) -> Poll:
    """Reads requests from REDCap, carries out withdrawals, and takes up what is new.

    Every ``redcap.list_seconds`` all requests are listed, and those in full that the ledger does not know as
    they are; in between the records that were changed since the last look.

    Args:
        gateway: the open gateway.
        now: the present time, with zone; default: the clock.

    Raises:
        RedcapUnavailable: REDCap gave no usable answer; nothing was changed.
    """
    now = now or datetime.now(UTC)
    facts = gateway.ledger.store
    reader = RequestReader(gateway.incoming(), gateway.settings.LOCALTIMEZONE)
    listed, read = (_time(facts.fact(name)) for name in (LISTED, READ))
    every = gateway.settings.redcap.list_seconds
    complete = read is None or listed is None or not 0 <= (now - listed).total_seconds() < every
    if complete or read is None:
        listing = reader.listing()
        if adoption.is_report_only(gateway) and (theirs := adoption.first_contact(gateway, listing)):
            active = sum(request.active for request in listing)
            return Poll(active, (), (), active - theirs, theirs, report_only=True)
        looked = withdrawals.look(gateway, reader, listing, complete=True)
        new, told = _not_known(gateway, listing)
        found = [*new, *reader.of(told)]
        _register_again(gateway, reader)
    else:
        listing = found = reader.changed(read - server_clock.behind(gateway, reader, now))
        looked = withdrawals.look(gateway, reader, found, complete=False)
    poll = _take_up_new(gateway, found)
    withdrawals.clean(gateway)
    if not poll.postponed:
        facts.remember(READ, now.isoformat())
    if complete:
        facts.remember(LISTED, now.isoformat())
    return replace(
        poll,
        open=sum(request.active for request in listing),
        withdrawn=looked.carried,
        asked=looked.asked,
        complete=complete,
    )


CHECKED_RECORDS = 20
"""Missing records of *Incoming* that one list looks into."""


def _register_again(gateway: Gateway, reader: RequestReader) -> None:
    """A study whose record a restored backup lost is registered again; one that people deleted is not.

    What a person deleted stands in REDCap's log; where the log can't be read nothing is done, and the nightly
    comparison tells of the gap.
    """
    missing = [
        study
        for study in gateway.ledger.receipts.studies(include_retired=False)
        if study.registered and study.study not in reader.records
    ]
    for study in random.sample(missing, min(CHECKED_RECORDS, len(missing))):
        busy = gateway.ledger.work.get(work_key("process", study.study)) is not None
        since = datetime.fromisoformat(study.first_arrival)
        if not busy and reader.was_taken_back(study.study, since) is False:
            gateway.ledger.work.need("process", study.study, study.revision, again=True)
            gateway.ledger.store.note(study.study, "its record is missing in REDCap; it is registered again")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _not_known(gateway: Gateway, listing: list[TransferRequest]) -> tuple[list[TransferRequest], list[str]]:
    """Requests that are new or other than known, and records whose outcome REDCap may have lost.

    Every word that says where a study goes is compared: a correction that was made while nobody polled (or
    with a clock that is wrong) shows in no look at changes, and the study would go to the wrong participant.
    The list has these words; only what REDCap was told has to be read. Thousands of requests may wait for
    images that were not made yet.
    """
    known = gateway.ledger.transfers.newest_of_requests()
    newest: dict[tuple[str, int], Transfer] = {}
    for one in known.values():
        place = (one.study, one.request)
        newest[place] = max(one, newest.get(place, one), key=lambda each: each.id)
    new: list[TransferRequest] = []
    lost: set[str] = set()
    for request in listing:
        if request.active:
            row = known.get((request.study, request.instance, request.requested_date))
            same = row is not None and same_words(request, row)
            settled = (
                same
                and row is not None
                and not (row.awaits_removal or row.said_otherwise)
                and not set_back(row, newest[row.study, row.request])
            )
            told = request.transfer_date or row is None or row.state in ("accepted", "packaged")
            withdrawn = row is not None and row.state == "withdrawn"
            if withdrawn or not told:
                lost.add(request.study)
            elif not settled:
                new.append(request)
    return [request for request in new if request.study not in lost], sorted(lost)


def _take_up_new(gateway: Gateway, requests: list[TransferRequest]) -> Poll:
    accepted: list[Transfer] = []
    refused: list[Transfer] = []
    waiting = foreign = filled = 0
    postponed = False
    events = projects.ProjectEvents(gateway)
    for request in sorted(requests, key=_age):
        if not request.active:
            continue
        filled += 1
        if gateway.ledger.transfers.handled(as_request(request)):
            _tell_again(gateway, request)
            continue
        if request.withdrawn:
            continue  # before it was taken up at all
        if not (request.participant and request.event):
            waiting += 1
            continue
        study = _registered(gateway, request.study)
        if study is None:
            waiting += 1
        elif _is_foreign(gateway, request):
            foreign += 1
        else:
            try:
                transfer = _take_up(gateway, events, study, request)
            except (TransientError, RedcapRejected, ConfigurationError) as error:
                # the project's own REDCap, its token included: requests for others go on
                log.warning("a request for project %s can't be checked now: %s", request.project, error)
                waiting, postponed = waiting + 1, True
                continue
            if transfer.state != "superseded":
                (refused if transfer.state == "refused" else accepted).append(transfer)
    return Poll(filled, tuple(accepted), tuple(refused), waiting, foreign, postponed=postponed)


def _is_foreign(gateway: Gateway, request: TransferRequest) -> bool:
    """Whether another system carried it out: it was done after it was asked for, and not by us.

    We carried out this very request before when the ledger knows it and REDCap's date is not later than what
    the ledger did; then another requested date asks again, even within the same minute.
    """
    if not adoption.is_finished(request):
        return False
    last = gateway.ledger.transfers.last_change(request.study, request.instance)
    zone = gateway.settings.LOCALTIMEZONE
    return last is None or site_time(datetime.fromisoformat(last), zone) < request.transfer_date


def _tell_again(gateway: Gateway, request: TransferRequest) -> None:
    """An outcome that REDCap knew, or was told, and does not show is due again: its backup was restored."""
    ended = gateway.ledger.transfers.outcome_to_write(request.study, request.project)
    mine = [transfer for transfer in ended if transfer.request == request.instance]
    if mine and mine[-1].state == "withdrawn":
        if request.explained or not gateway.incoming().knows_withdrawn:
            return  # without the field nothing says that the message is of another time
    elif request.transfer_date or request.errors or request.withdrawn:
        return
    work = gateway.ledger.work.get(work_key("status", request.study, request.project))
    if mine and not same_words(request, mine[-1]):
        return  # it is of what the request said before; that is written nowhere any more
    if mine and (work is None or work.blocked):  # blocked: REDCap had lost the request meanwhile
        gateway.ledger.transfers.outcome_due(mine[-1])


def _age(request: TransferRequest) -> tuple[str, int]:
    return request.requested_date, request.instance


def _registered(gateway: Gateway, study: str) -> Study | None:
    try:
        found = gateway.ledger.receipts.study(study)
    except UnknownStudy:
        return None
    return found if found.registered else None


def _take_up(
    gateway: Gateway, events: projects.ProjectEvents, study: Study, request: TransferRequest
) -> Transfer:
    """Accepts or refuses; needs no lock: accepting and beginning to send see each other in the ledger.

    Of two requests for the same study and project the newest counts, whichever was seen first.
    """
    transfers = gateway.ledger.transfers
    newer = transfers.superseded_by(as_request(request))
    if newer is not None:
        return transfers.supersede(as_request(request), newer)
    try:
        check_assignment(gateway, study, request.project, request.participant, request.event)
        events.require(request.project, request.event)
        return transfers.accept(as_request(request), study.registered)
    except RemovalAwaited as error:
        return transfers.refuse(as_request(request), str(error), awaits_removal=True)
    except RequestRefused as error:
        return transfers.refuse(as_request(request), str(error))


def assign(gateway: Gateway, study: str, project: str, participant: str, event: str) -> int:
    """Writes a transfer request to REDCap, as a person would.

    Returns:
        The instance of REDCap's repeating instrument *transfers* that now holds the request.

    Raises:
        UnknownStudy: no such study.
        RequestRefused: the request would be refused; nothing was written.
        RedcapUnavailable: REDCap gave no usable answer.
    """
    gateway.ledger.receipts.read_journals()
    known = gateway.ledger.receipts.study(study)
    if not known.registered:
        raise RequestRefused(
            f"study {study} is not registered in REDCap yet ({known.state}); "
            f"`fiona status {study}` shows where it is"
        )
    projects.refresh(gateway)
    check_assignment(gateway, known, project, participant, event)
    projects.ProjectEvents(gateway).require(project, event)
    with turn(gateway, ASSIGNMENT):
        return gateway.incoming().write_request(
            study, project, participant, event, datetime.now(UTC), zone=gateway.settings.LOCALTIMEZONE
        )
