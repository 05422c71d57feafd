"""The network edge: DICOM in, files out.

Belongs here: sockets, threads, the acceptor's side of associations, C-ECHO and C-STORE.
Stays out: dagster, and everything of fiona_dagster but dicom, landing, config and errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receiver.server import Receiver

__all__ = ["Receiver"]


def __getattr__(name: str) -> Any:
    """Imports the server when it is asked for: ``python -m receiver`` has better things to do first."""
    if name != "Receiver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from receiver.server import Receiver

    return Receiver
