"""The frame around every asset: failures are booked, and no foreign text gets through."""

from __future__ import annotations

import subprocess
import sys
from typing import NoReturn

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs import steps
from fiona_dagster.defs.housekeeping import close_ghost_runs
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.errors import PermanentError, RedcapRejected, TransientError
from fiona_dagster.operations import initialise
from fiona_dagster.transfers.context import Gateway

PLANTED = "Zyxomma^Quillfeather"
Booked = tuple[str, str, bool]
studies = dg.DynamicPartitionsDefinition(name="studies")


@pytest.fixture
def gateway(root: DataRoot) -> GatewayResource:
    initialise(root)
    return GatewayResource(data_root=str(root.path))


def run(gateway: GatewayResource, error: Exception | None) -> tuple[dg.ExecuteInProcessResult, list[Booked]]:
    booked: list[Booked] = []

    def body(_: Gateway, study: str) -> steps.StepResult:
        if error is not None:
            raise error
        return steps.StepResult({"instances": 3}, study)

    def on_failure(_: Gateway, study: str, message: str, permanent: bool) -> None:
        booked.append((study, message, permanent))

    def step(context: dg.AssetExecutionContext) -> steps.Events:
        yield from steps.run_studies(context, gateway, body, on_failure)

    step.__annotations__ = {"context": dg.AssetExecutionContext}
    made = dg.asset(name="step", partitions_def=studies)(step)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("studies", ["1.2"])
        result = dg.materialize([made], partition_key="1.2", instance=instance, raise_on_error=False)
        texts = [str(record) for record in instance.all_logs(result.run_id)]
    assert PLANTED not in "".join(texts)
    return result, booked


def test_a_success_carries_its_metadata(gateway: GatewayResource) -> None:
    result, booked = run(gateway, None)
    assert result.success
    assert booked == []
    (event,) = result.asset_materializations_for_node("step")
    assert event.metadata["instances"].value == 3


@pytest.mark.parametrize("tags", [{}, {"dagster/partition": "9.9"}])
def test_a_run_for_no_known_study_says_what_to_do(gateway: GatewayResource, tags: dict[str, str]) -> None:
    def never(*_: object) -> NoReturn:
        pytest.fail("nothing is done for no study")

    def step(context: dg.AssetExecutionContext) -> steps.Events:
        yield from steps.run_studies(context, gateway, body=never, on_failure=never)

    step.__annotations__ = {"context": dg.AssetExecutionContext}
    made = dg.asset(name="step", partitions_def=studies)(step)
    job = dg.Definitions([made], jobs=[dg.define_asset_job("by_hand", [made])]).resolve_job_def("by_hand")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("studies", ["1.2"])
        result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "`fiona launch --study UID [--project P]` says what is missing" in str(failure.step_failure_data)


def test_the_text_of_a_foreign_exception_is_withheld(gateway: GatewayResource) -> None:
    result, booked = run(gateway, ValueError(f"can't convert {PLANTED}"))
    assert not result.success
    ((study, message, permanent),) = booked
    assert study == "1.2"
    assert "ValueError" in str(message)
    assert PLANTED not in str(message)
    assert permanent is False


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (PermanentError("no"), True),
        (TransientError("wait"), False),
        (RedcapRejected("this record is locked"), True),
        (RedcapRejected("no rights", 403, whole=True), False),  # they come back, and nobody tells us
    ],
)
def test_what_can_pass_and_what_cannot(gateway: GatewayResource, error: Exception, permanent: bool) -> None:
    _, booked = run(gateway, error)
    assert booked == [("1.2", str(error), permanent)]


def test_a_run_is_alive_as_long_as_its_process(root: DataRoot) -> None:
    assert not steps.run_is_alive(root, "r1")
    code = (
        "import pathlib; from fiona_dagster.config import DataRoot; from fiona_dagster.defs import steps;"
        f"steps.hold_run(DataRoot(pathlib.Path({str(root.path)!r})), 'r1');"
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert steps.run_is_alive(root, "r1")
        holder.kill()
        holder.wait()
    assert not steps.run_is_alive(root, "r1")


def test_ghost_runs_are_closed_at_start(root: DataRoot) -> None:
    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        assert close_ghost_runs(instance, root, at_start=False) == 0, "a young run may just be starting"
        assert close_ghost_runs(instance, root, at_start=True) == 1
        closed = instance.get_run_by_id(run.run_id)
        assert closed is not None
        assert closed.status == dg.DagsterRunStatus.FAILURE
