"""``fiona up``: keeps receiver, inbox, code server, webserver and daemon running, and ends them together.

Belongs here: the loop, order of start and stop, back-off, what is written for others to find. Stays
out: the single program (:mod:`process`), which programs (:mod:`services`), the configuration's watch
(:mod:`watch`). One thread, since PR_SET_PDEATHSIG is about the thread that started a program.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fiona_dagster.config import DataRoot, load_settings_in_force
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.operations import services as table
from fiona_dagster.operations.gate import LedgerGate
from fiona_dagster.operations.guard import Guard
from fiona_dagster.operations.lock import hold_root
from fiona_dagster.operations.process import Process, rotate
from fiona_dagster.operations.reconciler import Reconciler
from fiona_dagster.operations.runtime import Notice
from fiona_dagster.operations.services import Programs, Service
from fiona_dagster.operations.signals import Signals
from fiona_dagster.operations.watch import Change, CodeLocation, ConfigurationWatch

log = logging.getLogger("fiona.up")

STEP = 0.2
"""Seconds between two looks at the processes."""
READY_WITHIN = 120.0
"""Seconds that a program may take until it answers."""
LONGEST_PAUSE = 30.0
LISTENERS = ("receiver", "mpps")
"""Services that say themselves where they listen."""
STEADY = 60.0
"""Seconds after which a program counts as running well: the next pause is short again."""


@dataclass
class _Slot:
    """Where one service stands."""

    service: Service
    process: Process | None = None
    ready: bool = False
    was_ready: bool = False
    next_start: float = 0.0
    kill_at: float | None = None
    failures: int = 0
    address: tuple[str, int] | None = field(default=None)
    sites: dict[str, list[str | int]] = field(default_factory=dict)

    @property
    def pause(self) -> float:
        return float(min(2.0 ** (self.failures - 1), LONGEST_PAUSE)) if self.failures else 0.0


class Supervisor:
    """Runs the services of one data root until it is told to stop.

    Args:
        root: the data root; it must have been initialised.
        say: prints a line for people (addresses).
        programs: the modules to run.

    Raises:
        ConfigurationError: no usable configuration.
        Busy: another ``fiona up`` runs on this data root.
        StartFailed: a port is taken.
    """

    def __init__(self, root: DataRoot, say: Callable[[str], None], programs: Programs | None = None) -> None:
        self._root = root
        self._say = say
        self._programs = programs or Programs()
        self._stopping = False
        self._settings, problem = load_settings_in_force(root)
        if problem:
            log.warning("%s; the last good version stays in force", problem)
        self._watch = ConfigurationWatch(root)
        self._location: CodeLocation
        self._known = ""
        self._reconciler = Reconciler(self._begin_reconciliation, self._end_helper)
        self._gate = LedgerGate(root, self._begin_mending, self._end_helper)
        self._announced = False
        self._trouble = ""
        self._notice = Notice(root)

    def run(self) -> None:
        """Starts everything, keeps it running, and returns when SIGTERM or SIGINT came and all has ended."""
        self._root.make()
        with hold_root(self._root) as lock, Signals(self._stop):
            self._ports = table.choose_ports(self._root, self._settings, receiving=self._wanted("receiver"))
            table.write_workspace(self._root, self._ports)
            self._slots = {service.name: _Slot(service) for service in self._services()}
            scratch = Path(tempfile.mkdtemp(prefix="fiona-up-"))
            self._environment = table.environment(self._root, scratch)
            self._location = CodeLocation(self._ports.url, self._environment)
            self._guard = Guard(lock, scratch)
            try:
                while not self._stopping:
                    self._step_whatever_comes()
                    time.sleep(STEP)
            finally:
                self._end_all()

    def _stop(self) -> None:
        self._stopping = True

    def _services(self) -> tuple[Service, ...]:
        return table.services(self._root, self._settings, self._ports, self._programs)

    def _wanted(self, name: str) -> bool:
        """Whether the switch file and the configuration ask for a service."""
        if name == "mpps":
            return self._watch.switches.receiver and self._settings.MPPSPORT is not None
        if name == "metrics":
            return self._settings.metrics.port is not None
        if name == "outreach":
            return self._settings.has_outreach
        return name != "receiver" or self._watch.switches.receiver

    # One look at everything.

    def _step_whatever_comes(self) -> None:
        """A machine or a disk that has no more of something ends nothing that runs."""
        try:
            self._step()
        except OSError as error:
            if str(error) != self._trouble:
                log.error("%s; what runs goes on, and the rest is tried again", error)  # noqa: TRY400
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _step(self) -> None:
        self._guard.keep()
        self._follow_ledger()
        for slot in self._slots.values():
            if slot.process is None:
                self._maybe_start(slot)
            elif slot.kill_at is not None:
                self._maybe_stopped(slot, slot.process, slot.kill_at)
            elif slot.process.ended():
                self._ended(slot, slot.process)
            elif not slot.ready:
                self._maybe_ready(slot, slot.process)
            elif slot.failures and time.monotonic() - slot.process.started > STEADY:
                slot.failures = 0
        self._follow_configuration()
        if not self._announced and self._all_ready():
            self._announced = True
            self._say("everything is up; Ctrl-C stops it")
        self._rotate_logs()
        self._publish()

    def _follow_ledger(self) -> None:
        needing = [slot for slot in self._slots.values() if slot.service.needs_ledger]
        if not self._gate.step(idle=all(slot.process is None for slot in needing)):
            return
        self._reconciler.needed()
        for slot in needing:
            if slot.process and slot.kill_at is None:
                self._ask_to_stop(slot)

    def _begin_mending(self) -> Process | None:
        return self._begin("ledger", (sys.executable, "-m", self._programs.mending))

    def _begin_reconciliation(self) -> Process | None:
        return self._begin("reconcile", (sys.executable, "-m", self._programs.reconcile))

    def _maybe_start(self, slot: _Slot) -> None:
        name = slot.service.name
        if not self._wanted(name) or time.monotonic() < slot.next_start:
            return
        if slot.service.needs_ledger and not self._gate.open:
            return
        if not all(self._slots[other].was_ready for other in slot.service.after):
            return
        if name == "code-server" and not self._reconciler.step():
            return
        self._start(slot)

    def _start(self, slot: _Slot) -> None:
        service = slot.service
        slot.ready = False
        slot.process = self._begin(service.name, service.arguments)
        if slot.process is None:
            slot.failures += 1
            slot.next_start = time.monotonic() + slot.pause

    def _begin(self, name: str, command: Sequence[str]) -> Process | None:
        """A running program; ``None`` when the machine can't have one now, which stops none of the others."""
        try:
            process = Process(command, self._environment, self._log_file(name))
        except (OSError, subprocess.SubprocessError) as error:
            log.error("%s can't be started (%s); it is tried again", name, error)  # noqa: TRY400
            return None
        self._guard.add(process.pid)
        return process

    def _maybe_ready(self, slot: _Slot, process: Process) -> None:
        name = slot.service.name
        if slot.service.ready(process):
            slot.ready = slot.was_ready = True
            slot.address = table.listening(process) if name in LISTENERS else None
            slot.sites = table.listening_for_sites(process) if name == "receiver" else {}
            self._announce(slot)
        elif time.monotonic() - process.started > READY_WITHIN:
            log.error("%s does not answer after %.0f s; see %s", name, READY_WITHIN, process.log)
            self._again(slot, process)

    def _announce(self, slot: _Slot) -> None:
        if slot.address:
            self._say("{} listening on {}:{}".format(slot.service.name, *slot.address))
            for site, (host, port) in slot.sites.items():
                self._say(f"{slot.service.name} listening on {host}:{port} for {site}")
        elif slot.service.name == "webserver":
            self._say(f"Dagster UI {self._ports.url}")
        else:
            log.info("%s is ready", slot.service.name)

    def _all_ready(self) -> bool:
        return self._location.loaded and all(
            slot.ready for slot in self._slots.values() if self._wanted(slot.service.name)
        )

    def _ended(self, slot: _Slot, process: Process) -> None:
        code = self._again(slot, process)
        log.error(
            "%s ended with exit code %d; starts again in %.0f s; see %s",
            *(slot.service.name, code, slot.pause, process.log),
        )

    def _again(self, slot: _Slot, process: Process) -> int:
        """Clears away what is left of a service and plans its next start."""
        code = self._clear(slot, process)
        slot.failures += 1
        slot.next_start = time.monotonic() + slot.pause
        if slot.service.name == "code-server":
            self._reconciler.needed()
        return code

    def _clear(self, slot: _Slot, process: Process) -> int:
        code = process.kill_group()
        self._guard.remove(process.pid)
        slot.process, slot.ready, slot.address, slot.kill_at = None, False, None, None
        return code

    def _end_helper(self, process: Process) -> int:
        code = process.kill_group()
        self._guard.remove(process.pid)
        return code

    # Configuration.

    def _follow_configuration(self) -> None:
        change = self._watch.look()
        if change is not None:
            self._apply(change)
        for name, slot in self._slots.items():
            if not self._wanted(name) and slot.process and slot.kill_at is None:
                self._ask_to_stop(slot)
        self._follow_definitions()

    def _follow_definitions(self) -> None:
        """Has the definitions loaded, and says when they can't be: all else may run, and nothing happens."""
        if not all(self._slots[name].ready for name in ("code-server", "webserver", "daemon")):
            self._location.forget()
            return
        if self._location.step(reload=self._watch.reload_wanted):
            self._watch.reload_wanted = False
            self._known = "reload"
        found = self._location.problem or ("loaded" if self._location.loaded else "")
        if self._location.busy or found in ("", self._known):
            return
        if self._location.problem:
            log.error(
                "the definitions are not loaded: %s; images are received, nothing is processed until that "
                "is corrected",
                found,
            )
        elif self._announced:
            log.info("the definitions in force are loaded")
        self._known = found

    def _apply(self, change: Change) -> None:
        if change.problems:
            for problem in change.problems:
                log.error("%s; the last good version stays in force", problem)
            return
        try:
            self._settings, _ = load_settings_in_force(self._root)
        except (ConfigurationError, OSError) as error:
            log.error("%s", error)  # noqa: TRY400 - the message is for an operator, not for us
            return
        for service in self._services():
            slot = self._slots[service.name]
            if service.settings != slot.service.settings and service.name == "webserver":
                log.warning("web.host and web.port take effect at the next start of `fiona up`")
            elif service.settings != slot.service.settings:
                slot.service = service
                if slot.process:
                    log.info("%s starts anew with its new settings", service.name)
                    self._ask_to_stop(slot)

    # Order at the end.

    def _ask_to_stop(self, slot: _Slot) -> None:
        if slot.process and slot.service.idle is None:
            slot.process.signal(signal.SIGTERM)
        slot.kill_at = time.monotonic() + slot.service.grace

    def _maybe_stopped(self, slot: _Slot, process: Process, kill_at: float) -> None:
        """Time to finish, then SIGKILL to whatever is left of the group; it may start again at once."""
        idle = slot.service.idle
        if process.ended() or time.monotonic() > kill_at or (idle and idle(process)):
            self._clear(slot, process)
            slot.next_start = 0.0

    def _end_all(self) -> None:
        self._location.end()
        self._gate.stop()
        self._reconciler.stop()
        for slot in reversed(list(self._slots.values())):
            if slot.process:
                self._ask_to_stop(slot)
            while slot.process and slot.kill_at is not None:
                self._maybe_stopped(slot, slot.process, slot.kill_at)
                time.sleep(STEP / 4)
        self._notice.remove()
        table.workspace_file(self._root).unlink(missing_ok=True)
        self._guard.end()

    # What others find.

    def _log_file(self, name: str) -> Path:
        return self._root.logs / f"{name}.log"

    def _rotate_logs(self) -> None:
        for name in (*self._slots, "reconcile", "ledger"):
            if rotate(self._log_file(name)) and name in self._slots:
                process = self._slots[name].process
                if process:
                    process.log_start = 0

    def _publish(self) -> None:
        self._notice.write(
            {
                "pid": os.getpid(),
                "guardian": self._guard.pid,
                "ready": self._all_ready(),
                "problem": self._gate.problem or self._location.problem,
                "url": self._ports.url,
                "web_port": self._ports.web,
                "code_port": self._ports.code,
                **{name: list(self._slots[name].address or []) for name in LISTENERS},
                "sites": self._slots["receiver"].sites,
                "services": {
                    name: {"pid": slot.process.pid if slot.process else None, "ready": slot.ready}
                    for name, slot in self._slots.items()
                },
            }
        )
