"""How an asset runs a step of the domain: per study, with failures booked and nothing identifying said.

Belongs here: the frame around every asset's body. Stays out: the bodies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.errors import FionaError, is_permanent
from fiona_dagster.transfers.context import Gateway


@dataclass(frozen=True)
class StepResult:
    """What a step tells Dagster about one study: counts, digests and tables; nothing identifying.

    Attributes:
        metadata: shown with the materialisation.
        data_version: tells results apart.
        checks: results of asset checks.
        waits: nothing was made and nothing failed, since a person has to decide first: why.
    """

    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_version: str | None = None
    checks: tuple[dg.AssetCheckResult, ...] = ()
    waits: str = ""


Body = Callable[[Gateway, str], StepResult]
OnFailure = Callable[[Gateway, str, str, bool], None]
Events = Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]
OnStopped = Callable[[Gateway, list[str]], object]
Finish = Callable[[Gateway, list[str]], Mapping[str, FionaError]]

_held_runs: dict[str, int] = {}


def run_lock_file(root: DataRoot, run_id: str) -> Path:
    """The file that a living run holds a flock on."""
    return root.dagster_home / "run-locks" / run_id


def hold_run(root: DataRoot, run_id: str) -> None:
    """Marks the run as alive for as long as this process lives; a kill releases the mark."""
    if run_id in _held_runs:
        return
    path = run_lock_file(root, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    _held_runs[run_id] = descriptor


def run_is_alive(root: DataRoot, run_id: str) -> bool:
    """Whether a process holds the run's mark."""
    try:
        descriptor = os.open(run_lock_file(root, run_id), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def run_studies(
    context: dg.AssetExecutionContext,
    resource: GatewayResource,
    body: Body,
    on_failure: OnFailure,
    on_stopped: OnStopped | None = None,
    *,
    finish: Finish | None = None,
) -> Events:
    """Runs ``body`` for every study of this run; each that succeeds is materialised exactly once.

    One study: its result is the asset's. Several (a backfill): when all succeed Dagster logs a
    materialisation for each at the end, so nothing may be logged before; when some fail those that
    succeeded are logged here and one ``Failure`` names the others, so that exactly these show as failed.
    A study that waits for a person is not materialised; its asset must have ``output_required=False``.

    Args:
        context: Dagster's.
        resource: opens the gateway.
        body: the work on one study.
        on_failure: books a study that failed.
        on_stopped: called with the studies that succeeded although the step failed: Dagster won't run
            the later steps of this run for them.
        finish: what is done for all studies together whose body succeeded (a call to a peer that takes
            many at once); says which of them failed.

    Yields:
        What Dagster is to log; assets ``yield from`` it, since what is logged by the context of a step that
        fails is lost.

    Raises:
        dagster.Failure: a study failed; the message holds nothing identifying.
    """
    hold_run(resource.root, context.run.run_id)
    failures: dict[str, tuple[str, bool]] = {}
    results: dict[str, StepResult] = {}
    waiting = False
    studies = _studies_of(context)
    for study in studies:
        outcome, result = _attempt(resource, body, on_failure, study)
        if outcome is not None:
            failures[study] = outcome
        elif result.waits:
            waiting = True
            context.log.warning(result.waits)
        else:
            results[study] = result
    failures |= _finished(resource, finish, on_failure, results)
    many = len(studies) > 1
    if failures or waiting:
        for study, result in results.items():
            yield _materialization(context, study, result)
    if failures:
        if results and on_stopped:
            with resource.open() as gateway:
                on_stopped(gateway, list(results))
        raise dg.Failure(
            "; ".join(f"{study}: {message}" if many else message for study, (message, _) in failures.items()),
            allow_retries=not all(permanent for _, permanent in failures.values()),
        )
    if waiting:
        return
    if many:
        for study, result in results.items():
            context.add_asset_metadata(dict(result.metadata), partition_key=study)
        yield dg.MaterializeResult(
            asset_key=context.asset_key,
            data_version=_common_version(results),
            check_results=_common_checks(results),
        )
        return
    (result,) = results.values()
    yield dg.MaterializeResult(
        asset_key=context.asset_key,
        metadata=dict(result.metadata),
        data_version=dg.DataVersion(result.data_version) if result.data_version else None,
        check_results=list(result.checks),
    )


def _studies_of(context: dg.AssetExecutionContext) -> list[str]:
    try:
        return list(context.partition_keys)
    except dg.DagsterError:
        raise dg.Failure(
            "this run names no study that is listed here: it takes one that arrived and, for a project, was "
            "requested; `fiona launch --study UID [--project P]` says what is missing",
            allow_retries=False,
        ) from None


def _materialization(
    context: dg.AssetExecutionContext, study: str, result: StepResult
) -> dg.AssetMaterialization:
    """What Dagster would log, with the tags that it compares to see what is out of date."""
    tags = {}
    if result.data_version:
        tags = {"dagster/data_version": result.data_version, "dagster/data_version_is_user_provided": "true"}
    code_version = context.assets_def.code_versions_by_key.get(context.asset_key)
    if code_version:
        tags["dagster/code_version"] = code_version
    return dg.AssetMaterialization(
        context.asset_key, partition=study, metadata=dict(result.metadata), tags=tags
    )


def _common_version(results: Mapping[str, StepResult]) -> dg.DataVersion | None:
    """Dagster takes one data version for all studies of a run: a digest over theirs."""
    versions = [f"{study}={result.data_version}" for study, result in sorted(results.items())]
    if not all(result.data_version for result in results.values()):
        return None
    return dg.DataVersion(hashlib.sha256("\n".join(versions).encode()).hexdigest()[:32])


def _common_checks(results: Mapping[str, StepResult]) -> list[dg.AssetCheckResult]:
    """One result for each check over all studies: those that failed are named, numbers added up."""
    found: dict[str, dict[str, dg.AssetCheckResult]] = {}
    for study, result in results.items():
        for check in result.checks:
            found.setdefault(check.check_name or "", {})[study] = check
    return [_common_check(name, checks) for name, checks in found.items()]


def _common_check(name: str, checks: Mapping[str, dg.AssetCheckResult]) -> dg.AssetCheckResult:
    numbers: Counter[str] = Counter()
    for check in checks.values():
        for key, value in check.metadata.items():
            if isinstance(value, dg.IntMetadataValue):
                numbers[key] += value.value or 0
    metadata: dict[str, Any] = {"studies": len(checks), **numbers}
    failed = {study: check for study, check in checks.items() if not check.passed}
    if failed:
        metadata["failed_for"] = dg.MetadataValue.md("\n".join(f"- {study}" for study in failed))
    grave = any(check.severity == dg.AssetCheckSeverity.ERROR for check in failed.values())
    return dg.AssetCheckResult(
        check_name=name or None,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if grave else dg.AssetCheckSeverity.WARN,
        metadata=metadata,
    )


def _attempt(
    resource: GatewayResource, body: Body, on_failure: OnFailure, study: str
) -> tuple[tuple[str, bool] | None, StepResult]:
    """One study: (message, permanent) of a failure or None, and the result.

    The exception ends here, so that Dagster stores neither it nor what it was raised from: exceptions of
    libraries quote the values that they choke on.
    """
    message, permanent = "", False
    try:
        with warnings.catch_warnings(), resource.open() as gateway:
            warnings.simplefilter("ignore")  # libraries quote element values in their warnings
            return None, body(gateway, study)
    except FionaError as error:
        message, permanent = str(error), is_permanent(error)
    except Exception as error:  # noqa: BLE001 - a run must fail with a message that is fit to be stored
        message, permanent = describe_foreign(error), False
    with resource.open() as gateway:
        on_failure(gateway, study, message, permanent)
    return (message, permanent), StepResult()


def _finished(
    resource: GatewayResource,
    finish: Finish | None,
    on_failure: OnFailure,
    results: dict[str, StepResult],
) -> dict[str, tuple[str, bool]]:
    """(message, permanent) of every study that failed when they were finished together; it has no result."""
    studies = list(results)
    if finish is None or not studies:
        return {}
    try:
        with warnings.catch_warnings(), resource.open() as gateway:
            warnings.simplefilter("ignore")
            failed = finish(gateway, studies)
            outcomes = {study: (str(error), is_permanent(error)) for study, error in failed.items()}
    except FionaError as error:
        outcomes = dict.fromkeys(studies, (str(error), is_permanent(error)))
    except Exception as error:  # noqa: BLE001 - as in _attempt
        outcomes = dict.fromkeys(studies, (describe_foreign(error), False))
    with resource.open() as gateway:
        for study, (message, permanent) in outcomes.items():
            del results[study]
            on_failure(gateway, study, message, permanent)
    return outcomes


def describe_foreign(error: BaseException) -> str:
    """Type and place of an unexpected exception, without its text, which may quote patient data."""
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    ours = [frame for frame in frames if "fiona_dagster" in frame.filename] or list(frames)
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "unknown place"
    return (
        f"{type(error).__name__} at {where}; its text is withheld since it may quote patient data. "
        "Run the step again; if it fails again report type and place"
    )
