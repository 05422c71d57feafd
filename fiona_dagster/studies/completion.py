"""When a study is complete: what is known of it, weighed by rules that depend on nothing else.

Evidence is silence, open associations, Modality Performed Procedure Steps (PS3.4 annex F) and what the
source counts (C-FIND, PS3.4 annex C). Silence alone makes a study complete; evidence that instances are
missing makes it wait up to a limit and then go on, marked incomplete with the numbers. Evidence never makes
a study wait for ever and never hurries one that is not quiet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["wait", "complete", "incomplete"]


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds; since the last arrival where nothing else is said.

    Attributes:
        quiet: silence that is enough when no association that sent to the study is open.
        quiet_open: silence that is enough with such an association still open.
        wait: silence after which evidence of missing instances is not waited for any longer.
        answer: how long a source may take to answer, once it was asked.
    """

    quiet: float = 16.0
    quiet_open: float = 600.0
    wait: float = 3600.0
    answer: float = 120.0


@dataclass(frozen=True)
class PerformedSteps:
    """What the Modality Performed Procedure Steps of a study say, all taken together.

    Attributes:
        in_progress: steps that the modality has not ended.
        completed: steps that it completed.
        discontinued: steps that it broke off; what they reference is all there will be.
        expected: instances that the performed series of ended steps reference.
        missing: those of them that have not arrived.
    """

    in_progress: int = 0
    completed: int = 0
    discontinued: int = 0
    expected: int = 0
    missing: int = 0


@dataclass(frozen=True)
class SourceCount:
    """What one source says about a study since its last arrival.

    Attributes:
        source: name in ``sources`` of config.json.
        state: ``open`` (to be asked, or not answered yet), ``counted``, or ``silent``: it does not know the
            study, can't be reached, or answered nonsense, which is no evidence of anything.
        instances: number of instances of the study there; 0 when it did not say.
        series: number of instances of each series there, as far as it said.
        exhausted: it was asked to send what it counts as often as is allowed, and did not.
        age: seconds since it was asked; counts while ``state`` is ``open``.
    """

    source: str
    state: Literal["open", "counted", "silent"]
    instances: int = 0
    series: Mapping[str, int] = field(default_factory=dict)
    exhausted: bool = False
    age: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """Everything that is known about one study at one moment.

    Attributes:
        silence: seconds since the last arrival, from the journal.
        associations_open: an association that sent to the study is still open.
        received: number of instances that arrived, of each series.
        steps: what MPPS say, if there are any.
        counts: what each source says that is to be asked about this study.
    """

    silence: float
    associations_open: bool
    received: Mapping[str, int]
    steps: PerformedSteps | None = None
    counts: tuple[SourceCount, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What is to be done with the study, and why.

    Attributes:
        outcome: ``wait``, ``complete``, or ``incomplete``: go on, though instances are known to be missing.
        until: for ``wait``: seconds since the last arrival at which to go on whatever is known then.
        reasons: sentences for operators; nothing identifying.
        expected: instances that there should be, by the evidence that says most; None without evidence.
        received: instances that arrived.
        missing: instances that are known to be missing.
        missing_series: instances missing of each series, as sources count them.
    """

    outcome: Outcome
    until: float
    reasons: tuple[str, ...]
    expected: int | None
    received: int
    missing: int
    missing_series: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Gap:
    """What one piece of evidence says is missing. ``hopeless``: waiting for it makes no sense."""

    missing: int
    reason: str
    hopeless: bool = False


def settled_after(evidence: Evidence, limits: Limits) -> float:
    """Seconds of silence after which the study has settled, so that counting makes sense.

    An association that stays open is waited for longer, unless every performed procedure step has ended and
    all that these reference is here: then there is nothing it could still bring.
    """
    if evidence.associations_open and not _all_steps_here(evidence.steps):
        return max(limits.quiet, limits.quiet_open)
    return limits.quiet


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Weighs the evidence on one study.

    Args:
        evidence: what is known now.
        limits: how long to wait for what.

    Returns:
        The decision. For the same evidence a longer silence never turns a study back from complete or
        incomplete to waiting.
    """
    received = sum(evidence.received.values())
    gaps = [gap for gap in (_step_gap(evidence.steps), *_count_gaps(evidence)) if gap is not None]
    missing = max((gap.missing for gap in gaps), default=0)
    settled = settled_after(evidence, limits)
    silence = _true_silence(evidence.silence, limits)

    def decision(outcome: Outcome, until: float, reasons: list[str]) -> Decision:
        return Decision(
            outcome,
            until,
            tuple(reasons),
            _expected(evidence, received, missing),
            received,
            missing,
            _missing_series(evidence),
        )

    if silence < settled:
        why = "an association that sent to it is open" if evidence.associations_open else "images arrive"
        return decision("wait", settled, [f"{why}: waits for {settled:g} s of silence"])
    reasons = [gap.reason for gap in gaps]
    limit = max(limits.wait, settled)
    if silence < limit and not all(gap.hopeless for gap in gaps):
        return decision("wait", limit, reasons)
    unanswered = [count for count in evidence.counts if count.state == "open"]
    patience = limits.answer - min((count.age for count in unanswered), default=limits.answer)
    if not gaps and patience > 0:
        names = ", ".join(count.source for count in unanswered)
        return decision("wait", silence + patience, [f"source {names} has not answered yet"])
    reasons += [f"source {count.source} gave no answer in time" for count in unanswered]
    if gaps:
        return decision("incomplete", silence, reasons)
    return decision("complete", silence, [_quiet_reason(evidence, settled), *_affirming(evidence), *reasons])


def _true_silence(silence: float, limits: Limits) -> float:
    """A clock that was set back by more than the longest quiet time would make a study wait for ever."""
    return -silence if silence < -max(limits.quiet, limits.quiet_open) else silence


def _all_steps_here(steps: PerformedSteps | None) -> bool:
    return steps is not None and steps.expected > 0 and not steps.in_progress and not steps.missing


def _step_gap(steps: PerformedSteps | None) -> _Gap | None:
    if steps is None:
        return None
    parts = []
    if steps.missing:
        parts.append(f"MPPS: {steps.missing} of {steps.expected} referenced instances are missing")
    if steps.in_progress:
        parts.append(f"MPPS: {steps.in_progress} performed procedure steps are in progress")
    return _Gap(steps.missing, "; ".join(parts)) if parts else None


def _count_gaps(evidence: Evidence) -> list[_Gap]:
    gaps = []
    for count in evidence.counts:
        missing = _missing_at(count, evidence.received)
        if missing:
            received = sum(evidence.received.values())
            more = "; it does not send them" if count.exhausted else ""
            reason = (
                f"source {count.source} counts {received + missing} instances, {missing} are missing{more}"
            )
            gaps.append(_Gap(missing, reason, count.exhausted))
    return gaps


def _missing_at(count: SourceCount, received: Mapping[str, int]) -> int:
    """Instances that a source has and we don't.

    By series where it says so: what we have of one series can't stand for what is missing of another. A
    number below ours says nothing.
    """
    if count.state != "counted":
        return 0
    by_study = count.instances - sum(received.values())
    by_series = sum(max(number - received.get(series, 0), 0) for series, number in count.series.items())
    return max(by_study, by_series, 0)


def _missing_series(evidence: Evidence) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in evidence.counts:
        for series, number in count.series.items():
            missing = number - evidence.received.get(series, 0)
            if count.state == "counted" and missing > found.get(series, 0):
                found[series] = missing
    return found


def _expected(evidence: Evidence, received: int, missing: int) -> int | None:
    steps = evidence.steps
    counted = any(count.state == "counted" for count in evidence.counts)
    return received + missing if counted or (steps is not None and steps.expected) else None


def _quiet_reason(evidence: Evidence, settled: float) -> str:
    state = "an association still open" if evidence.associations_open else "no association open"
    return f"quiet for {settled:g} s with {state}"


def _affirming(evidence: Evidence) -> list[str]:
    """What speaks for the study being whole."""
    found = []
    steps = evidence.steps
    if steps is not None:
        ended = f"{steps.completed} completed, {steps.discontinued} discontinued"
        here = f"all {steps.expected} referenced instances are here" if steps.expected else "none referenced"
        found.append(f"MPPS: {ended}; {here}")
    for count in evidence.counts:
        if count.state == "counted":
            found.append(f"source {count.source} counts no more than has arrived")
        elif count.state == "silent":
            found.append(f"source {count.source} has no evidence to give")
    return found
