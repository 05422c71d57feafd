"""A port that is listened on, and where its objects go."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError
from receiver.admission import Admission

if TYPE_CHECKING:
    from fiona_dagster.config import ReceiverSettings, Settings, SiteSettings
    from receiver.tls import Tls

_BACKLOG = 1024
"""Connections that the kernel keeps for us; longer than a flood needs to be accepted away."""


class Listener:
    """A listening socket with the data root and the settings behind it.

    Made once, before processes are forked; each of them accepts from the same queue, so that nobody who waits
    in it is lost with a process that dies.

    Args:
        root: the data root that its objects go to, with the ``site/`` tree that is meant.
        settings: ``config.json``, or what one of its ``SITES`` says.
        beside: listen on the port of ``receiver.tls`` in place of DICOMPORT.

    Attributes:
        tls: what secures its connections; None if they are plain.

    Raises:
        ConfigurationError: the address can't be listened on, or the files of ``receiver.tls`` don't work.
    """

    def __init__(self, root: DataRoot, settings: Settings | SiteSettings, *, beside: bool = False) -> None:
        self.root = root
        self.settings: ReceiverSettings = settings.receiver
        self.admission = Admission(settings.receiver, settings.DICOMAETITLE)
        tls, port = settings.receiver.tls, settings.DICOMPORT
        self.tls: Tls | None = None
        if tls is not None and (beside or tls.port is None):
            from receiver.tls import Tls

            self.tls = Tls(root, tls)
            port = port if tls.port is None else tls.port
        self.socket = _listen(settings.DICOMIP, port)
        self.socket.setblocking(False)
        host, port = self.socket.getsockname()[:2]
        self.address: tuple[str, int] = (host, port)

    @classmethod
    def all_of(cls, root: DataRoot, settings: Settings | SiteSettings) -> list[Listener]:
        """The plain one, and the one of ``receiver.tls`` if that has a port of its own."""
        tls = settings.receiver.tls
        beside = [cls(root, settings, beside=True)] if tls is not None and tls.port is not None else []
        return [cls(root, settings), *beside]

    def close(self) -> None:
        """Stops listening, as far as this process is concerned."""
        self.socket.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {host}:{port} ({error.strerror}); is another receiver running? "
            "Change DICOMIP, DICOMPORT or receiver.tls.port in config.json"
        ) from None
