"""When a study is complete: the rules that weigh the evidence."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.studies import Evidence, Limits, PerformedSteps, SourceCount, decide, settled_after

LIMITS = Limits(quiet=16, quiet_open=600, wait=3600, answer=120)
HERE = {"1.1": 60, "1.2": 20}


def known(silence: float, **more: Any) -> Evidence:
    return Evidence(silence, more.pop("open_", False), more.pop("received", HERE), **more)


def counted(instances: int = 0, /, **series: int) -> SourceCount:
    return SourceCount("pacs", "counted", instances, {key.replace("_", "."): n for key, n in series.items()})


@pytest.mark.parametrize(
    ("silence", "connected", "expected"),
    [
        (0, False, "wait"),
        (15.9, False, "wait"),
        (16, False, "complete"),
        (16, True, "wait"),
        (599, True, "wait"),
        (600, True, "complete"),
        (-5, False, "wait"),
        (-599, False, "wait"),
        (-100_000, True, "complete"),  # the clock was set back by that much
    ],
)
def test_without_other_evidence_silence_and_open_associations_decide(
    silence: float, connected: bool, expected: str
) -> None:
    assert decide(known(silence, open_=connected), LIMITS).outcome == expected


def test_missing_instances_of_a_performed_step_are_waited_for_up_to_the_limit() -> None:
    steps = PerformedSteps(completed=1, expected=100, missing=20)

    waiting = decide(known(3599, steps=steps), LIMITS)
    assert (waiting.outcome, waiting.until) == ("wait", 3600)

    gone_on = decide(known(3600, steps=steps), LIMITS)
    assert (gone_on.outcome, gone_on.expected, gone_on.received, gone_on.missing) == (
        "incomplete",
        100,
        80,
        20,
    )
    assert gone_on.reasons == ("MPPS: 20 of 100 referenced instances are missing",)


def test_a_step_in_progress_is_waited_for_even_if_nothing_is_known_to_be_missing() -> None:
    steps = PerformedSteps(in_progress=1, completed=1, expected=80)

    assert decide(known(100, steps=steps), LIMITS).outcome == "wait"
    gone_on = decide(known(3600, steps=steps), LIMITS)
    assert (gone_on.outcome, gone_on.missing) == ("incomplete", 0)
    assert gone_on.reasons == ("MPPS: 1 performed procedure steps are in progress",)


def test_a_discontinued_step_is_an_end_like_another() -> None:
    decision = decide(known(16, steps=PerformedSteps(discontinued=1, expected=30)), LIMITS)

    assert decision.outcome == "complete"
    assert "MPPS: 0 completed, 1 discontinued; all 30 referenced instances are here" in decision.reasons


def test_an_open_association_is_not_waited_for_when_all_that_steps_reference_is_here() -> None:
    whole = PerformedSteps(completed=2, expected=80)

    assert settled_after(known(0, open_=True, steps=whole), LIMITS) == 16
    for steps in (
        dataclasses.replace(whole, missing=1),
        dataclasses.replace(whole, in_progress=1),
        PerformedSteps(completed=1),  # references nothing: says nothing
        None,
    ):
        assert settled_after(known(0, open_=True, steps=steps), LIMITS) == 600


def test_a_source_is_waited_for_only_so_long_once_it_was_asked() -> None:
    def asked(age: float) -> SourceCount:
        return SourceCount("pacs", "open", age=age)

    assert decide(known(16, counts=(asked(0),)), LIMITS).until == 136
    # FIONA was down for a day: it is asked all the same.
    assert decide(known(86400, counts=(asked(119),)), LIMITS).until == 86401
    late = decide(known(136, counts=(asked(120),)), LIMITS)
    assert late.outcome == "complete"
    assert "source pacs gave no answer in time" in late.reasons


def test_a_source_that_counts_more_makes_it_wait_and_then_marks_it() -> None:
    evidence = known(16, counts=(counted(95),))

    assert decide(evidence, LIMITS).outcome == "wait"
    gone_on = decide(dataclasses.replace(evidence, silence=3600), LIMITS)
    assert (gone_on.outcome, gone_on.expected, gone_on.missing) == ("incomplete", 95, 15)
    assert gone_on.reasons == ("source pacs counts 95 instances, 15 are missing",)


@pytest.mark.parametrize(
    "count",
    [
        counted(80),
        counted(79),
        counted(**{"1_1": 60}),
        SourceCount("pacs", "silent", 999),
        counted(60, **{"1_1": 3}),
    ],
)
def test_a_source_that_counts_no_more_or_says_nothing_holds_nothing_up(count: SourceCount) -> None:
    assert decide(known(16, counts=(count,)), LIMITS).outcome == "complete"


def test_what_we_have_of_one_series_does_not_stand_for_what_is_missing_of_another() -> None:
    """The source has 70 and 10, we have 60 and 20: the sums are equal."""
    decision = decide(known(3600, counts=(counted(80, **{"1_1": 70, "1_2": 10}),)), LIMITS)

    assert (decision.outcome, decision.missing, decision.missing_series) == ("incomplete", 10, {"1.1": 10})


def test_a_source_that_does_not_send_what_it_counts_is_not_waited_for() -> None:
    count = dataclasses.replace(counted(95), exhausted=True)
    decision = decide(known(16, counts=(count,)), LIMITS)

    assert decision.outcome == "incomplete"
    assert decision.reasons == ("source pacs counts 95 instances, 15 are missing; it does not send them",)
    # Another gap is still waited for.
    steps = PerformedSteps(completed=1, expected=100, missing=20)
    assert decide(known(16, counts=(count,), steps=steps), LIMITS).outcome == "wait"


series = st.dictionaries(st.sampled_from(["1.1", "1.2", "1.3"]), st.integers(0, 50))
steps_ = st.none() | st.builds(
    PerformedSteps,
    in_progress=st.integers(0, 2),
    completed=st.integers(0, 2),
    discontinued=st.integers(0, 2),
    expected=st.integers(10, 100),
    missing=st.integers(0, 10),
)
counts_ = st.lists(
    st.builds(
        SourceCount,
        source=st.sampled_from(["a", "b"]),
        state=st.sampled_from(["open", "counted", "silent"]),
        instances=st.integers(0, 200),
        series=series,
        exhausted=st.booleans(),
        age=st.integers(0, 100),
    ),
    max_size=2,
).map(tuple)
limits_ = st.builds(
    Limits,
    quiet=st.integers(1, 50),
    quiet_open=st.integers(1, 50),
    wait=st.integers(1, 90),
    answer=st.integers(1, 50),
)
evidence_ = st.builds(
    Evidence,
    silence=st.integers(0, 300),
    associations_open=st.booleans(),
    received=series,
    steps=steps_,
    counts=counts_,
)


@given(evidence_, limits_, st.integers(0, 300))
def test_more_silence_never_turns_a_study_back_to_waiting(
    evidence: Evidence, limits: Limits, more: int
) -> None:
    before = decide(evidence, limits)
    after = decide(dataclasses.replace(evidence, silence=evidence.silence + more), limits)

    if before.outcome != "wait":
        assert after.outcome == before.outcome


@given(evidence_, limits_)
def test_no_study_waits_for_ever_and_none_goes_on_before_it_is_quiet(
    evidence: Evidence, limits: Limits
) -> None:
    decision = decide(evidence, limits)

    answered = tuple(dataclasses.replace(count, age=1000) for count in evidence.counts)
    late = dataclasses.replace(evidence, silence=1000, counts=answered)
    assert decide(late, limits).outcome != "wait"
    if decision.outcome == "wait":
        assert evidence.silence < decision.until
        at_the_end = decide(dataclasses.replace(evidence, silence=decision.until), limits)
        assert at_the_end.outcome != "wait" or at_the_end.until > decision.until
    else:
        assert evidence.silence >= limits.quiet


@given(evidence_, limits_)
def test_numbers_and_outcome_agree_and_every_decision_has_a_reason(
    evidence: Evidence, limits: Limits
) -> None:
    decision = decide(evidence, limits)

    assert decision.reasons
    assert decision.received == sum(evidence.received.values())
    if decision.missing:
        assert decision.expected == decision.received + decision.missing
    if decision.outcome == "complete":
        assert decision.missing == 0
