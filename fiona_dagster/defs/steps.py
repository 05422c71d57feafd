"""How an asset runs a step of the domain: per study, with failures booked and nothing identifying said.

Belongs here: the frame around every asset's body. Stays out: the bodies.
"""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from fiona_dagster.config import DataRoot
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.errors import FionaError, PermanentError
from fiona_dagster.transfers.context import Gateway


@dataclass(frozen=True)
class StepResult:
    """What a step tells Dagster about one study: counts, digests and tables; nothing identifying."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    data_version: str | None = None
    checks: tuple[dg.AssetCheckResult, ...] = ()


Body = Callable[[Gateway, str], StepResult]
OnFailure = Callable[[Gateway, str, str, bool], None]

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
) -> dg.MaterializeResult[Any]:
    """Runs ``body`` for every study of this run.

    One study: its result is the asset's. Several (a backfill): each success is logged as it happens and
    one ``Failure`` at the end names the studies that failed, so that exactly these show as failed.

    Raises:
        dagster.Failure: a study failed; the message holds nothing identifying.
    """
    hold_run(resource.root, context.run.run_id)
    failures: list[str] = []
    permanent = True
    result = StepResult()
    many = len(context.partition_keys) > 1
    for study in context.partition_keys:
        outcome, result = _attempt(resource, body, on_failure, study)
        if outcome is not None:
            failures.append(f"{study}: {outcome[0]}" if many else outcome[0])
            permanent = permanent and outcome[1]
        elif many:
            context.log_event(
                dg.AssetMaterialization(context.asset_key, partition=study, metadata=dict(result.metadata))
            )
    if failures:
        raise dg.Failure("; ".join(failures), allow_retries=not permanent)
    if many:
        return dg.MaterializeResult(asset_key=context.asset_key)
    return dg.MaterializeResult(
        asset_key=context.asset_key,
        metadata=dict(result.metadata),
        data_version=dg.DataVersion(result.data_version) if result.data_version else None,
        check_results=list(result.checks),
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
        message, permanent = str(error), isinstance(error, PermanentError)
    except Exception as error:  # noqa: BLE001 - a run must fail with a message that is fit to be stored
        message, permanent = describe_foreign(error), False
    with resource.open() as gateway:
        on_failure(gateway, study, message, permanent)
    return (message, permanent), StepResult()


def describe_foreign(error: BaseException) -> str:
    """Type and place of an unexpected exception, without its text, which may quote patient data."""
    frames = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])
    ours = [frame for frame in frames if "fiona_dagster" in frame.filename] or list(frames)
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "unknown place"
    return (
        f"{type(error).__name__} at {where}; its text is withheld since it may quote patient data. "
        "Run the step again; if it fails again report type and place"
    )
