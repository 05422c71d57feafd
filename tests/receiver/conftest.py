"""A receiver in this process (fast) and one in its own (kills)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fiona_dagster.config import DataRoot, Settings
from receiver import Receiver
from tests.accounting import assert_all_accounted

Start = Callable[..., Receiver]


@pytest.fixture
def start(root: DataRoot) -> Iterator[Start]:
    """Starts receivers on free ports; keywords are receiver settings. All are stopped at the end."""
    running: list[tuple[Receiver, threading.Thread]] = []

    def begin(**values: Any) -> Receiver:
        section = {"accept_unknown": True, "drain_seconds": 3, "reserve_mb": 0, **values}
        settings = Settings.model_validate({"DICOMIP": "127.0.0.1", "DICOMPORT": 0, "receiver": section})
        receiver = Receiver.alone(root, settings)
        thread = threading.Thread(target=receiver.serve, name="receiver")
        thread.start()
        running.append((receiver, thread))
        return receiver

    yield begin
    for receiver, thread in running:
        receiver.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert_all_accounted(root)


@dataclass
class Process:
    """A receiver as operators run it."""

    root: DataRoot
    command: list[str] = field(default_factory=lambda: [sys.executable, "-m", "receiver"])
    process: subprocess.Popen[str] | None = None
    address: tuple[str, int] = ("", 0)
    sites: dict[str, Any] = field(default_factory=dict)
    site_addresses: dict[str, tuple[str, int]] = field(default_factory=dict)
    log: Path = Path()

    def start(self, **values: Any) -> tuple[str, int]:
        section = {"accept_unknown": True, "reserve_mb": 0, "drain_seconds": 5, **values}
        document = {"DICOMIP": "127.0.0.1", "DICOMPORT": 0, "receiver": section, "SITES": self.sites}
        self.root.config_file.write_text(json.dumps(document))
        self.log = self.root.logs / "receiver.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, "FIONA_DATA": str(self.root.path)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:"), self.log.read_text()
        self.address = ("127.0.0.1", int(line.rpartition(":")[2]))
        for name in self.sites:
            line = self.process.stdout.readline().removesuffix(f" for {name}\n")
            self.site_addresses[name] = ("127.0.0.1", int(line.rpartition(":")[2]))
        return self.address

    @property
    def workers(self) -> list[int]:
        """Process ids of what the main process has forked."""
        assert self.process is not None
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        """SIGKILL to the main process alone; returns when its workers are gone too."""
        assert self.process is not None
        workers = self.workers
        self.process.kill()
        self._reap()
        deadline = time.monotonic() + 170
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline, "workers outlive their main process"
            time.sleep(0.01)

    def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        code = self.process.wait(170)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code


@pytest.fixture
def process(root: DataRoot) -> Iterator[Process]:
    """Not yet started."""
    handle = Process(root)
    yield handle
    if handle.process is not None:
        handle.kill()
    assert_all_accounted(root)
