"""The network edge: DICOM in, files out.

Belongs here: sockets, threads, the acceptor's side of associations, C-ECHO and C-STORE.
Stays out: dagster, and everything of fiona_dagster but dicom, landing, config and errors.
"""

from receiver.run import run
from receiver.server import Receiver

__all__ = ["Receiver", "run"]
