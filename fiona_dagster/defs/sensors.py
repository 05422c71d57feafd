"""Sensors: they ask the ledger what is due and launch it. Level-triggered: no event has to be seen.

Belongs here: turning due work into run requests. Stays out: what makes work due (``ledger.work``,
``transfers``).
"""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets, sensors and ops.

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from fiona_dagster.config import configuration_digest, sending_enabled
from fiona_dagster.defs import intake, project
from fiona_dagster.defs.partitions import project_set, project_studies, studies
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.errors import (
    ConfigurationError,
    FionaError,
    RedcapRejected,
    RedcapUnavailable,
    is_permanent,
)
from fiona_dagster.ledger import Kind, StudyAssignment, Work
from fiona_dagster.transfers import (
    assignment,
    completion,
    delivery,
    outage,
    outcome,
    projects,
    promises,
    release,
    requests,
)
from fiona_dagster.transfers.context import Gateway

TICK_SECONDS = 5
RUNS_A_TICK = 25
WORK_TAG = "fiona/work"
ATTEMPT_TAG = "fiona/attempt"
OBSERVED_A_TICK = 200
"""Studies whose page is told what automatic assignment made of them; the ledger has them all."""
POLLED = "redcap_polled"
PATIENCE_SECONDS = 5.0
"""A REDCap that does not answer for so long is asked again at the next poll, not in the same tick: transfers
and deliveries are launched by the same sensor, and Dagster ends a tick that lasts too long."""
CONFIGURED = "configuration_digest"


def _tags(work: Work) -> dict[str, str]:
    return {
        "fiona/kind": work.kind,
        WORK_TAG: work.key,
        ATTEMPT_TAG: str(work.attempt),
    }


def _requests_of(
    gateway: Gateway, kind: Kind, job: str | None, known: Mapping[str, Collection[str]]
) -> list[tuple[Work, dg.RunRequest]]:
    """Run requests for due work of one kind.

    Args:
        gateway: the open gateway.
        kind: the kind of work.
        job: its job; None: the job of the work's project.
        known: the targets of each project that have an asset here. Work of others stays due: its project
            file is gone, or new and not loaded yet.
    """
    asked = {(found.study, found.project) for found in gateway.ledger.withdrawals.all("asked")}

    def loaded(work: Work) -> bool:
        if kind == "deliver" and (work.study, work.project) in asked:
            return False  # a person decides first whether it was withdrawn
        targets = known.get(work.project)
        if work.project and (targets is None or (work.target and work.target not in targets)):
            return False
        if kind == "status" or (kind == "process" and work.attempt > 1):
            return not away or outage.may_try(gateway.ledger, kind)
        return work.target not in down or tries(work)

    away = outage.outage(gateway.ledger) is not None
    down = {circuit.target: circuit for circuit in gateway.ledger.circuits.opened()}
    probes: dict[str, str] = {}

    def tries(work: Work) -> bool:
        """One delivery at a time tries a target that is down."""
        if work.target in probes or not gateway.ledger.circuits.may_probe(down[work.target]):
            return False
        probes[work.target] = work.key
        gateway.ledger.circuits.probing(work.target, work.key)
        return True

    found = []
    for work in gateway.ledger.work.due(kind, RUNS_A_TICK, loaded):
        selection = None
        name = job or project.transfer_job_name(work.project)
        if kind == "transfer" and release.still_waits(gateway, work):
            continue
        if kind == "transfer" and release.only_package(gateway, work):
            selection = [project.package_key(work.project)]
        if kind == "deliver":
            name, selection = (
                project.deliver_job_name(work.project),
                [project.target_key(work.project, work.target)],
            )
        elif kind == "status":
            name, selection = project.deliver_job_name(work.project), [project.status_key(work.project)]
        request = dg.RunRequest(
            run_key=work.run_key,
            job_name=name,
            partition_key=work.study,
            tags=_tags(work),
            asset_selection=selection,
        )
        found.append((work, request))
    return found


def _launch(
    gateway: Gateway,
    context: dg.SensorEvaluationContext,
    found: Sequence[tuple[Work, dg.RunRequest]],
    idle: str,
    observed: Sequence[dg.AssetObservation] = (),
) -> dg.SensorResult:
    """Adds the partition keys that are missing and asks for the runs; shows what was observed."""
    keys: dict[str, set[str]] = {}
    for work, _ in found:
        keys.setdefault(project_set(work.project) if work.project else studies.name or "", set()).add(
            work.study
        )
    additions = []
    for name, wanted in sorted(keys.items()):
        missing = sorted(key for key in wanted if not context.instance.has_dynamic_partition(name, key))
        if missing:
            definition = studies if name == studies.name else project_studies(name.split("_", 1)[1])
            additions.append(definition.build_add_request(missing))
    for work, _ in found:
        gateway.ledger.work.requested(work.key)
    return dg.SensorResult(
        run_requests=[request for _, request in found],
        dynamic_partitions_requests=additions,
        skip_reason=None if found else dg.SkipReason(idle),
        asset_events=list(observed),
    )


def _refresh_configuration(gateway: Gateway) -> None:
    """A changed configuration may have cured what was blocked: everything blocked gets a new chance."""
    digest = configuration_digest(gateway.root)
    if gateway.ledger.store.fact(CONFIGURED) != digest:
        gateway.ledger.work.unblock()
        gateway.ledger.circuits.trust_again()
        gateway.ledger.store.remember(CONFIGURED, digest)


@dg.sensor(
    job_name=intake.JOB,
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Finds studies that are complete and launches process_study for them.",
)
def completed_studies(context: dg.SensorEvaluationContext, gateway: GatewayResource) -> dg.SensorResult:
    """Weighs what is known of every study that images came for; what is complete is processed."""
    with gateway.open() as opened:
        _refresh_configuration(opened)
        completion.find_complete_studies(opened)
        found = _requests_of(opened, "process", intake.JOB, {})
        return _launch(opened, context, found, "no complete study")


def transfer_requests_sensor(
    known: Mapping[str, Collection[str]], jobs: Sequence[Any]
) -> dg.SensorDefinition:
    """The sensor that polls REDCap and launches transfers, deliveries and write-backs.

    Args:
        known: the targets of each project.
        jobs: everything that it may launch.
    """

    @dg.sensor(
        name="transfer_requests",
        jobs=list(jobs),
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Polls REDCap for requests; launches transfers, deliveries and write-backs that are due.",
    )
    def transfer_requests(context: dg.SensorEvaluationContext, gateway: GatewayResource) -> dg.SensorResult:
        with gateway.open() as opened:
            opened.redcap_patience = PATIENCE_SECONDS
            said, observed = _poll(opened, context)
            for problem in delivery.settle(opened).problems:
                context.log.warning(f"packages wait: {problem}")
            promises.take_answers(opened)
            _answer_unknown_projects(opened, context, known)
            sending = sending_enabled(opened.root)
            if not sending:
                waiting = sum(work.kind == "deliver" for work in opened.ledger.work.open())
                said = f"sending is held (config/enabled), {waiting} deliveries wait; {said}"
            found = [
                *_requests_of(opened, "transfer", None, known),
                *(_requests_of(opened, "deliver", None, known) if sending else []),
                *_requests_of(opened, "status", None, known),
            ]
            return _launch(opened, context, found, said, observed)

    return transfer_requests


def _answer_unknown_projects(
    gateway: Gateway, context: dg.SensorEvaluationContext, known: Collection[str]
) -> None:
    """A project that is not here has no job that could write the refusal: it is written here."""
    for work in gateway.ledger.work.due("status", RUNS_A_TICK, lambda work: work.project not in known):
        try:
            outcome.write_outcomes(gateway, work.study, work.project)
        except FionaError as error:
            gateway.ledger.work.failed(work.key, str(error), permanent=is_permanent(error))
            context.log.warning(f"REDCap: {error}")
            if isinstance(error, RedcapUnavailable):
                return  # the others would wait for it as long


def _poll(gateway: Gateway, context: dg.SensorEvaluationContext) -> tuple[str, list[dg.AssetObservation]]:
    """Asks REDCap when its time has come; a REDCap that is down delays requests and nothing else.

    Returns:
        What there is to say, and what automatic assignment made of studies.
    """
    now = datetime.now(UTC)
    last = gateway.ledger.store.fact(POLLED)
    if last:
        age = (now - datetime.fromisoformat(last)).total_seconds()
        if 0 <= age < gateway.settings.redcap.poll_seconds:  # a time to come: the clock was set back since
            return "nothing due", []
    gateway.ledger.store.remember(POLLED, now.isoformat())
    if not gateway.settings.redcap.url:
        return "no REDCap is configured; requests can't be read", []
    observed: list[dg.AssetObservation] = []
    try:
        observed = _assign(gateway, context)
        if (datetime.now(UTC) - now).total_seconds() > gateway.settings.redcap.timeout_seconds:
            raise RedcapUnavailable("it did not answer in time about the tables")
        poll = requests.poll_requests(gateway)
    except ConfigurationError:
        raise
    except FionaError as error:
        # counted from here: ticks without it come in between, however long it kept this one waiting
        gateway.ledger.store.remember(POLLED, datetime.now(UTC).isoformat())
        if isinstance(error, RedcapUnavailable | RedcapRejected):
            outage.began(gateway.ledger, str(error))
        context.log.warning(f"REDCap: {error}")
        return f"REDCap was not read: {error}", observed
    outage.ended(gateway.ledger)
    if poll.report_only:
        said = (
            f"report only: REDCap has {poll.foreign} transfers that another system finished; "
            "look at `fiona adopt --report`, then run `fiona adopt`"
        )
        context.log.warning(said)
        return said, observed
    if poll.accepted or poll.refused:
        context.log.info(
            f"requests: {len(poll.accepted)} accepted, {len(poll.refused)} refused, {poll.waiting} waiting"
        )
    if poll.withdrawn:
        context.log.info(f"requests: {len(poll.withdrawn)} withdrawn")
    if poll.asked:
        context.log.warning(f"{poll.asked} withdrawals wait for a decision: fiona withdrawals")
    what = "requests" if poll.complete else "changed requests"
    said = f"{poll.open} {what}, {poll.waiting} waiting, {poll.foreign} finished elsewhere; nothing due"
    return said, observed


def _assign(gateway: Gateway, context: dg.SensorEvaluationContext) -> list[dg.AssetObservation]:
    """Has held studies assigned by the tables; requests that are made so are taken up by the same poll.

    What stops it (a table that can't be read, an opt-out list that is missing) does not stop requests.
    """
    try:
        projects.refresh(gateway)
        done = assignment.assign_held(gateway)
    except FionaError as error:
        context.log.warning(f"no study is assigned without a person: {error}")
        return []
    if done.asked:
        context.log.info(f"{done.asked} studies assigned without a person")
    return [_observation(found) for found in done.changed[:OBSERVED_A_TICK]]


def _observation(found: StudyAssignment) -> dg.AssetObservation:
    """Where a held study stands, for its page; nothing identifying."""
    return dg.AssetObservation(
        asset_key="incoming_record",
        partition=found.study,
        description=found.reason or None,
        metadata={
            "assignment": _ASSIGNMENTS[found.state],
            **({"by": _WAYS[found.way]} if found.way else {}),
            **({"project": found.project} if found.project else {}),
            **({"reason": found.reason} if found.reason else {}),
        },
    )


_ASSIGNMENTS = {
    "asked": "a request was written to REDCap",
    "requested": "a request is in REDCap",
    "waiting": "held for a person",
    "opted_out": "held: the person opted out",
}
_WAYS = {
    "coupling": "coupling list",
    "routing": "routing rule",
    "autoid": "automatic participant id",
    "derived": "the study that it was made of",
}


@dg.run_failure_sensor(
    name="run_failures",
    minimum_interval_seconds=TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Books runs that could not book themselves (killed workers), so that they are tried again.",
)
def run_failures(context: dg.RunFailureSensorContext, gateway: GatewayResource) -> None:
    """A run that failed by its own step was booked there; this is for those that could not speak any more."""
    run = context.dagster_run
    key, attempt = run.tags.get(WORK_TAG), run.tags.get(ATTEMPT_TAG)
    if not key or not attempt or run.tags.get("dagster/will_retry") == "true":
        return
    with gateway.open() as opened:
        opened.ledger.work.failed(
            key,
            "the run ended without a result (killed, or never started)",
            permanent=False,
            attempt=int(attempt),
        )
