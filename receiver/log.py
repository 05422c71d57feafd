"""The log of the receiver's processes: stderr, UTC, without values of attributes."""

from __future__ import annotations

import logging
import time


def log_to_stderr() -> None:
    """Sends everything below the logger ``fiona`` to stderr, once."""
    logger = logging.getLogger("fiona")
    if not logger.handlers:
        handler = logging.StreamHandler()
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
