"""What the sensors launch: due work that the loaded definitions can carry out."""

from __future__ import annotations

from datetime import datetime

import dagster as dg
import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.defs import sensors
from fiona_dagster.defs.resources import GatewayResource
from fiona_dagster.defs.sensors import POLLED, transfer_requests_sensor
from fiona_dagster.ledger import circuits, utc_after, utc_now
from fiona_dagster.operations import initialise
from fiona_dagster.transfers import outage


@pytest.fixture
def gateway(root: DataRoot) -> GatewayResource:
    initialise(root)
    return GatewayResource(data_root=str(root.path))


def tick(gateway: GatewayResource, known: dict[str, list[str]]) -> list[dg.RunRequest]:
    @dg.job
    def nothing() -> None: ...

    sensor = transfer_requests_sensor(known, [nothing])
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance)
        result = sensor(context, gateway=gateway)
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or [])


def test_a_target_or_project_that_is_not_loaded_yet_waits(gateway: GatewayResource) -> None:
    """A project file is edited seconds before the code location is loaded anew."""
    with gateway.open() as opened:
        for project, target in (("P", "old"), ("P", "new"), ("Q", "old")):
            opened.ledger.work.need("deliver", "1.2", 1, project=project, target=target)

    found = tick(gateway, {"P": ["old"]})

    assert [request.asset_selection for request in found] == [[dg.AssetKey(["P", "deliveries", "old"])]]
    assert found[0].job_name == "deliver_P"
    assert found[0].partition_key == "1.2"
    assert {r.tags["fiona/work"] for r in tick(gateway, {"P": ["old", "new"], "Q": ["old"]})} == {
        "deliver:1.2:P:new",
        "deliver:1.2:Q:old",
    }


def test_a_launched_work_is_not_launched_twice(gateway: GatewayResource) -> None:
    with gateway.open() as opened:
        opened.ledger.work.need("transfer", "1.2", 1, project="P")

    assert len(tick(gateway, {"P": []})) == 1
    assert tick(gateway, {"P": []}) == []


def test_held_deliveries_are_not_launched_and_go_on_by_themselves(
    root: DataRoot, gateway: GatewayResource
) -> None:
    with gateway.open() as opened:
        opened.ledger.work.need("deliver", "1.2", 1, project="P", target="archive")
        opened.ledger.work.need("transfer", "1.3", 1, project="P")
    root.enabled_file.write_text("110")

    assert [request.job_name for request in tick(gateway, {"P": ["archive"]})] == ["transfer_P"]
    assert tick(gateway, {"P": ["archive"]}) == []

    root.enabled_file.write_text("111")
    assert [request.job_name for request in tick(gateway, {"P": ["archive"]})] == ["deliver_P"]


def test_a_dead_target_is_tried_by_one_delivery_and_holds_up_nothing_else(
    gateway: GatewayResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a study whose delivery waits for a person."""
    studies = ["1.2", "1.3", "1.4", "1.5"]
    with gateway.open() as opened:
        for study in studies:
            opened.ledger.work.need("deliver", study, 1, project="P", target="dead")
            opened.ledger.work.need("deliver", study, 1, project="P", target="archive")
            opened.ledger.work.need("transfer", study, 1, project="Q")
        opened.ledger.work.failed("deliver:1.2:P:archive", "host key changed", permanent=True)
        for study in studies[:3]:
            opened.ledger.circuits.failed("dead", study)
    known = {"P": ["dead", "archive"], "Q": []}

    def asked() -> list[str]:
        return sorted(request.tags["fiona/work"] for request in tick(gateway, known))

    others = [f"deliver:{study}:P:archive" for study in studies[1:]]
    assert asked() == [*others, *(f"transfer:{study}:Q" for study in studies)], "the pause is not over"

    monkeypatch.setattr(circuits, "FIRST_PAUSE_SECONDS", 0.0)
    with gateway.open() as opened:
        opened.ledger.circuits.failed("dead", "1.2")
    (probe,) = asked()
    assert probe.endswith(":P:dead")
    assert asked() == [], "one at a time"
    with gateway.open() as opened:
        opened.ledger.circuits.succeeded("dead")
    assert {*asked(), probe} == {f"deliver:{study}:P:dead" for study in studies}


def test_a_clock_that_was_set_back_stops_no_polling(gateway: GatewayResource) -> None:
    """It was a day ahead when REDCap was asked last; and nothing is asked twice within ``poll_seconds``."""
    with gateway.open() as opened:
        opened.ledger.store.remember(POLLED, utc_after(86400))
    tick(gateway, {})
    with gateway.open() as opened:
        polled = opened.ledger.store.fact(POLLED)
    assert polled is not None
    assert datetime.fromisoformat(polled) <= datetime.fromisoformat(utc_now())
    tick(gateway, {})
    with gateway.open() as opened:
        assert opened.ledger.store.fact(POLLED) == polled


def test_during_an_outage_of_redcap_studies_are_not_classified_over_and_over(
    gateway: GatewayResource,
) -> None:
    """A new study is processed as far as it goes; what failed at REDCap tries again one a minute."""
    with gateway.open() as opened:
        for number in range(6):
            opened.ledger.work.need("process", f"1.2.{number}", 1)
        for number in range(3):
            opened.ledger.work.failed(f"process:1.2.{number}", "REDCap is away", permanent=False)

        def launched() -> list[str]:
            with opened.ledger.store.writing() as db:
                db.execute("UPDATE work SET not_before = '', requested = NULL")
            found = sensors._requests_of(opened, "process", "process_study", {})
            return [work.study for work, _ in found]

        assert len(launched()) == 6
        outage.began(opened.ledger, "away")
        assert sorted(launched())[-3:] == ["1.2.3", "1.2.4", "1.2.5"]
        assert launched() == ["1.2.3", "1.2.4", "1.2.5"]
        opened.ledger.store.remember("redcap_tried:process", utc_after(-outage.TRY_SECONDS - 1))
        assert len(launched()) == 4
        outage.ended(opened.ledger)
        assert len(launched()) == 6
