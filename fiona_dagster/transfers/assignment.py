"""Assigns held studies without a person, by writing the request into REDCap that a person would write.

The request is taken up by the next look at REDCap, as any other; so it is checked, refused and corrected in
the same way and place. A study is looked at again when its revision, one of the tables, a list or the
configuration changed, and once a day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from fiona_dagster.config import AllowedCaller, ProjectSettings, configuration_digest, project_names
from fiona_dagster.errors import (
    ConfigurationError,
    PatternTooSlow,
    PermanentError,
    RequestRefused,
)
from fiona_dagster.ledger import Study, StudyAssignment
from fiona_dagster.redcap import NewRequest, site_time
from fiona_dagster.redcap.tables import CouplingEntry, ProjectEntry, read_coupling, read_routing
from fiona_dagster.transfers import adoption, autoid, derived, optout, projects
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.execution import takes_patient_ids
from fiona_dagster.transfers.halves import write_in_halves
from fiona_dagster.transfers.intake import person
from fiona_dagster.transfers.placing import Candidate, Placing, Tables, place
from fiona_dagster.transfers.turns import ASSIGNMENT, turn

STUDIES_A_ROUND = 1000
"""Studies that one round looks at; the next one goes on. It takes a few seconds of a sensor's tick."""


@dataclass(frozen=True)
class Round:
    """What one look at the held studies brought."""

    asked: int = 0
    """Requests that were written to REDCap."""
    waiting: int = 0
    """Studies that were looked at and wait for a person."""
    changed: tuple[StudyAssignment, ...] = ()
    """Studies of which something else is known than before."""


def assign_held(gateway: Gateway) -> Round:
    """Looks at every held study that was not looked at with the tables as they are now.

    Raises:
        RedcapUnavailable, RedcapRejected: REDCap gave no usable answer; the same call later goes on.
        OptOutUnavailable: the opt-out list is configured and can't be used; nothing is assigned.
    """
    with turn(gateway, ASSIGNMENT, wait=False) as mine:
        if not mine or not gateway.settings.redcap.url or adoption.is_report_only(gateway):
            return Round()
        tables, seen = _tables(gateway)
        studies = gateway.ledger.assignments.to_look_at(seen, STUDIES_A_ROUND)
        if not studies:
            return Round()
        known = _Known(gateway, tables)
        decided = [known.decide(study) for study in studies]
        return _book(gateway, _resolve(gateway, tables, decided), seen)


def _tables(gateway: Gateway) -> tuple[Tables, str]:
    """The tables, and a digest of everything that decides."""
    coupling_client, routing_client = gateway.table("CouplingList"), gateway.table("Routing")
    coupling = read_coupling(coupling_client) if coupling_client else []
    routing = read_routing(routing_client, project_names(gateway.root)) if routing_client else []
    entries = projects.entries(gateway)
    zone = ZoneInfo(gateway.settings.LOCALTIMEZONE)
    now = datetime.now(UTC).astimezone(zone).replace(tzinfo=None)
    what = [
        now.date().isoformat(),
        configuration_digest(gateway.root),
        repr(optout.stamp(gateway)),
        *(repr(_open(entry)) for entry in sorted(coupling, key=lambda entry: entry.record)),
        *(repr(_open(rule)) for rule in routing),
        *(repr(entry) for entry in entries),
    ]
    seen = hashlib.sha256("\n".join(what).encode()).hexdigest()
    by_number: dict[str, tuple[CouplingEntry, ...]] = {}
    for entry in coupling:
        if not (entry.accession_number and entry.project):
            continue  # somebody is at it
        by_number[entry.accession_number] = (*by_number.get(entry.accession_number, ()), entry)
    days = gateway.settings.redcap.coupling_days
    return Tables(by_number, routing, entries, now, days), seen


def _open(row: object) -> list[tuple[str, str]]:
    """Every value of a row, also those that its repr hides: it goes into a digest and nowhere else."""
    return sorted((str(key), str(value)) for key, value in vars(row).items())


class _Known:
    """What is the same for all studies of one round."""

    def __init__(self, gateway: Gateway, tables: Tables) -> None:
        self._gateway = gateway
        self._tables = tables
        named = {entry.name: entry for entry in tables.projects}
        self._patterns: dict[str, tuple[str, ...]] = {}
        self._settings: dict[str, ProjectSettings] = {}
        for name in project_names(gateway.root):
            try:
                self._settings[name] = gateway.project(name)
            except ConfigurationError:
                continue
            own = self._settings[name].participant_pattern
            there = named[name].pattern if name in named else ""
            self._patterns[name] = (own, there) if there else (own,)

    def decide(self, uid: str) -> tuple[Study, Placing]:
        """What is to become of a study; a fault of one (its archive is damaged) holds up no other."""
        study = self._gateway.ledger.receipts.study(uid)
        try:
            return study, self._place(study)
        except PatternTooSlow as error:
            return study, Placing("waiting", reason=f"{error}; a person must decide")
        except PermanentError as error:
            return study, Placing("waiting", reason=f"can't be looked at now: {error}", again=True)

    def _place(self, study: Study) -> Placing:
        gateway, uid = self._gateway, study.study
        if optout.has_opted_out(gateway, uid):
            return Placing("opted_out", reason=optout.REASON)
        try:
            source = derived.source_of(gateway, uid)
        except RequestRefused:
            return Placing("waiting", reason=derived.GONE)
        if source is not None:
            if any(transfer.project == source.project for transfer in gateway.ledger.transfers.all(uid)):
                return Placing("requested", "derived", source.project)
            if not derived.originals_of(gateway, source):
                return Placing("waiting", reason=derived.MISSING)
            return Placing("asked", "derived", source.project, source.participant, source.event)
        transfers = gateway.ledger.transfers.all(uid)
        senders = gateway.ledger.evidence.senders(uid)
        candidate = Candidate(
            study=uid,
            person=person(gateway, uid),
            senders=senders,
            called_ae=study.called_ae,
            trusted=self._trusted(study, senders),
            accepting=frozenset(
                name
                for name, project in self._settings.items()
                if takes_patient_ids(gateway, project, senders)
            ),
            patterns=self._of_site(study),
            requested=frozenset(transfer.project for transfer in transfers),
            asked_last=max((transfer.requested_date for transfer in transfers), default=""),
        )
        return place(candidate, self._tables)

    def _of_site(self, study: Study) -> dict[str, tuple[str, ...]]:
        """What arrived at a site of ``SITES`` goes to that site's project only."""
        if not study.site:
            return self._patterns
        return {name: found for name, found in self._patterns.items() if name == study.site}

    def _trusted(self, study: Study, senders: frozenset[str]) -> bool:
        settings = self._gateway.settings
        titles = set(settings.redcap.trusted_senders)
        if not titles:
            for caller in settings.of_site(study.site).receiver.allowed_callers:
                title = caller.ae_title if isinstance(caller, AllowedCaller) else caller
                titles |= {title} if title else set()
        return senders <= titles


def _resolve(
    gateway: Gateway, tables: Tables, decided: Sequence[tuple[Study, Placing]]
) -> list[tuple[Study, Placing]]:
    """Gives every study with an automatic participant id that id and its event."""
    found: list[tuple[Study, Placing]] = []
    automatic: dict[str, list[Study]] = {}
    for study, placing in decided:
        if placing.way == "autoid":
            automatic.setdefault(placing.project, []).append(study)
        else:
            found.append((study, placing))
    entries = {entry.name: entry for entry in tables.projects}
    for project, studies in automatic.items():
        found += _with_ids(gateway, entries[project], studies)
    return found


def _with_ids(gateway: Gateway, entry: ProjectEntry, studies: Sequence[Study]) -> list[tuple[Study, Placing]]:
    try:
        client = gateway.table("AutoID")
        if client is None:
            reason = f"project {entry.name} makes participant ids, but no token of AutoID is configured"
            return [(study, Placing("waiting", reason=reason)) for study in studies]
        projects.require_open(gateway, entry.name)
        event = autoid_event(gateway, entry.name)
        persons = {study.study: person(gateway, study.study) for study in studies}
        ids = autoid.participants(gateway, client, entry, persons.values())
    except RequestRefused as error:
        return [(study, Placing("waiting", reason=str(error))) for study in studies]
    except PermanentError as error:  # its key or its token: other projects go on
        reason = f"project {entry.name} can't make participant ids now: {error}"
        return [(study, Placing("waiting", reason=reason, again=True)) for study in studies]
    return [
        (study, Placing("asked", "autoid", entry.name, ids[persons[study.study]], event)) for study in studies
    ]


def autoid_event(gateway: Gateway, project: str) -> str:
    """The event of studies that get their participant id automatically.

    Raises:
        RequestRefused: nothing says which.
    """
    settings = gateway.project(project)
    research = None if settings.autoid_event or settings.events else gateway.research(project)
    names: list[str] = [
        settings.autoid_event,
        *settings.events,
        *(research.event_names() if research else ()),
    ]
    for name in names:
        if name:
            return name
    raise RequestRefused(f"project {project} has no event for automatic ids; set autoid_event in its file")


def _book(gateway: Gateway, decided: Sequence[tuple[Study, Placing]], seen: str) -> Round:
    """Writes the requests, then what was decided."""
    wanted = [
        NewRequest(
            study.study,
            placing.project,
            placing.participant,
            placing.event,
            beside=bool(gateway.ledger.transfers.all(study.study)),
        )
        for study, placing in decided
        if placing.state == "asked"
    ]
    now = datetime.now(UTC)
    gateway.ledger.assignments.record_routed(
        ((study.study, placing.project) for study, placing in decided if placing.way == "routing"),
        site_time(now, gateway.settings.LOCALTIMEZONE),
    )
    written, refused = _write(gateway, wanted, now)
    book, changed, waiting = gateway.ledger.assignments, [], 0
    with gateway.ledger.store.writing():
        for study, found in decided:
            placing = found
            if study.study in refused:
                placing = Placing(
                    "waiting", reason=f"REDCap took no request: {refused[study.study]}", again=True
                )
            elif found.state == "asked" and study.study not in written:
                placing = replace(found, state="requested", way="")
            waiting += placing.state in ("waiting", "opted_out")
            if book.decide(
                study.study,
                study.revision,
                placing.state,
                "" if placing.again else seen,
                way=placing.way,
                project=placing.project,
                reason=placing.reason,
            ):
                changed.append(book.of(study.study))
                gateway.ledger.store.note(study.study, _line(placing))
    return Round(len(written), waiting, tuple(each for each in changed if each is not None))


def _write(
    gateway: Gateway, wanted: Sequence[NewRequest], now: datetime
) -> tuple[frozenset[str], dict[str, str]]:
    """Writes requests; one that REDCap does not take holds up no other.

    Returns:
        The studies whose request was written, and what REDCap said of those that it refused.
    """
    written: set[str] = set()

    def write(requests: Sequence[NewRequest]) -> None:
        zone = gateway.settings.LOCALTIMEZONE
        written.update(gateway.incoming().write_requests(requests, now, zone=zone))

    refused = write_in_halves(wanted, write)
    return frozenset(written), {wanted[number].study: str(error) for number, error in refused.items()}


_WAYS = {
    "coupling": "the coupling list",
    "routing": "a routing rule",
    "autoid": "an automatic participant id",
    "derived": "the study that it was made of",
}


def _line(placing: Placing) -> str:
    if placing.state == "asked":
        return f"request for project {placing.project} written by {_WAYS[placing.way]}"
    if placing.state == "requested":
        return "not assigned automatically: a request is there"
    return f"held for a person: {placing.reason}"
