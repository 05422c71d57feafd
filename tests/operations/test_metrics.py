"""The page for Prometheus: counted by the receiver's processes, served by one of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.landing import Counters, prepare_counters, read_counters
from fiona_dagster.landing import counters as module
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations import initialise
from fiona_dagster.operations.metrics import CONTENT_TYPE, MetricsServer, page, run
from fiona_dagster.transfers import outage
from tests.making import data_set
from tests.receiver.conftest import Process, Start, process, start
from tests.receiver.raw import Raw
from tests.receiver.test_misbehaviour import wait_until

__all__ = ["process", "start"]

LINE = re.compile(r'([a-z_]+)(\{[a-z_]+="[^"]*"\})? (-?[0-9.e+]+)')


def values(text: str) -> dict[str, float]:
    """Every sample; the text must be what the exposition format says, each metric with help and type."""
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in kinds
            kinds[name] = kind
            continue
        match = LINE.fullmatch(line)
        assert match, line
        base = re.sub(r"_(bucket|sum|count)$", "", match[1])
        assert match[1] in kinds or kinds.get(base) == "histogram", line
        key = match[1] + (match[2] or "")
        assert key not in found
        found[key] = float(match[3])
    assert text.endswith("\n")
    return found


def test_what_was_received_and_refused_is_on_the_page(root: DataRoot, start: Start) -> None:
    initialise(root)
    receiver = start(accept_unknown=False, allowed_callers=["GOOD"], max_object_mb=1)
    with Raw(receiver.address) as raw:
        raw.associate(calling="GOOD")
        assert values(page(root))["fiona_associations_open"] == 1
        for pixels in (b"", b"", b"other"):
            raw.store("1.2.3", data_set("1.2.3", pixels=pixels))
        raw.store("1.2.4", data_set("1.2.4", pixels=bytes(1_200_000)))
        raw.store("1.2.5", data_set("1.2.6"))
        raw.release()
    with Raw(receiver.address) as raw:
        raw.associate(calling="STRANGER")
    wait_until(lambda: values(page(root))["fiona_associations_open"] == 0)
    with Ledger(root) as ledger:
        ledger.receipts.read_journals()
    found = values(page(root))
    assert (found["fiona_studies"], found["fiona_stored_instances"], found["fiona_conflicts"]) == (1, 1, 1)

    for outcome in ("stored", "repeat", "conflict", "refused", "too_large"):
        assert found[f'fiona_instances_total{{outcome="{outcome}"}}'] == 1, outcome
    assert found['fiona_instances_total{outcome="no_room"}'] == 0
    assert found["fiona_received_bytes_total"] > 1_200_000
    assert found["fiona_store_seconds_count"] == 5
    assert found['fiona_store_seconds_bucket{le="+Inf"}'] == 5
    assert found["fiona_store_seconds_sum"] > 0
    assert found["fiona_associations_total"] == 1
    assert found["fiona_connections_total"] == 2
    assert found['fiona_association_ends_total{how="released"}'] == 1
    assert found['fiona_rejections_total{reason="calling_ae"}'] == 1
    assert found["fiona_quarantined"] == 1
    assert found["fiona_free_bytes"] > 0
    assert found['fiona_switched_on{switch="sending"}'] == 1
    assert found["fiona_ledger_readable"] == 1
    assert "Planted" not in page(root)
    assert "GOOD" not in page(root)


def test_who_is_away_is_on_the_page(root: DataRoot) -> None:
    initialise(root)
    with Ledger(root) as ledger:
        assert values(page(root))["fiona_redcap_down"] == 0
        outage.began(ledger, "no answer")
        for number in range(3):
            ledger.circuits.failed("pacs", f"1.{number}")
    found = values(page(root))
    assert found["fiona_redcap_down"] == found['fiona_target_down{target="pacs"}'] == 1
    with Ledger(root) as ledger:
        outage.ended(ledger)
        ledger.circuits.succeeded("pacs")
    found = values(page(root))
    assert found["fiona_redcap_down"] == 0
    assert 'fiona_target_down{target="pacs"}' not in found


def test_buckets_are_cumulative_and_each_bound_is_in_its_own(root: DataRoot) -> None:
    prepare_counters(root.counters_file)
    counters = Counters(root.counters_file, 0)
    for seconds in (0.005, 0.0051, 60.0, 61.0):
        counters.instance("stored", 10, seconds)
    found = values(page(root))
    bucket = "fiona_store_seconds_bucket"
    assert found[bucket + '{le="0.005"}'] == 1
    assert found[bucket + '{le="0.01"}'] == 2
    assert found[bucket + '{le="60"}'] == 3
    assert found[bucket + '{le="+Inf"}'] == found["fiona_store_seconds_count"] == 4


def test_workers_are_added_up_and_a_restart_forgets_nothing(root: DataRoot, process: Process) -> None:
    sent = 0
    for _ in range(2):
        address = process.start(processes=2)
        senders = [Raw(address) for _ in range(4)]
        for number, raw in enumerate(senders):
            raw.associate()
            assert raw.store(f"1.2.{sent}.{number}").status == 0
        assert read_counters(root.counters_file)["open"] == 4
        for raw in senders:
            raw.sock.close()
        sent += 4
        counted_up_to(root, sent)
        process.kill()
        wait_until(lambda: read_counters(root.counters_file)["open"] == 0)
        assert read_counters(root.counters_file)["instances.stored"] == sent


def counted_up_to(root: DataRoot, number: int) -> None:
    """Counting follows the answer; a kill between the two would lose it."""
    wait_until(lambda: read_counters(root.counters_file)["instances.stored"] == number)


def test_threads_lose_no_count(root: DataRoot) -> None:
    prepare_counters(root.counters_file)
    counters = Counters(root.counters_file, 3)

    def count() -> None:
        for _ in range(2000):
            counters.add("echoes")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_counters(root.counters_file)["echoes"] == 8000


@pytest.mark.parametrize("content", [None, b"", b"x" * 100, b"x" * module._SIZE])
def test_counting_goes_on_without_a_usable_file(root: DataRoot, content: bytes | None) -> None:
    if content is None:
        root.counters_file.mkdir(parents=True)
    else:
        root.counters_file.write_bytes(content)
    counters = Counters(root.counters_file, 0)
    counters.add("echoes")
    assert set(read_counters(root.counters_file).values()) == {0.0}
    if content is not None:
        prepare_counters(root.counters_file)
        Counters(root.counters_file, 0).add("echoes")
        prepare_counters(root.counters_file)
        assert read_counters(root.counters_file)["echoes"] == 1


def test_a_broken_ledger_is_said_and_hides_nothing_else(root: DataRoot) -> None:
    root.ledger_file.parent.mkdir(parents=True, exist_ok=True)
    root.ledger_file.write_bytes(b"no database" * 1000)
    found = values(page(root))
    assert found["fiona_ledger_readable"] == 0
    assert "fiona_free_bytes" in found
    assert "fiona_studies" not in found


@pytest.fixture
def server(root: DataRoot) -> Iterator[str]:
    with MetricsServer(root, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join(10)


def test_the_page_is_served_and_nothing_else_is(server: str) -> None:
    with urllib.request.urlopen(f"{server}/metrics", timeout=20) as answer:  # noqa: S310
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert "fiona_instances_total" in answer.read().decode()
    for path in ("/", "/metrics/../config/config.json", "/config/config.json"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(server + path, timeout=120)  # noqa: S310


def test_as_a_process_it_says_where_it_listens_and_ends_in_order(root: DataRoot, tmp_path: Path) -> None:
    root.config_file.write_text('{"metrics": {"port": 0}}')
    process = subprocess.Popen(
        [sys.executable, "-m", "fiona_dagster.operations.metrics"],
        env={**os.environ, "FIONA_DATA": str(root.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line.startswith("listening on 127.0.0.1:")
    with urllib.request.urlopen(f"http://{line.split()[-1]}/metrics", timeout=20) as answer:
        values(answer.read().decode())
    process.send_signal(signal.SIGTERM)
    assert process.wait(170) == 0
    process.stdout.close()


def test_without_a_port_there_is_no_page(root: DataRoot) -> None:
    from fiona_dagster.errors import ConfigurationError

    root.config_file.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"metrics\.port"):
        run(root)
