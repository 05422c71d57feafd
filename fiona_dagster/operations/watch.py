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
LOOK_AGAIN = 60.0
"""Seconds until the webserver is asked again what it has loaded; sooner when it is not."""
COULD_NOT_PAUSE = 5.0
"""Seconds until it is asked again after the machine could not have another process."""
STILL_LOADING = 3
"""Exit code of :mod:`location`."""


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
        problems = tuple(configuration_problems(self._root))
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


def configuration_problems(root: DataRoot) -> list[str]:
    """Everything that is wrong with config.json, project files and rules; empty when all is well."""
    from fiona_dagster.studies import load_rules  # loads pydicom: only when something changed

    problems = check(root)
    try:
        load_rules(root.rules_file)
    except ConfigurationError as error:
        problems.append(str(error))
    return problems


class CodeLocation:
    """Whether the webserver has our definitions loaded; it is asked by processes of their own.

    Attributes:
        loaded: they are.
        problem: why not, in one line; empty while nobody knows.

    Args:
        url: the webserver.
        environment: of the processes that ask.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self._url = url
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._next = 0.0
        self._failures = 0
        self._could_not = False
        self.loaded = False
        self.problem = ""

    @property
    def busy(self) -> bool:
        """A question is under way."""
        return self._process is not None

    def forget(self) -> None:
        """Nothing is known any more: the code server or the webserver starts anew."""
        self.end()
        self.loaded, self.problem, self._next, self._failures = False, "", 0.0, 0

    def step(self, *, reload: bool) -> bool:
        """One look; asks when it is time.

        Args:
            reload: the definitions are to be loaded again; repeat it until it is taken up.

        Returns:
            Whether ``reload`` was taken up.
        """
        if self._process is not None:
            self._answered(self._process)
            return False
        late = time.monotonic() >= self._next
        if self._could_not and not late:
            return False
        if not (reload or late):
            return False
        # What could not be loaded may be sound by now, also without a change that we see.
        self._process = self._ask(reload=reload or bool(self.problem))
        return reload and self._process is not None

    def _ask(self, *, reload: bool) -> subprocess.Popen[str] | None:
        """A process that asks; None when the machine can't have one now."""
        try:
            process = subprocess.Popen(
                (
                    *(sys.executable, "-m", "fiona_dagster.operations.location", self._url, LOCATION),
                    *(["reload"] if reload else []),
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                text=True,
            )
        except OSError as error:
            if not self._could_not:
                log.error("nobody can ask for the definitions (%s); it is tried again", error)  # noqa: TRY400
            self._could_not = True
            self._next = time.monotonic() + COULD_NOT_PAUSE
            return None
        self._could_not = False
        return process

    def _answered(self, process: subprocess.Popen[str]) -> None:
        code = process.poll()
        if code is None:
            return
        output, _ = process.communicate()
        self._process = None
        self._failures = self._failures + 1 if code not in (0, STILL_LOADING) else 0
        pause = min(2.0**self._failures, LOOK_AGAIN) if code else LOOK_AGAIN
        self._next = time.monotonic() + pause
        if code != STILL_LOADING:
            self.loaded = code == 0
            self.problem = "" if code == 0 else (output.strip() or f"exit code {code}")

    def end(self) -> None:
        """Ends a question that is under way."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
