"""The program that talks to peers beside Dagster's runs: ``python -m fiona_dagster.transfers.outreach``.

It asks sources, fetches, and reports storage commitment. One thread for each peer, so that a dead one holds
up nobody else. What is to be done stands in the ledger or the landing zone, what was said goes there: the
program may be killed at any moment and goes on where it was.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from fiona_dagster.config import UMASK, DataRoot, load_settings_in_force
from fiona_dagster.errors import FionaError
from fiona_dagster.transfers import commitment, fetching, notifications, sources
from fiona_dagster.transfers.context import Gateway

log = logging.getLogger("fiona.outreach")

PAUSE_SECONDS = 2.0
FAULT_PAUSE_SECONDS = 30.0

Round = Callable[[Gateway], int]


def rounds(gateway: Gateway) -> dict[str, Round]:
    """What is to be done again and again, by name: each has a thread of its own."""

    def questions(name: str) -> Round:
        return lambda opened: sources.answer_questions(opened, name) + fetching.fetch_missing(opened, name)

    def requests(site: str, ae: str) -> Round:
        return lambda opened: commitment.answer_requests(opened, site, ae)

    def digests(name: str) -> Round:
        return lambda opened: notifications.send_due(opened, name)

    return {
        **{f"notifications {name}": digests(name) for name in gateway.settings.notifications},
        **{f"source {name}": questions(name) for name in gateway.settings.sources},
        **{f"commitment {ae} {site}": requests(site, ae) for site, ae in commitment.peers_of(gateway)},
    }


def run(root: DataRoot) -> int:
    """Works until SIGTERM or SIGINT and returns the exit code 0.

    Prints ``at work`` to stdout, flushed, as soon as it is.

    Raises:
        ConfigurationError: there is no usable configuration.
    """
    os.umask(UMASK)
    _log_to_stderr()
    load_settings_in_force(root)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Gateway(root) as gateway:
        todo = rounds(gateway)
    for name, work in todo.items():
        threading.Thread(target=_repeat, args=(root, name, work, ended), name=name, daemon=True).start()
    sys.stdout.write("at work\n")
    sys.stdout.flush()
    ended.wait()
    return 0  # daemon threads end here: everything that counts is in the ledger


def _repeat(root: DataRoot, name: str, work: Round, ended: threading.Event) -> None:
    while not ended.is_set():
        pause = PAUSE_SECONDS
        try:
            with Gateway(root) as gateway:
                work(gateway)
        except FionaError as error:
            log.error("%s: %s", name, error)  # noqa: TRY400 - the message is for an operator
            pause = FAULT_PAUSE_SECONDS
        except Exception as error:  # noqa: BLE001 - one thread must never take others with it
            last = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400 - a traceback would quote values
                "%s: internal fault: %s in %s:%s", name, type(error).__name__, last.name, last.lineno
            )
            pause = FAULT_PAUSE_SECONDS
        ended.wait(pause)


def _log_to_stderr() -> None:
    logger = logging.getLogger("fiona")
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def main() -> int:
    """Runs on the data root of the environment; one line and exit code 2 when it can't start."""
    try:
        return run(DataRoot.from_environment())
    except FionaError as error:
        sys.stderr.write("fiona: " + " ".join(str(error).split()) + "\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
