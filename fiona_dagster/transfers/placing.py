"""Where a study goes without a person: what coupling list, routing rules and auto-ID say of it. Decides only.

In this order: a request that is there; the coupling list by AccessionNumber; routing rules; auto-ID; else the
study is held for a person. What could mean two things waits for a person, and every reason is free of names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fiona_dagster.config.patterns import NO_PATTERN, site_pattern
from fiona_dagster.ledger import Person
from fiona_dagster.ledger.assignments import AssignmentState, Way
from fiona_dagster.redcap.tables import CouplingEntry, ProjectEntry, RoutingRule

NOTHING = "nothing says where it goes"
_TIME = "%Y-%m-%d %H:%M"


@dataclass(frozen=True)
class Candidate:
    """What of a held study bears on where it goes."""

    study: str
    person: Person = field(repr=False)
    senders: frozenset[str]
    called_ae: str
    trusted: bool
    """Whether everyone who sent to it may name participants by PatientID."""
    accepting: frozenset[str] = frozenset()
    """Projects that let a participant id be the PatientID of those who sent to it."""
    patterns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The participant patterns of each project that is known here."""
    requested: frozenset[str] = frozenset()
    """Projects that asked for it already."""
    asked_last: str = ""
    """Newest date of these requests, site time."""


@dataclass(frozen=True)
class Tables:
    """What REDCap says, read in one go."""

    coupling: dict[str, tuple[CouplingEntry, ...]]
    """By accession number."""
    routing: Sequence[RoutingRule]
    projects: Sequence[ProjectEntry]
    now: datetime
    """Site time, without zone, as REDCap writes it."""
    coupling_days: float = 14.0


@dataclass(frozen=True)
class Placing:
    """What was decided. ``reason`` says why a person is needed; nothing identifying."""

    state: AssignmentState
    way: Way = ""
    project: str = ""
    participant: str = field(default="", repr=False)
    """Empty with ``autoid``: it is looked up or made."""
    event: str = field(default="", repr=False)
    reason: str = ""
    again: bool = False
    """Nothing was decided, because of a fault: the next round looks again."""


def place(study: Candidate, tables: Tables) -> Placing:
    """Decides about one study.

    Raises:
        PatternTooSlow: a pattern takes too long, so that nobody knows whether its rule fits.
    """
    live, notes = _coupled(study, tables)
    if study.requested:
        return _beside(study, live)
    if len({(entry.project, entry.participant, entry.event) for entry in live}) > 1:
        return _ambiguous("the coupling list has several entries for it", [entry.project for entry in live])
    if live:
        entry = live[0]
        return Placing("asked", "coupling", entry.project, entry.participant, entry.event)
    routed = _routed(study, tables.routing, notes)
    if len(routed) > 1:
        return _ambiguous("several routing rules fit", [rule.project for rule in routed])
    if routed:
        (patient_id,) = study.person.patient_ids
        return Placing("asked", "routing", routed[0].project, patient_id, routed[0].event)
    return _automatic(study, tables.projects, notes)


def _coupled(study: Candidate, tables: Tables) -> tuple[list[CouplingEntry], list[str]]:
    """Entries that count, and what there is to say of the others."""
    found = [entry for number in study.person.accession_numbers for entry in tables.coupling.get(number, ())]
    live = [entry for entry in found if is_live(entry, tables.now, tables.coupling_days)]
    if found and not live:
        return live, ["its entry in the coupling list has expired, or has no date"]
    return live, []


def is_live(entry: CouplingEntry, now: datetime, days: float) -> bool:
    """Whether an entry still counts ``days`` after its date; one without a date never does.

    Args:
        entry: of the coupling list.
        now: site time, without zone, as REDCap writes it.
        days: how long entries count.
    """
    try:
        entered = datetime.strptime(entry.entered, _TIME)  # site time, as all of REDCap
    except ValueError:
        return False
    return now <= entered + timedelta(days=days)


def _beside(study: Candidate, live: Sequence[CouplingEntry]) -> Placing:
    """A study that has requests gets another one only by an entry that was made after them."""
    newer = [entry for entry in live if entry.entered > study.asked_last]
    others = [entry for entry in newer if entry.project not in study.requested]
    if len({(entry.project, entry.participant, entry.event) for entry in others}) > 1:
        return _ambiguous("the coupling list has several entries for it", [entry.project for entry in others])
    if others:
        entry = others[0]
        return Placing("asked", "coupling", entry.project, entry.participant, entry.event)
    return Placing("requested")


def _routed(study: Candidate, rules: Sequence[RoutingRule], notes: list[str]) -> list[RoutingRule]:
    fitting = []
    for rule in rules:
        if rule.called_ae != study.called_ae and study.senders != {rule.calling_ae}:
            continue
        where = f"routing rule {rule.record}"
        if not _patterns_match(study, rule, where, notes):
            continue
        if len(study.person.patient_ids) != 1:
            notes.append(f"{where} fits, but the study has not exactly one PatientID")
        elif not study.trusted:
            notes.append(f"{where} fits, but its sender is not trusted to name participants")
        elif rule.project not in study.patterns:
            notes.append(f"{where} fits, but its project is not known here")
        elif rule.project not in study.accepting:
            notes.append(
                f"{where} fits, but nothing says that the PatientID of its sender is a participant id: "
                "name the sender in redcap.trusted_senders, or in trusted_senders of project "
                f"{rule.project}'s file"
            )
        elif not _is_participant(study, rule.project):
            notes.append(f"{where} fits, but the PatientID is no participant id of its project")
        else:
            fitting.append(rule)
    return fitting


def _patterns_match(study: Candidate, rule: RoutingRule, where: str, notes: list[str]) -> bool:
    try:
        return all(
            not pattern
            or (bool(values) and all(site_pattern(pattern, f"{where}: {field}").match(v) for v in values))
            for field, pattern, values in (
                ("routing_allowed_patientid", rule.patient_id, study.person.patient_ids),
                ("routing_allowed_patientname", rule.patient_name, study.person.patient_names),
            )
        )
    except NO_PATTERN:
        notes.append(f"{where} has a pattern that is no regular expression")
        return False


def _is_participant(study: Candidate, project: str) -> bool:
    (patient_id,) = study.person.patient_ids
    where = f"project {project}: pattern of participant ids"
    try:
        return all(site_pattern(pattern, where).fullmatch(patient_id) for pattern in study.patterns[project])
    except NO_PATTERN:
        return False


def _automatic(study: Candidate, projects: Sequence[ProjectEntry], notes: list[str]) -> Placing:
    fitting = [
        project
        for project in projects
        if project.autoid_aetitle and project.autoid_aetitle == study.called_ae
    ]
    if len(fitting) > 1:
        return _ambiguous(
            "several projects make participant ids for its AE title", [project.name for project in fitting]
        )
    if fitting and fitting[0].name not in study.patterns:
        notes.append(f"project {fitting[0].name} would take it, but is not known here")
    elif fitting and len(study.person.patient_ids) != 1:
        notes.append(f"project {fitting[0].name} would take it, but it has not exactly one PatientID")
    elif fitting:
        return Placing("asked", "autoid", fitting[0].name)
    return Placing("waiting", reason="; ".join(dict.fromkeys(notes)) or NOTHING)


def _ambiguous(what: str, projects: Sequence[str]) -> Placing:
    named = ", ".join(
        sorted({project for project in projects if project.isascii() and project.isprintable()})
    )
    return Placing("waiting", reason=f"{what} ({named[:200]}); a person must decide")
