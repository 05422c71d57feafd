"""The receivers that are compared, each started anew on an empty folder for every run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_MIB = 1024.0
DCMTK_ENVIRONMENT = {"TCP_NODELAY": "1", "TCP_BUFFER_LENGTH": "131072"}
"""Without it dcmtk, which Orthanc is built on, leaves Nagle's algorithm on and stalls 40 ms an instance."""


@dataclass
class Running:
    """A receiver that answers.

    Attributes:
        process: its main process.
        port: on 127.0.0.1.
        seconds: from its start to listening.
    """

    process: subprocess.Popen[str]
    port: int
    seconds: float

    def tree(self) -> list[int]:
        """Process ids: the main one and everything below it."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                queue += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            except OSError:
                continue
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far, those of ended children included."""
        ticks = 0
        for pid in self.tree():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / _TICK

    def memory(self) -> tuple[float, float]:
        """Peak RSS and present PSS of all processes together, MiB."""
        return self._sum("status", "VmHWM:"), self._sum("smaps_rollup", "Pss:")

    def _sum(self, name: str, key: str) -> float:
        total = 0
        for pid in self.tree():
            try:
                lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith(key))
        return total / _MIB


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _running(command: list[str], port: int, log: Path, environment: dict[str, str]) -> Iterator[Running]:
    begin = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if not port else output,
            stderr=output,
            env={**os.environ, **environment},
            text=True,
            start_new_session=True,
        )
    try:
        if not port:
            assert process.stdout is not None  # noqa: S101 - for mypy
            port = int(process.stdout.readline().rpartition(":")[2])
        else:
            while not _answers(port):
                if process.poll() is not None or time.monotonic() - begin > 60:
                    raise RuntimeError(f"{command[0]} does not answer; see {log}")
                time.sleep(0.05)
        yield Running(process, port, time.monotonic() - begin)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def fiona(folder: Path, parallel: bool, durability: str, **settings: object) -> Iterator[Running]:
    """Ours: the default configuration but for the address, open doors and what is measured."""
    (folder / "config").mkdir(parents=True)
    section = {"accept_unknown": True, "durability": durability, **settings}
    document = {"DICOMIP": "127.0.0.1", "DICOMPORT": 0, "receiver": section}
    (folder / "config" / "config.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "receiver"]
    with _running(command, 0, folder / "log", {"FIONA_DATA": str(folder)}) as running:
        yield running


@contextmanager
def storescp(folder: Path, parallel: bool) -> Iterator[Running]:
    """dcmtk, bit-preserving, with its largest PDU; it flushes nothing."""
    folder.mkdir()
    port = free_port()
    command = [
        "storescp",
        "+B",
        "--max-pdu",
        "131072",
        "-od",
        str(folder),
        *(["--fork"] * parallel),
        str(port),
    ]
    with _running(command, port, folder.with_suffix(".log"), DCMTK_ENVIRONMENT) as running:
        yield running


@contextmanager
def orthanc(folder: Path, parallel: bool) -> Iterator[Running]:
    """Orthanc as packaged, with SQLite; it indexes what it receives."""
    folder.mkdir()
    port = free_port()
    document = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomPort": port,
        "HttpServerEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "MaximumPduLength": 131072,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(document))
    with _running(
        ["Orthanc", str(folder / "orthanc.json")], port, folder / "log", DCMTK_ENVIRONMENT
    ) as running:
        yield running


Start = Callable[[Path, bool], "Iterator[Running]"]


def stored(name: str, folder: Path) -> list[Path]:
    """The files that a receiver has stored."""
    if name.startswith("fiona"):
        return list((folder / "site" / "archive").glob("scp_*/*"))
    if name == "orthanc":
        return [path for path in (folder / "storage").rglob("*") if path.is_file() and "." not in path.name]
    return [path for path in folder.iterdir() if path.is_file()]
