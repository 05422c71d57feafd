"""The demo's site: a data root, two projects, and the peers that they deliver to, all on loopback.

The service itself is the very ``fiona up``; only the peers differ from a hospital's.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import PeerUnavailable
from fiona_dagster.operations import environment, initialise
from fiona_dagster.operations.process import Process

START_SECONDS = 240.0
QUIET_SECONDS = 4.0
POLL_SECONDS = 5

PROJECTS: dict[str, dict[str, Any]] = {
    "NEURO": {
        "description": "Demo: MR of the head",
        "participant_pattern": "N[0-9]{3}",
        "events": ["Baseline", "Year 1"],
        "options": ["retain_long_modified_dates"],
        "targets": ["archive_sftp", "research_pacs"],
    },
    "THORAX": {
        "description": "Demo: CT of the chest and ultrasound; its ultrasound is generated and holds no text",
        "participant_pattern": "T[0-9]{3}",
        "events": ["Event 1"],
        "options": ["retain_long_modified_dates"],
        "allow_kinds": ["ultrasound"],
        "targets": ["archive_sftp", "research_pacs"],
    },
}


@dataclass
class Site:
    """Everything that runs for the demo.

    Args:
        root: the data root; made or refreshed by :meth:`start`.
    """

    root: DataRoot
    processes: list[Process] = field(default_factory=list)
    receiver_port: int = 0
    ui: str = ""

    @property
    def peers(self) -> Path:
        """Where the embedded peers keep what they get."""
        return self.root.path / "peers"

    @property
    def redcap_page(self) -> str:
        """Address of the page in which the sandbox's records are looked at and edited."""
        return self._redcap_page

    def start(self) -> None:
        """Starts the peers, writes the configuration, and starts ``fiona up``.

        Raises:
            PeerUnavailable: something did not start; the message names its log.
        """
        self.root.make()
        self.peers.mkdir(mode=0o700, exist_ok=True)
        sandbox = self._run(
            "redcap-sandbox",
            ["-m", "fiona_dagster.cli", "redcap-sandbox", "--data", str(self.peers / "redcap")],
        )
        peers = self._run("peers", ["-m", "fiona_dagster.demo.peers", "--dir", str(self.peers)])
        self._configure(self._first_line(sandbox, "redcap-sandbox"), self._first_line(peers, "peers"))
        service = self._run("up", ["-m", "fiona_dagster.cli", "up"])
        self._wait_for("the receiver and the Dagster UI", service, self._is_up)

    def stop(self) -> None:
        """Stops everything in order, the service first."""
        import signal

        for process in reversed(self.processes):
            process.signal(signal.SIGTERM)
            deadline = time.monotonic() + 40
            while not process.ended() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill_group()
        self.processes.clear()

    def alive(self) -> bool:
        """Whether all that was started still runs."""
        return not any(process.ended() for process in self.processes)

    def _run(self, name: str, arguments: list[str]) -> Process:
        process = Process([sys.executable, *arguments], environment(self.root), self._log(name))
        self.processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self.root.logs / f"demo-{name}.log"

    def _first_line(self, process: Process, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def has_line() -> bool:
            line, newline, _ = process.output().partition("\n")
            if newline and line.startswith("{"):
                found.update(json.loads(line))
            return bool(found)

        self._wait_for(name, process, has_line)
        return found

    def _wait_for(self, what: str, process: Process, ready: Any) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.ended() or time.monotonic() > deadline:
                raise PeerUnavailable(f"{what} did not start; see {process.log}")
            time.sleep(0.1)

    def _is_up(self) -> bool:
        try:
            running = json.loads((self.root.dagster_home / "fiona-up.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        if not running.get("ready") or running.get("pid") != self.processes[-1].pid:
            return False
        self.receiver_port, self.ui = int(running["receiver"][1]), str(running["url"])
        return True

    def _configure(self, redcap: dict[str, Any], peers: dict[str, Any]) -> None:
        initialise(self.root)
        secrets = self.root.secrets
        self._redcap_page = str(redcap["url"]).removesuffix("api/")
        token = secrets / "redcap-token"
        token.touch(mode=0o600)
        token.write_text(redcap["tokens"]["Incoming"], encoding="ascii")
        settings = {
            "DICOMIP": "127.0.0.1",
            "DICOMPORT": _free_port(),
            "receiver": {
                "quiet_seconds": QUIET_SECONDS,
                "allowed_callers": ["DEMOSCANNER"],
                "reserve_mb": 0,
            },
            "redcap": {
                "url": redcap["url"],
                "token_file": str(token),
                "poll_seconds": POLL_SECONDS,
                "calls_per_minute": 600,
            },
            "targets": {
                "archive_sftp": {
                    "kind": "sftp",
                    "host": "127.0.0.1",
                    "port": peers["sftp"]["port"],
                    "username": peers["sftp"]["username"],
                    "private_key_file": peers["sftp"]["private_key_file"],
                    "host_key": peers["sftp"]["host_key"],
                },
                "research_pacs": {
                    "kind": "dicom",
                    "host": "127.0.0.1",
                    "port": peers["pacs"]["port"],
                    "called_ae_title": peers["pacs"]["ae_title"],
                },
            },
            "web": {"port": _free_port()},
        }
        _write(self.root.config_file, settings)
        for name, project in PROJECTS.items():
            _write(self.root.project_files / f"{name}.json", {"name": name, **project})


def _write(path: Path, document: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
