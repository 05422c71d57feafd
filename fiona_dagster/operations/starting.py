"""``fiona up`` from its beginning to its end: the log, a ledger that is gone, then the supervisor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging.handlers import RotatingFileHandler

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import FionaError
from fiona_dagster.ledger.condition import why_lost
from fiona_dagster.operations.process import LOG_BYTES, LOG_GENERATIONS
from fiona_dagster.operations.services import Programs
from fiona_dagster.operations.supervisor import Supervisor

log = logging.getLogger("fiona.up")


def up(root: DataRoot, say: Callable[[str], None], programs: Programs | None = None) -> None:
    """Runs the services until SIGTERM or SIGINT; see :class:`.supervisor.Supervisor`.

    To be called in the main thread.

    Args:
        root: an initialised data root.
        say: prints a line for people.
        programs: the modules to run.
    """
    root.make()
    file = RotatingFileHandler(root.logs / "fiona.log", maxBytes=LOG_BYTES, backupCount=LOG_GENERATIONS)
    file.handleError = lambda record: None  # type: ignore[method-assign] # a full disk; stderr has it
    handlers: list[logging.Handler] = [logging.StreamHandler(), file]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        rebuild_if_lost(root)
        Supervisor(root, say, programs).run()
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def rebuild_if_lost(root: DataRoot) -> None:
    """Takes over what records and journals tell; without it images are received and nothing else happens."""
    why = why_lost(root)
    if not why:
        return
    from fiona_dagster.operations.rebuild import rebuild

    log.warning("%s: %s; it is built anew from journals and records", root.ledger_file, why)
    try:
        result = rebuild(root, trees=False)
    except (FionaError, OSError) as error:
        log.error("%s; images are received, nothing is processed until `fiona rebuild` ran", error)  # noqa: TRY400
        return
    for problem in result.problems:
        log.error("%s", problem)
    log.warning("the ledger knows %d studies again, %d by their records", result.studies, result.records)
