"""``fiona up`` from its beginning to its end: the log, then the supervisor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging.handlers import RotatingFileHandler

from fiona_dagster.config import DataRoot
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
        Supervisor(root, say, programs).run()
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
