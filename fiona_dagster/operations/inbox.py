"""The process that empties the drop folder; ``fiona up`` starts it.

Belongs here: the loop, its log lines, its end. Stays out: when a file is taken and removed (landing).
Log lines hold counts only, since names of files may identify patients.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace

from fiona_dagster.config import UMASK, DataRoot, Settings, load_settings_in_force
from fiona_dagster.errors import Busy, FionaError
from fiona_dagster.landing import Landing
from fiona_dagster.landing.inbox import Inbox, Pass, Stopped, hold_inbox
from fiona_dagster.operations.services import INBOX_READY

log = logging.getLogger("fiona.inbox")


def watch(root: DataRoot, settings: Settings, stop: threading.Event) -> None:
    """Takes what is dropped until ``stop`` is set; faults of disk and folder are said once and tried again.

    Args:
        root: the data root.
        settings: its configuration.
        stop: ends it between two files, or two entries of an archive.
    """
    pause = settings.imports.poll_seconds
    told = _Told()
    while not stop.is_set():
        try:
            with hold_inbox(root), Landing(root, reserve_mb=settings.receiver.reserve_mb) as landing:
                inbox = make_inbox(root, landing, settings, stop)
                while not stop.is_set():
                    told.about(inbox.look())
                    stop.wait(pause)
        except Stopped:
            return
        except (Busy, FionaError, OSError) as error:
            told.trouble(error)
            stop.wait(pause)


def empty(root: DataRoot, settings: Settings) -> Pass:
    """Takes once what lies in the inbox: looks, lets it settle, and looks again until nothing more comes out.

    Returns:
        All that was done, and what is still there.

    Raises:
        Busy: a running service does it already.
    """
    with hold_inbox(root), Landing(root, reserve_mb=settings.receiver.reserve_mb) as landing:
        inbox = make_inbox(root, landing, settings, threading.Event())
        taken, total = 0, inbox.look().report
        while True:
            time.sleep(settings.imports.settle_seconds)
            last = inbox.look()
            taken += last.taken
            total.add(last.report)
            if not last.taken:
                return replace(last, taken=taken, report=total)


def make_inbox(root: DataRoot, landing: Landing, settings: Settings, stop: threading.Event) -> Inbox:
    """The inbox of a data root as it is configured."""
    return Inbox(
        root,
        landing,
        settle_seconds=settings.imports.settle_seconds,
        max_unpacked=int(settings.imports.max_unpacked_gb * 2**30),
        stop=stop.is_set,
    )


class _Told:
    """What was said already: a state is logged when it begins, not at every look."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._trouble = ""

    def about(self, result: Pass) -> None:
        """Logs what a pass did, and states that are new."""
        self._trouble = ""
        report = result.report
        if result.taken:
            log.info(
                "%d files taken: %d stored, %d repeats, %d conflicts, %d to quarantine; %d wait",
                *(result.taken, report.stored, report.repeats, report.conflicts, report.quarantined),
                result.waiting,
            )
        if report.missing or report.directories_damaged:
            log.warning("a DICOMDIR lists %d instances that did not come, or is damaged", report.missing)
        self._state("unreadable", result.unreadable, "%d files or folders can't be read and stay")
        self._state("stuck", result.not_removable, "%d files were imported but can't be removed")
        held_up = result.waiting if result.held_up else 0
        self._state("held up", held_up, "%d files wait, since the disk is full or can't be written")

    def _state(self, name: str, count: int, message: str) -> None:
        if count > self._before.get(name, 0):
            log.warning(message, count)
        self._before[name] = count

    def trouble(self, error: Exception) -> None:
        """Logs what keeps the inbox from being looked at, once."""
        text = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
        if text != self._trouble:
            log.error("the inbox can't be emptied: %s", text)
        self._trouble = text


def main() -> int:
    """Runs until SIGTERM or SIGINT."""
    os.umask(UMASK)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    root = DataRoot.from_environment()
    settings, problem = load_settings_in_force(root)
    if problem:
        log.warning("the last good configuration is in force: %s", problem)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info(INBOX_READY)
    watch(root, settings, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
