"""The programs of ``fiona up``: how each is started and when it is ready.

Belongs here: command lines, environment, readiness. Stays out: the loop that keeps them running.
Dagster is never imported here; it runs as programs.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fiona_dagster.config import DataRoot, Settings
from fiona_dagster.errors import StartFailed
from fiona_dagster.operations.process import Process

LOCATION = "fiona_dagster"
"""Name of the code location, the same as in workspace.yaml."""

INBOX_READY = "watching the inbox"
"""What the drop folder's process says when it runs."""
LISTENING = re.compile(r"listening on (\S+):(\d+)(?: for (\w+))?")


@dataclass(frozen=True)
class Programs:
    """The modules that are run; other ones in tests."""

    receiver: str = "receiver"
    definitions: str = "fiona_dagster.definitions"
    reconcile: str = "fiona_dagster.defs.reconcile"
    mending: str = "fiona_dagster.operations.mending"
    inbox: str = "fiona_dagster.operations.inbox"
    mpps: str = "receiver.mpps"
    outreach: str = "fiona_dagster.transfers.outreach"
    metrics: str = "fiona_dagster.operations.metrics"


@dataclass(frozen=True)
class Ports:
    """Where the services answer; chosen when the supervisor starts."""

    web_host: str
    web: int
    code: int

    @property
    def url(self) -> str:
        """Address of the Dagster UI."""
        host = "127.0.0.1" if self.web_host == "0.0.0.0" else self.web_host  # noqa: S104 - only compared
        return f"http://{f'[{host}]' if ':' in host else host}:{self.web}"


@dataclass(frozen=True)
class Service:
    """One program.

    Attributes:
        name: as in messages; its log is ``logs/<name>.log``.
        arguments: command line.
        ready: whether it answers already.
        after: services that must be ready before it starts for the first time.
        grace: seconds that it has to end in order before it is killed.
        idle: when given, the program does not understand SIGTERM and is killed as soon as it is idle.
        settings: what of the configuration it stands on; when that changes it is started anew.
        needs_ledger: it does not run while the ledger is lost.
    """

    name: str
    arguments: tuple[str, ...]
    ready: Callable[[Process], bool]
    after: tuple[str, ...] = ()
    grace: float = 10.0
    idle: Callable[[Process], bool] | None = None
    settings: object = None
    needs_ledger: bool = False


def environment(root: DataRoot, scratch: Path | None = None) -> dict[str, str]:
    """The environment of every program that the supervisor starts.

    Args:
        root: the data root.
        scratch: temporary folder with a short name, since the code server's socket lies in it; the
            system's when absent.
    """
    return {
        **os.environ,
        "FIONA_DATA": str(root.path),
        "DAGSTER_HOME": str(root.dagster_home),
        **({"TMPDIR": str(scratch)} if scratch else {}),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DAGSTER_CLI_API_GRPC_LOG_FORMAT": "json",  # the code server does not hand its own format on
        "PYTHONUNBUFFERED": "1",
    }


def services(root: DataRoot, settings: Settings, ports: Ports, programs: Programs) -> tuple[Service, ...]:
    """The services in the order in which they start; they stop in the opposite one.

    Not all of them are wanted in every configuration: see ``Supervisor``.
    """
    python = sys.executable
    workspace = str(workspace_file(root))
    return (
        Service(
            "receiver",
            (python, "-m", programs.receiver),
            ready=lambda process: listening(process) is not None,
            grace=settings.receiver.drain_seconds + 5,
            settings=(
                *(settings.DICOMIP, settings.DICOMPORT, settings.DICOMAETITLE),
                settings.receiver.model_dump_json(
                    exclude={"quiet_seconds", "quiet_seconds_open", "quiet_by_sender"}
                ),
                settings.SITES,
            ),
        ),
        Service(
            "inbox",
            (python, "-m", programs.inbox),
            ready=lambda process: INBOX_READY in process.output(),
            settings=(settings.imports, settings.receiver.reserve_mb),
        ),
        Service(
            "mpps",
            (python, "-m", programs.mpps),
            ready=lambda process: listening(process) is not None,
            settings=(
                *(settings.DICOMIP, settings.MPPSPORT, settings.DICOMAETITLE),
                *(settings.receiver.accept_unknown, settings.receiver.allowed_callers),
                *(settings.receiver.allowed_networks, settings.receiver.allowed_called),
                *(settings.receiver.artim_seconds, settings.receiver.idle_seconds),
            ),
        ),
        Service(
            "outreach",
            (python, "-m", programs.outreach),
            ready=lambda process: "at work" in process.output(),
            grace=1.0,
            settings=(settings.sources, settings.receiver.commitment, settings.SITES, settings.notifications),
            needs_ledger=True,
        ),
        Service(
            "metrics",
            (python, "-m", programs.metrics),
            ready=lambda process: listening(process) is not None,
            grace=2.0,
            settings=settings.metrics,
        ),
        Service(
            "code-server",
            (
                *(python, "-m", "dagster", "code-server", "start", "-h", "127.0.0.1", "-p", str(ports.code)),
                *("-m", programs.definitions, "--location-name", LOCATION, "--log-format", "json"),
                "--use-python-environment-entry-point",
            ),
            ready=lambda _: answers("127.0.0.1", ports.code),
            # SIGTERM hangs it for ever (dagster 1.13.27). Short runs may finish; a long one is cut off,
            # and the reconciliation before the next start has it done again.
            idle=lambda process: not any(b"spawn_main" in line for line in process.command_lines()),
            needs_ledger=True,
        ),
        Service(
            "webserver",
            (
                *(python, "-m", "dagster_webserver", "-h", ports.web_host, "-p", str(ports.web)),
                *("-w", workspace, "--log-format", "json"),
            ),
            ready=lambda _: serves_http(ports),
            after=("code-server",),
            grace=5.0,
            settings=settings.web,
            needs_ledger=True,
        ),
        Service(
            "daemon",
            (python, "-m", "dagster._daemon", "run", "-w", workspace, "--log-format", "json"),
            ready=lambda process: "following daemons" in process.output(),
            after=("code-server",),
            needs_ledger=True,
        ),
    )


def workspace_file(root: DataRoot) -> Path:
    """Where the running webserver and daemon find the code server."""
    return root.dagster_home / "fiona-up-workspace.yaml"


def write_workspace(root: DataRoot, ports: Ports) -> None:
    """Writes the workspace of the running services."""
    workspace_file(root).write_text(
        "# Written by `fiona up` at each start.\n"
        "load_from:\n"
        "  - grpc_server:\n"
        "      host: 127.0.0.1\n"
        f"      port: {ports.code}\n"
        f"      location_name: {LOCATION}\n",
        encoding="utf-8",
    )


def listening(process: Process) -> tuple[str, int] | None:
    """Host and port of the receiver, from its own words."""
    found = LISTENING.search(process.output())
    return (found[1], int(found[2])) if found else None


def listening_for_sites(process: Process) -> dict[str, list[str | int]]:
    """Host and port of every entry in ``SITES``, from the receiver's own words."""
    found = LISTENING.findall(process.output())
    return {name: [host, int(port)] for host, port, name in reversed(found) if name}  # plain before TLS


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def serves_http(ports: Ports) -> bool:
    """Whether the webserver serves pages."""
    host = "127.0.0.1" if ports.web_host == "0.0.0.0" else ports.web_host  # noqa: S104 - only compared
    connection = http.client.HTTPConnection(host, ports.web, timeout=2)
    try:
        connection.request("GET", "/server_info")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def becomes_free(host: str, port: int, seconds: float = 3.0) -> bool:
    """Whether a server can listen there soon; a program that was killed may hold it for a moment."""
    deadline = time.monotonic() + seconds
    while not is_free(host, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def choose_ports(root: DataRoot, settings: Settings, *, receiving: bool) -> Ports:
    """The ports of Dagster's programs, once it is sure that those of the configuration can be had.

    Args:
        root: the data root.
        settings: in force.
        receiving: whether the receiver will be started.

    Raises:
        StartFailed: one is taken.
    """
    web = settings.web
    if web.port and not becomes_free(web.host, web.port):
        raise StartFailed(
            f"web.port {web.port} is taken on {web.host}: stop what listens there, or set another in "
            f"{root.config_file} (0: chosen freely)"
        )
    host, port = settings.DICOMIP, settings.DICOMPORT
    if receiving and port and not becomes_free(host, port):
        raise StartFailed(
            f"DICOMPORT {port} is taken on {host}: stop what listens there (another receiver?), or set "
            f"another in {root.config_file} (0: chosen freely)"
        )
    return Ports(web.host, web.port or free_port(web.host), free_port())


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free at this moment."""
    family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        return int(probe.getsockname()[1])
