"""The receiver as a service: settings, log, processes, the line that says it answers."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.landing import Use, prepare_counters
from receiver.listener import Listener
from receiver.log import log_to_stderr
from receiver.places import Places
from receiver.server import Receiver
from receiver.workers import Workers

if TYPE_CHECKING:
    from fiona_dagster.config import ReceiverSettings
    from fiona_dagster.config.apart import SettingsApart


_MOST = 4


def run(root: DataRoot, reading: SettingsApart) -> int:
    """Serves until SIGTERM or SIGINT, drains, and returns the exit code 0.

    Prints ``listening on HOST:PORT`` to stdout, flushed, as soon as connections are answered.

    Args:
        root: the data root.
        reading: its settings, on their way; the umask was set before.

    Raises:
        ConfigurationError: no configuration, or the address can't be listened on.
        ErasureUnfinished, Busy: an erasure has the data root to itself, or was cut short.
    """
    log_to_stderr()
    if not root.path.is_dir():
        raise ConfigurationError(f"{root.path}: no data root; run `fiona init` or set FIONA_DATA")
    with Use(root):  # inherited by its workers
        return _run(root, reading)


def _run(root: DataRoot, reading: SettingsApart) -> int:
    settings, problem = reading.result()
    if problem:
        logging.getLogger("fiona.receiver").warning("the last good configuration is in force: %s", problem)
    _raise_descriptor_limit()
    try:
        listeners = Listener.all_of(root, settings)
        for name, site in settings.SITES.items():
            listeners += Listener.all_of(root.of_site(name), site)
        for listener in listeners:
            listener.root.make()
        prepare_counters(root.counters_file)
        _serve(listeners, settings.receiver)
    except OSError as error:
        raise ConfigurationError(
            f"{root.path}: can't be written ({error.strerror}); check the disk"
        ) from None
    return 0


def _serve(listeners: list[Listener], settings: ReceiverSettings) -> None:
    places = Places(settings.max_associations)

    def close() -> None:
        for listener in listeners:
            listener.close()

    count = settings.processes or _automatic()
    if count == 1:
        receiver = Receiver(listeners, places)

        def on_signal(number: int, frame: FrameType | None) -> None:
            receiver.stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        _say(listeners)
        receiver.serve()
        return
    workers = Workers(
        count,
        lambda number, adopt: Receiver(listeners, places, number=number, adopt=adopt),
        places=places,
        drain_seconds=settings.drain_seconds,
        close=close,
    )
    workers.start()
    _say(listeners)
    workers.run()


def _automatic() -> int:
    """A process for each processor, up to four: one alone is kept from working by Python's lock."""
    return min(len(os.sched_getaffinity(0)), _MOST)


def _say(listeners: list[Listener]) -> None:
    for listener in listeners:
        host, port = listener.address
        site = f" for {listener.root.site_name}" if listener.root.site_name else ""
        sys.stdout.write(f"listening on {host}:{port}{site}{' (TLS)' if listener.tls else ''}\n")
    sys.stdout.flush()


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
