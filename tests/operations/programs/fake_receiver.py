"""Listens and says so, like ``python -m receiver``."""

from __future__ import annotations

import signal
import socket

with socket.create_server(("127.0.0.1", 0)) as server:
    print("listening on {}:{}".format(*server.getsockname()), flush=True)  # noqa: T201
    signal.pause()
