"""Peers for the demo, for users without Debian packages: an SFTP server and a research PACS on loopback.

``python -m fiona_dagster.demo.peers --dir DIR`` runs both until SIGTERM and prints one JSON line when they
answer. They are honest but small; tests use real OpenSSH and Orthanc.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from fiona_dagster.demo.pacs import ResearchPacs
from fiona_dagster.demo.sftp import SftpServer

__all__ = ["ResearchPacs", "SftpServer", "main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs both peers until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m fiona_dagster.demo.peers", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder for keys and for what arrives")
    folder: Path = parser.parse_args(arguments).dir.absolute()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with SftpServer(folder / "sftp") as sftp, ResearchPacs(folder / "pacs") as pacs:
        line: dict[str, Any] = {"sftp": sftp.describe(), "pacs": pacs.describe()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    socket.setdefaulttimeout(None)
    sys.exit(main())
