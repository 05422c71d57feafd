"""From a complete study to a held one: the four steps of ``process_study``.

Each step holds the study's lock and is idempotent: it replaces its output atomically, so that a rerun
after a crash ends in the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fiona_dagster import landing, studies
from fiona_dagster.errors import FionaError, PermanentError, RedcapRejected, UnknownStudy, UsageError
from fiona_dagster.ledger import ALTERED, Person, Sender, Study, person_of, utc_now, work_key
from fiona_dagster.redcap import StudyEntry
from fiona_dagster.studies import StudyContents
from fiona_dagster.transfers import completion
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.erased import MAYBE_ERASED, may_be_of_erased
from fiona_dagster.transfers.halves import write_in_halves

LOCK_SECONDS = 600.0
SEVERAL_SITES = "several_sites"
"""Flag of a study that arrived at more than one site until a person decided which one counts."""
WAYS = {
    "conflicts": "decide with `fiona conflicts`",
    ALTERED: "restore the archived bytes from the backup",
    SEVERAL_SITES: "decide with `fiona sites choose`",
}
"""How other flags are decided."""
ACCEPTABLE = ("two_patients", "damaged_instances", MAYBE_ERASED)
"""Flags that a person may accept; the others have ways of their own to be decided."""


@contextmanager
def study_lock(gateway: Gateway, study: str) -> Iterator[None]:
    """Work on a study holds that study's lock, whoever does it.

    Raises:
        Busy: somebody else held it for ten minutes.
    """
    with landing.study_lock(gateway.root, study, timeout=LOCK_SECONDS):
        yield


def ensure_revision(gateway: Gateway, study_uid: str) -> Study:
    """The study as the ledger knows it; one that a person processes early gets its first revision now.

    Raises:
        UnknownStudy: the ledger has no such study.
    """
    for tree in gateway.root.site_trees():
        landing.finish_decisions(tree, study_uid)
    gateway.ledger.receipts.read_journals()
    study = gateway.ledger.receipts.study(study_uid)
    if study.revision == 0:
        gateway.ledger.receipts.close_revision(study_uid)
        study = gateway.ledger.receipts.study(study_uid)
    return study


@dataclass(frozen=True)
class Processed:
    """A study whose headers were read and classified."""

    study: Study
    contents: StudyContents
    records: dict[str, dict[str, Any]]
    flags: tuple[str, ...]
    rules_digest: str
    rules_problem: str | None


_latest: dict[tuple[str, str], tuple[str, StudyContents]] = {}


def read_contents(gateway: Gateway, study_uid: str) -> tuple[Study, StudyContents]:
    """Reads every header of a study once; later steps of the same process get the same result.

    Raises:
        UnknownStudy: the ledger has no such study.
        PermanentError: an acknowledged instance is not in the archive any more.
    """
    gateway.ledger.receipts.read_journals()
    study = gateway.ledger.receipts.study(study_uid)
    rows = gateway.ledger.receipts.instances(study_uid)
    missing = [row["sop_instance"] for row in rows if not (gateway.root.path / row["path"]).is_file()]
    if missing:
        raise PermanentError(
            f"study {study_uid}: {len(missing)} acknowledged instances are not in site/archive any more, "
            f"first {missing[0]}; restore them from the backup, nothing goes on without them"
        )
    key = (str(gateway.root.path), study_uid)
    rules, _ = studies.load_rules_in_force(gateway.root)
    fingerprint = f"{rules.digest}:{len(rows)}:{study.last_arrival}:{study.conflicts}:{study.site}"
    if key in _latest and _latest[key][0] == fingerprint:
        return study, _latest[key][1]
    contents = studies.scan_study(
        gateway.root.of_site(study.site),
        study_uid,
        studies.needed_tags(rules.tags | studies.useful_tags(), studies.PERSON_TAGS),
    )
    _latest.clear()
    _latest[key] = (fingerprint, contents)
    return study, contents


def person(gateway: Gateway, study_uid: str) -> Person:
    """Whose study it is, from the ledger or, where that lacks it, from the archived headers.

    Raises:
        UnknownStudy: the ledger has no such study.
        PermanentError: an acknowledged instance is not in the archive any more.
    """
    known = gateway.ledger.assignments.person(study_uid)
    if known is None:
        known = person_of(*studies.person_values(read_contents(gateway, study_uid)[1]))
        gateway.ledger.assignments.record_person(study_uid, known)
    return known


def connection(sender: Study | Sender) -> dict[str, str]:
    """``IncomingConnection`` of the series record: who sent the first file."""
    return {
        "AETitleCaller": sender.calling_ae,
        "AETitleCalled": sender.called_ae,
        "CallerIP": sender.caller_ip,
    }


def process(gateway: Gateway, study_uid: str) -> Processed:
    """Classifies a study; writes nothing."""
    study, contents = read_contents(gateway, study_uid)
    rules, problem = studies.load_rules_in_force(gateway.root)
    senders = gateway.ledger.receipts.senders(study_uid)
    of_series = {series: connection(sender) for (_, series), sender in senders.items()}
    records = studies.build_series_records(contents, rules, connection(study), of_series)
    flags = tuple(studies.flags(gateway.root.of_site(study.site), contents))
    if gateway.ledger.receipts.has_altered(study_uid):
        flags += (ALTERED,)
    if study.at_several_sites:
        flags += (SEVERAL_SITES,)
    if may_be_of_erased(gateway, study_uid, person_of(*studies.person_values(contents)).patient_ids):
        flags += (MAYBE_ERASED,)
    accepted = gateway.ledger.evidence.accepted_flags(study_uid, contents.digest)
    flags = tuple(flag for flag in flags if flag not in accepted)
    return Processed(study, contents, records, flags, rules.digest, problem)


def organise(gateway: Gateway, study_uid: str) -> Processed:
    """Classifies a study and brings ``site/raw`` and ``site/participants`` to what it holds."""
    done = process(gateway, study_uid)
    studies.write_raw_tree(gateway.root.of_site(done.study.site), done.contents, done.records)
    return done


def register(gateway: Gateway, study_uid: str) -> Processed:
    """Writes the study and its series into REDCap's *Incoming*; from now on the study is held.

    Raises:
        RedcapUnavailable: REDCap gave no usable answer; the same call later does no harm.
    """
    done = process(gateway, study_uid)
    for error in commit(gateway, [prepare(gateway, done)]).values():
        raise error
    return done


@dataclass(frozen=True)
class Prepared:
    """All that is to be written of a processed study, without its headers: many fit into memory."""

    study: str
    revision: int
    entry: StudyEntry = field(repr=False)
    flags: tuple[str, ...]
    summary: dict[str, Any]
    person: Person
    cover: tuple[str, ...]
    variants: list[tuple[str, int, list[str], bytes]] = field(repr=False)


def prepare(gateway: Gateway, done: Processed) -> Prepared:
    """Gathers what REDCap and the ledger are to know of a processed study; writes nothing."""
    uid = done.contents.study
    study_fields, series_rows = studies.incoming_fields(
        done.contents, done.records, calling_ae=done.study.calling_ae, called_ae=done.study.called_ae
    )
    completeness = completion.describe(gateway.ledger.evidence.completion(uid))
    problems = studies.series_problems(done.contents)
    summary = {
        "completeness": completeness,
        "instances": done.contents.instance_count,
        "bytes": done.contents.byte_count,
        "rules": done.rules_digest,
        "series": [
            {
                "SeriesInstanceUID": series,
                "SeriesNumber": studies.shown_number(record),
                "Modality": studies.shown_modality(record),
                "NumFiles": int(record["NumFiles"]),
                "ClassifyType": list(record["ClassifyType"]),
                **({"problems": list(problems[series])} if series in problems else {}),
            }
            for series, record in sorted(done.records.items())
        ],
    }
    cover, variants = _variants(gateway, done)
    return Prepared(
        study=uid,
        revision=done.study.revision,
        entry=StudyEntry(study_fields, series_rows, {"study_completeness": completeness}),
        flags=done.flags,
        summary=summary,
        person=person_of(*studies.person_values(done.contents)),
        cover=cover,
        variants=variants,
    )


def commit(gateway: Gateway, prepared: Sequence[Prepared]) -> dict[str, FionaError]:
    """Registers studies in REDCap together, three calls for a hundred of them, and books them as held.

    Returns:
        What went wrong, by study; one that REDCap refuses does not hold up the others.
    """
    failed: dict[str, FionaError] = {}

    def register_some(some: Sequence[Prepared]) -> None:
        try:
            gateway.incoming().register_studies([each.entry for each in some])
        except RedcapRejected:
            raise
        except FionaError as error:
            failed.update({each.study: error for each in some})
            return
        for each in some:
            _book(gateway, each)

    refused = write_in_halves(prepared, register_some)
    return failed | {prepared[number].study: error for number, error in refused.items()}


def _book(gateway: Gateway, done: Prepared) -> None:
    ledger = gateway.ledger
    study = ledger.receipts.study(done.study)
    changed = _changed_types(study.summary, done.summary)
    with ledger.store.writing():
        if study.registered > done.revision:  # late images overtook this: REDCap is told again how it is now
            ledger.work.need("process", done.study, study.revision, again=True)
            return
        for line in changed:
            ledger.store.note(done.study, line)
        ledger.variants.replace(done.study, done.cover, done.variants)
        ledger.assignments.record_person(done.study, done.person)
        ledger.receipts.registered(done.study, done.revision, done.flags, done.summary)
        ledger.transfers.new_revision(done.study, done.revision)


def _variants(
    gateway: Gateway, done: Processed
) -> tuple[tuple[str, ...], list[tuple[str, int, list[str], bytes]]]:
    """What the ledger keeps so that other rules can be tried; nothing where the rules changed meanwhile."""
    rules, _ = studies.load_rules_in_force(gateway.root)
    if rules.digest != done.rules_digest:
        return (), []
    cover = studies.cover_of(rules)
    found = []
    for series, record in sorted(done.records.items()):
        packed = studies.variants_of(done.contents.series[series], cover)
        if packed is not None:
            found.append((series, int(record["NumFiles"]), list(record["ClassifyType"]), packed))
    return cover, found


NOTED_SERIES = 200
"""Series of one study whose change of types is written to its history one by one."""


def _changed_types(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Lines for the study's history: what another classification changed."""
    old = {each["SeriesInstanceUID"]: each["ClassifyType"] for each in before.get("series", [])}
    lines = []
    for each in after["series"]:
        types = old.get(each["SeriesInstanceUID"])
        if types is not None and types != each["ClassifyType"]:
            shown = f"{', '.join(types) or 'none'} -> {', '.join(each['ClassifyType']) or 'none'}"
            lines.append(f"types of series {each['SeriesInstanceUID']}: {shown}")
    if before.get("rules", after["rules"]) != after["rules"]:
        rules = f"rules {before['rules'][:12]} -> {after['rules'][:12]}"
        lines.insert(0, f"classified again, {rules}: {len(lines)} series with other types")
    if len(lines) > NOTED_SERIES + 1:
        return [*lines[: NOTED_SERIES + 1], f"and {len(lines) - NOTED_SERIES - 1} more series"]
    return lines


def accept_flag(gateway: Gateway, study_uid: str, flag: str, *, by: str, reason: str) -> None:
    """A person looked into a flag and accepts it for the instances that the study has now.

    Args:
        gateway: the open gateway.
        study_uid: StudyInstanceUID.
        flag: one of :data:`ACCEPTABLE` that the study has.
        by: login name.
        reason: why; nothing identifying, since it stands in the study's history.

    Raises:
        UnknownStudy: the ledger has no such study.
        UsageError: the study has no such flag, or it is decided in another way.
    """
    study, contents = read_contents(gateway, study_uid)
    if flag not in study.flags:
        shown = ", ".join(study.flags) or "none"
        raise UsageError(f"study {study_uid} has no flag {flag[:40]!r} (it has: {shown})")
    if flag not in ACCEPTABLE:
        raise UsageError(f"{flag} can't be accepted: {WAYS.get(flag, 'see docs/operators/run.md')}")
    with study_lock(gateway, study_uid):
        decision = landing.FlagDecision(utc_now(), study_uid, flag, contents.digest, by, reason)
        landing.append_evidence(gateway.root, decision)
        gateway.ledger.evidence.read_journals()


def rules_digest(gateway: Gateway) -> str:
    """Digest of the rules in force."""
    return studies.load_rules_in_force(gateway.root)[0].digest


def to_reclassify(gateway: Gateway, study_uids: list[str] | None) -> list[Study]:
    """Which studies are to be classified again.

    Args:
        gateway: the open gateway.
        study_uids: these studies; None: all whose last classification used other rules than those in force.

    Raises:
        UnknownStudy: one of the named studies is not here.
    """
    receipts = gateway.ledger.receipts
    receipts.read_journals()
    if study_uids is not None:
        return [study for study in map(receipts.study, study_uids) if study.revision]
    digest = rules_digest(gateway)
    return [
        study
        for study in receipts.studies(include_retired=False)
        if study.registered and study.summary.get("rules") != digest
    ]


def reclassify(gateway: Gateway, study_uids: list[str]) -> None:
    """Asks for studies to be processed again, each by a run of its own."""
    chosen = to_reclassify(gateway, study_uids)
    with gateway.ledger.store.writing():
        for study in chosen:
            gateway.ledger.work.need("process", study.study, study.revision, again=True)


def failed(gateway: Gateway, study_uid: str, message: str, *, permanent: bool) -> None:
    """Books that a step failed, also for a run that the ledger did not ask for (backfill, launch by hand).

    What can pass is tried again, the rest is shown until a person does something.

    Args:
        gateway: the open gateway.
        study_uid: StudyInstanceUID.
        message: what happened; nothing identifying.
        permanent: whether another attempt is of no use.
    """
    ledger = gateway.ledger
    key = work_key("process", study_uid)
    try:
        study = ledger.receipts.study(study_uid)
    except UnknownStudy:
        return
    with ledger.store.writing():
        if ledger.work.get(key) is None and study.revision:
            ledger.work.need("process", study_uid, study.revision)
        ledger.work.failed(key, message, permanent=permanent)
