"""``python -m fiona_dagster.operations.metrics``: a page for Prometheus on ``metrics.port``.

Belongs here: the page and the small server behind it. Stays out: counting (``landing.counters``, written by
the receiver's processes; ``ledger.figures``). Nothing on the page names a study, a sender or a patient.

The format is the text exposition format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from fiona_dagster.config import UMASK, DataRoot, load_settings_in_force, read_switches
from fiona_dagster.errors import ConfigurationError, FionaError
from fiona_dagster.landing import quarantine_count, read_counters
from fiona_dagster.landing.counters import BUCKETS, ENDS, OUTCOMES, REJECTIONS
from fiona_dagster.ledger import Ledger
from fiona_dagster.ledger.figures import Figures, figures
from fiona_dagster.transfers import outage

log = logging.getLogger("fiona.metrics")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0


def page(root: DataRoot) -> str:
    """The metrics of one data root, as text."""
    return "\n".join([*_reception(read_counters(root.counters_file)), *_site(root), *_ledger(root), ""])


def _metric(
    name: str, kind: str, explanation: str, values: Mapping[str, float], label: str = ""
) -> Iterator[str]:
    yield f"# HELP fiona_{name} {explanation}"
    yield f"# TYPE fiona_{name} {kind}"
    for key, value in values.items():
        labels = f'{{{label}="{key}"}}' if label else ""
        yield f"fiona_{name}{labels} {value:.10g}"


def _one(name: str, kind: str, explanation: str, value: float) -> Iterator[str]:
    return _metric(name, kind, explanation, {"": value})


def _reception(counted: Mapping[str, float]) -> Iterator[str]:
    def group(prefix: str, names: tuple[str, ...]) -> dict[str, float]:
        return {name: counted[f"{prefix}.{name}"] for name in names}

    yield from _metric(
        *("instances_total", "counter", "C-STORE requests by how they ended."),
        *(group("instances", OUTCOMES), "outcome"),
    )
    yield from _one("received_bytes_total", "counter", "Bytes of data sets received.", counted["bytes"])
    yield from _one("echoes_total", "counter", "C-ECHO requests.", counted["echoes"])
    yield from _one("connections_total", "counter", "Connections accepted.", counted["connections"])
    yield from _one("associations_total", "counter", "Associations accepted.", counted["associations"])
    yield from _one("associations_open", "gauge", "Associations open now.", counted["open"])
    yield from _metric(
        *("association_ends_total", "counter", "Associations by how they ended."),
        *(group("ends", ENDS), "how"),
    )
    yield from _metric(
        *("rejections_total", "counter", "Rejected associations, and failed TLS handshakes, by reason."),
        *(group("rejections", REJECTIONS), "reason"),
    )
    yield "# HELP fiona_store_seconds Seconds from a C-STORE request to its answer."
    yield "# TYPE fiona_store_seconds histogram"
    total = 0.0
    for number, bound in enumerate((*(f"{bound:g}" for bound in BUCKETS), "+Inf")):
        total += counted[f"seconds.{number}"]
        yield f'fiona_store_seconds_bucket{{le="{bound}"}} {total:.10g}'
    yield f"fiona_store_seconds_sum {counted['seconds']:.10g}"
    yield f"fiona_store_seconds_count {total:.10g}"


def _site(root: DataRoot) -> Iterator[str]:
    free = shutil.disk_usage(root.path).free
    yield from _one("free_bytes", "gauge", "Free space on the data root's disk.", free)
    yield from _one("quarantined", "gauge", "Objects in quarantine.", quarantine_count(root))
    try:
        switches = {name: float(on) for name, on in asdict(read_switches(root)).items()}
    except ConfigurationError:
        switches = {}
    yield from _metric("switched_on", "gauge", "The switches of config/enabled; 0: held.", switches, "switch")


def _ledger(root: DataRoot) -> Iterator[str]:
    found: Figures | None = None
    away, down = False, dict[str, float]()
    try:
        with Ledger(root) as ledger:
            found = figures(ledger.store)
            away = outage.outage(ledger) is not None
            down = {circuit.target: 1.0 for circuit in ledger.circuits.opened()}
    except (FionaError, sqlite3.Error, OSError):
        pass  # the page says so itself
    yield from _one("ledger_readable", "gauge", "Whether the ledger could be read.", found is not None)
    if found is None:
        return
    yield from _one("studies", "gauge", "Studies that are not retired.", found.studies)
    yield from _one("studies_flagged", "gauge", "Studies that wait for a person.", found.flagged)
    yield from _one("stored_instances", "gauge", "Instances that the ledger knows.", found.instances)
    yield from _one(
        "conflicts", "gauge", "Conflicting instances that wait for a person.", found.aside.get("conflict", 0)
    )
    yield from _metric("transfers", "gauge", "Transfers by state.", found.transfers, "state")
    yield from _metric("work_due", "gauge", "Work that is to be done, by kind.", found.work, "kind")
    yield from _metric(
        "work_blocked", "gauge", "Work that waits for a person, by kind.", found.blocked, "kind"
    )
    yield from _one("redcap_down", "gauge", "Whether REDCap gave no usable answer at the last poll.", away)
    yield from _metric(
        "target_down", "gauge", "Targets that are left alone until one answers.", down, "target"
    )


class MetricsServer(ThreadingHTTPServer):
    """Serves the page of one data root.

    Args:
        root: the data root.
        host: address to listen on.
        port: 0: chosen freely.

    Raises:
        ConfigurationError: the address can't be listened on.
    """

    daemon_threads = True

    def __init__(self, root: DataRoot, host: str, port: int) -> None:
        self.root = root
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {host}:{port} ({error.strerror}); change metrics.host or metrics.port in "
                "config.json"
            ) from None


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server: MetricsServer

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(HTTPStatus.NOT_FOUND, "the page is /metrics")
            return
        body = page(self.server.root).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


def run(root: DataRoot) -> int:
    """Serves until SIGTERM or SIGINT and returns 0; prints ``listening on HOST:PORT`` when it answers.

    Raises:
        ConfigurationError: ``metrics.port`` is not set, or can't be listened on.
    """
    os.umask(UMASK)
    settings = load_settings_in_force(root)[0].metrics
    if settings.port is None:
        raise ConfigurationError(f"{root.config_file}: metrics.port: not set, so there is no page to serve")
    server = MetricsServer(root, settings.host, settings.port)

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host, port = server.server_address[:2]
    sys.stdout.write(f"listening on {host!s}:{port}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(run(DataRoot.from_environment()))
    except FionaError as failure:
        sys.stderr.write("fiona: " + " ".join(str(failure).split()) + "\n")
        sys.exit(2)
