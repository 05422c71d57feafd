"""Which studies are complete: gathers the evidence on each open study and acts on the decision.

Belongs here: where evidence comes from, what a decision changes in the ledger. Stays out: the rules
themselves (``studies.completion``), and every conversation with a peer (:mod:`sources`), so that a dead
peer never holds up the sensor that calls this.
"""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

from fiona_dagster import landing, studies
from fiona_dagster.ledger import Completion, Study
from fiona_dagster.studies import Decision, Evidence, Limits, PerformedSteps, SourceCount
from fiona_dagster.transfers import fetching, sources
from fiona_dagster.transfers.context import Gateway


def find_complete_studies(gateway: Gateway, now: datetime | None = None) -> list[str]:
    """Reads the journals, decides on every open study, and closes the revision of each that goes on.

    The decision with its reasons is stored in the ledger whenever it changes. A study whose content is
    what it was but whose completeness is judged differently (an MPPS came late) is processed again, so that
    everybody sees the same.

    Args:
        gateway: the open gateway.
        now: the present time, with zone; default: the clock.

    Returns:
        The studies that have a new revision to be processed, longest silence first.
    """
    ledger = gateway.ledger
    ledger.receipts.read_journals()
    ledger.evidence.read_journals()
    moment = now or datetime.now(UTC)
    found = []
    for study in sorted(ledger.receipts.studies(open_only=True), key=lambda s: (s.last_arrival, s.study)):
        if _act(gateway, study, _decide(gateway, study, moment)):
            found.append(study.study)
    return found


def _decide(gateway: Gateway, study: Study, now: datetime) -> Decision:
    limits = limits_of(gateway, study)
    silence = (now - datetime.fromisoformat(study.last_arrival)).total_seconds()
    if 0 <= silence < limits.quiet:  # the common case costs nothing
        return studies.decide(Evidence(silence, False, {"": study.instances}), limits)
    evidence = _evidence(gateway, study, silence)
    if silence >= studies.settled_after(evidence, limits):
        evidence = dataclasses.replace(evidence, counts=_counts(gateway, study, now))
    return studies.decide(evidence, limits)


def _counts(gateway: Gateway, study: Study, now: datetime) -> tuple[SourceCount, ...]:
    """What the sources say about the study as it is; those that were not asked yet are asked by this."""
    book = gateway.ledger.evidence
    names = sources.sources_of(gateway, study.study)
    if not names:
        return ()
    there = {count.source: count for count in book.counts(study.study) if count.since == study.last_arrival}
    for name in names:
        if name not in there:
            book.ask(study.study, name, study.last_arrival)
    found = []
    for name in names:
        count = there.get(name)
        if count is None:
            found.append(SourceCount(name, "open"))
            continue
        found.append(
            SourceCount(
                name,
                count.state,
                count.instances,
                count.series,
                exhausted=fetching.is_exhausted(gateway, count),
                age=(now - datetime.fromisoformat(count.asked)).total_seconds(),
            )
        )
    return tuple(found)


def limits_of(gateway: Gateway, study: Study) -> Limits:
    """How long to wait for this study: a study with several senders takes the longest quiet time."""
    receiver, completion = gateway.settings.of_site(study.site).receiver, gateway.settings.completion
    quiet = receiver.quiet_seconds
    if receiver.quiet_by_sender:
        quiet = max(
            receiver.quiet_by_sender.get(sender, receiver.quiet_seconds)
            for sender in gateway.ledger.evidence.senders(study.study)
        )
    return Limits(
        quiet=quiet,
        quiet_open=receiver.quiet_seconds_open,
        wait=completion.wait_limit_seconds,
        answer=completion.answer_limit_seconds,
    )


def _evidence(gateway: Gateway, study: Study, silence: float) -> Evidence:
    book = gateway.ledger.evidence
    steps = book.steps(study.study)
    return Evidence(
        silence=silence,
        associations_open=any(
            landing.open_associations(gateway.root.of_site(site), study.study) for site in study.sites
        ),
        received=book.received(study.study),
        steps=None
        if steps is None
        else PerformedSteps(
            steps.in_progress,
            steps.completed,
            steps.discontinued,
            steps.expected,
            sum(len(instances) for instances in steps.missing.values()),
        ),
    )


def _act(gateway: Gateway, study: Study, decision: Decision) -> bool:
    """Stores the decision and closes the revision if the study goes on; True if it has a new one."""
    ledger = gateway.ledger
    before = ledger.evidence.completion(study.study)
    numbers = {"expected": decision.expected, "received": decision.received, "missing": decision.missing}
    if decision.outcome == "wait":
        changed = ledger.evidence.decide(
            study.study, "wait", {"reasons": list(decision.reasons), "until": decision.until, **numbers}
        )
        if changed and decision.missing and (before is None or before.missing != decision.missing):
            ledger.store.note(study.study, f"waits for missing instances: {'; '.join(decision.reasons)}")
        return False
    with ledger.store.writing():
        changed = ledger.evidence.decide(
            study.study, decision.outcome, {"reasons": list(decision.reasons), **numbers}
        )
        if decision.outcome == "incomplete" and changed:
            ledger.store.note(study.study, f"goes on incomplete: {'; '.join(decision.reasons)}")
        revision = ledger.receipts.close_revision(study.study)
        judged = describe(ledger.evidence.completion(study.study))
        if revision is None and study.registered and judged != study.summary.get("completeness", judged):
            ledger.work.need("process", study.study, study.revision, again=True)
    return revision is not None


def describe(completion: Completion | None) -> str:
    """Completeness in a few words, for tables and REDCap: ``complete``, or the numbers.

    A study that a person processes before it was judged has none.
    """
    if completion is None or completion.outcome == "wait":
        return "not judged"
    if completion.outcome == "incomplete" and completion.missing:
        return f"incomplete: {completion.received} of {completion.received + completion.missing} instances"
    return completion.outcome
