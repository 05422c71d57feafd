"""Sees that the configuration changed, checks it, and has the code location loaded again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fiona_dagster.config import DataRoot, check, configuration_digest, receiver_enabled
from fiona_dagster.operations.services import LOCATION

INTERVAL = 2.0


@dataclass(frozen=True)
class Change:
    """A configuration that differs from the last one seen; ``problems`` is empty when it is sound."""

    problems: tuple[str, ...]


class ConfigurationWatch:
    """Compares the configuration's digest every two seconds.

    Attributes:
        reload_wanted: a sound change has not been loaded yet.
        receiver_on: what the switch file says.
    """

    def __init__(self, root: DataRoot, interval: float = INTERVAL) -> None:
        self._root = root
        self._interval = interval
        self._digest = configuration_digest(root)
        self._next = 0.0
        self.reload_wanted = False
        self.receiver_on = receiver_enabled(root)

    def look(self) -> Change | None:
        """What changed since the last look, at most once in an interval."""
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + self._interval
        self.receiver_on = receiver_enabled(self._root)
        digest = configuration_digest(self._root)
        if digest == self._digest:
            return None
        self._digest = digest
        problems = tuple(check(self._root))
        if not problems:
            self.reload_wanted = True
        return Change(problems)


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
