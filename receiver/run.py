"""The receiver as a process: signals, log, the line that says it answers."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import time
from types import FrameType

from fiona_dagster.config import UMASK, DataRoot, load_settings_in_force
from fiona_dagster.errors import ConfigurationError
from receiver.server import Receiver


def run(root: DataRoot) -> int:
    """Serves until SIGTERM or SIGINT, drains, and returns the exit code 0.

    Prints ``listening on HOST:PORT`` to stdout, flushed, as soon as connections are answered.

    Args:
        root: the data root.

    Raises:
        ConfigurationError: no configuration, or the address can't be listened on.
    """
    os.umask(UMASK)
    _log_to_stderr()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    settings, problem = load_settings_in_force(root)
    if problem:
        logging.getLogger("fiona.receiver").warning("the last good configuration is in force: %s", problem)
    _raise_descriptor_limit()
    try:
        root.make()
        receiver = Receiver(root, settings)
    except OSError as error:
        raise ConfigurationError(
            f"{root.path}: can't be written ({error.strerror}); check the disk"
        ) from None

    def on_signal(number: int, frame: FrameType | None) -> None:
        receiver.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    host, port = receiver.address
    sys.stdout.write(f"listening on {host}:{port}\n")
    sys.stdout.flush()
    receiver.serve()
    return 0


def _log_to_stderr() -> None:
    logger = logging.getLogger("fiona")
    if not logger.handlers:
        handler = logging.StreamHandler()
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
