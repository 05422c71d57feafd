"""Sees that the configuration changed, checks it, and has the code location loaded again."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fiona_dagster.config import DataRoot, Switches, check, configuration_digest, read_switches
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.operations.services import LOCATION

log = logging.getLogger("fiona.up")

INTERVAL = 2.0


@dataclass(frozen=True)
class Change:
    """A configuration that differs from the last one seen; ``problems`` is empty when it is sound."""

    problems: tuple[str, ...]


class ConfigurationWatch:
    """Compares the configuration's digest every two seconds.

    Attributes:
        reload_wanted: a sound change has not been loaded yet.
        switches: what the switch file says, or said last if it can't be read.
    """

    def __init__(self, root: DataRoot, interval: float = INTERVAL) -> None:
        self._root = root
        self._interval = interval
        self._digest = configuration_digest(root)
        self._next = 0.0
        self.reload_wanted = False
        self.switches = Switches()
        self._unreadable = False
        self._read_switches()

    def look(self) -> Change | None:
        """What changed since the last look, at most once in an interval."""
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + self._interval
        self._read_switches()
        digest = configuration_digest(self._root)
        if digest == self._digest:
            return None
        self._digest = digest
        problems = tuple(check(self._root))
        if not problems:
            self.reload_wanted = True
        return Change(problems)

    def _read_switches(self) -> None:
        try:
            switches = read_switches(self._root)
        except ConfigurationError as error:
            if not self._unreadable:
                log.error("%s; what it said before stays in force", error)  # noqa: TRY400
            self._unreadable = True
            return
        self._unreadable = False
        for name, on in asdict(switches).items():
            if on != getattr(self.switches, name):
                log.warning("%s is switched %s in %s", name, "on" if on else "off", self._root.enabled_file)
        self.switches = switches


class Reload:
    """A running request to the webserver to load the code location again."""

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "fiona_dagster.operations.reload", url, LOCATION),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            cwd="/",
            text=True,
        )

    def result(self) -> str | None:
        """``None`` while it runs; then what went wrong, or an empty text."""
        code = self._process.poll()
        if code is None:
            return None
        output, _ = self._process.communicate()
        return "" if code == 0 else (output.strip() or f"exit code {code}")

    def end(self) -> None:
        """Ends the request."""
        self._process.kill()
        self._process.communicate()
