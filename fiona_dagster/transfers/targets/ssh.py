"""An SFTP connection to a server whose host key is pinned.

Belongs here: sockets, algorithms, authentication, the meaning of errors. Stays out: what is sent.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from fiona_dagster.config import DataRoot, SftpTarget, resolve
from fiona_dagster.errors import (
    ConfigurationError,
    DeliveryRefused,
    FionaError,
    PeerNotTrusted,
    PeerUnavailable,
    StorageFull,
)
from fiona_dagster.transfers.targets.kept import KEEPER
from fiona_dagster.transfers.targets.packets import Packets

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
"""GCM first: 1.4 times faster than paramiko's own order, which puts it behind 3des."""
DIGESTS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
HOST_KEY_TYPES = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Type of a pinned key -> signature algorithms that we accept with it; never SHA-1."""

_LOG_CHANNEL = "fiona_dagster.paramiko"
"""paramiko logs remote paths and tracebacks; both go nowhere, since every error is raised as one of ours."""


@dataclass(frozen=True)
class Link:
    """An open connection.

    Attributes:
        client: paramiko's client.
        channel: what the client speaks over.
        openssh: the peer takes requests of more than 32 KiB.
        name: how messages call the target.
    """

    client: paramiko.SFTPClient
    channel: paramiko.Channel
    openssh: bool
    name: str


@contextlib.contextmanager
def connection(target: SftpTarget, root: DataRoot, name: str) -> Iterator[Link]:
    """Connects, checks the host key, signs in; closes at the end whatever happens.

    Where connections are kept (``targets.kept``) one with the same settings is taken up again, and left open
    if all went well.

    Args:
        target: where.
        root: relative key files lie below its ``config/``.
        name: how messages call the target.

    Raises:
        ConfigurationError: the pinned key or the private key is unusable.
        PeerNotTrusted: the host key is not the pinned one.
        DeliveryRefused: the server does not let us in.
        PeerUnavailable: no connection, or it broke.
    """
    key = (name, root.path, target.model_dump_json())
    kept = KEEPER.take(key)
    if kept is not None and not _lives(kept[0]):
        kept[1].close()
        kept = None
    link, closing = kept or _connect(target, root, name)
    try:
        with errors(name, "talking to it"):
            yield link
    except BaseException:
        closing.close()  # nobody knows what is still under way on it
        raise
    KEEPER.give(key, link, closing)


def _lives(link: Link) -> bool:
    return link.channel.get_transport().is_active() and not link.channel.closed


def _connect(target: SftpTarget, root: DataRoot, name: str) -> tuple[Link, contextlib.ExitStack]:
    """A connection, and what closes it."""
    kind, pinned = _pinned(target, name)
    logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL + 1)
    with errors(name, "connecting"), contextlib.ExitStack() as stack:
        keys = stack.enter_context(_keys(target, root, name))
        transport = paramiko.Transport(stack.enter_context(_socket(target)), packetizer_class=Packets)
        stack.callback(_close, transport)
        # Several waits inside paramiko have no time-out of their own: closing ends them all.
        watchdog = threading.Timer(target.timeout_seconds, transport.close)
        watchdog.daemon = True
        watchdog.start()
        stack.callback(watchdog.cancel)
        _handshake(transport, target, kind, pinned, name)
        _sign_in(transport, target, keys, name)
        channel = transport.open_session(timeout=target.timeout_seconds)
        channel.settimeout(target.timeout_seconds)
        channel.invoke_subsystem("sftp")
        client = paramiko.SFTPClient(channel)
        stack.callback(_close, client)
        watchdog.cancel()
        openssh = b"openssh" in transport.remote_version.lower().encode()
        return Link(client, channel, openssh, name), stack.pop_all()


def _close(opened: paramiko.Transport | paramiko.SFTPClient) -> None:
    """Closes what may be broken already: what was done, or what went wrong before, is what counts."""
    with contextlib.suppress(Exception):
        opened.close()


@contextlib.contextmanager
def errors(name: str, doing: str) -> Iterator[None]:
    """Turns paramiko's and the socket's errors into ours; their texts stay behind, they quote paths."""
    try:
        yield
    except FionaError:
        raise
    except paramiko.ssh_exception.IncompatiblePeer:
        raise DeliveryRefused(
            f"target {name}: the server has neither a host key of the pinned type nor modern ciphers in "
            "common with us; if its key was changed on purpose, pin the new one (host_key)"
        ) from None
    except (paramiko.SSHException, paramiko.SFTPError, EOFError, TimeoutError, ConnectionError) as error:
        raise PeerUnavailable(f"target {name}: connection lost while {doing} ({_kind(error)})") from None
    except OSError as error:
        raise os_error(name, doing, error) from None
    except Exception as error:
        if not _came_from_ssh(error):
            raise
        raise PeerUnavailable(f"target {name}: no SSH while {doing} ({_kind(error)})") from None


def _came_from_ssh(error: Exception) -> bool:
    """Whether paramiko met something that makes no sense: it passes on whatever its decoders raise."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = str(last.tb_frame.f_globals.get("__name__", "")) if last is not None else ""
    return module.startswith(("paramiko.", "cryptography.", Packets.__module__))


def os_error(name: str, doing: str, error: OSError) -> FionaError:
    """The error of ours that an ``OSError`` of socket or SFTP means."""
    if error.errno == errno.EACCES:
        return DeliveryRefused(f"target {name}: permission denied while {doing}; ask the server's operator")
    if error.errno == errno.ENOENT:
        return DeliveryRefused(
            f"target {name}: no such folder while {doing}; create it or correct `directory`"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"target {name}: the remote disk is full; free space there")
    return PeerUnavailable(f"target {name}: failed while {doing} ({_kind(error)})")


def _kind(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return errno.errorcode.get(number, type(error).__name__) if number else type(error).__name__


def _pinned(target: SftpTarget, name: str) -> tuple[str, str]:
    kind, _, rest = target.host_key.strip().partition(" ")
    encoded = rest.split()[0] if rest.split() else ""
    if kind not in HOST_KEY_TYPES or not encoded:
        raise ConfigurationError(
            f"target {name}: host_key: expected a line like `ssh-ed25519 AAAA...` as ssh-keyscan prints it"
        )
    return kind, encoded


@contextlib.contextmanager
def _keys(target: SftpTarget, root: DataRoot, name: str) -> Iterator[list[paramiko.PKey]]:
    if not target.agent:
        yield [_private_key(target, root, name)]
        return
    none = ConfigurationError(
        f"target {name}: agent: there is no SSH agent with a key (SSH_AUTH_SOCK of the service names it)"
    )
    # paramiko leaks a socket when nobody listens there.
    if not Path(os.environ.get("SSH_AUTH_SOCK", "")).is_socket():
        raise none
    agent = paramiko.Agent()
    try:
        keys: list[paramiko.PKey] = list(agent.get_keys())
        if not keys:
            raise none
        yield keys
    finally:
        agent.close()


def _private_key(target: SftpTarget, root: DataRoot, name: str) -> paramiko.PKey:
    path = resolve(root, target.private_key_file)
    try:
        return paramiko.PKey.from_path(path)
    except paramiko.PasswordRequiredException:
        reason = "is protected by a passphrase; give one without"
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
        reason = "is no private key of a kind that is supported"
    raise ConfigurationError(f"target {name}: private_key_file {path}: {reason}")


def _socket(target: SftpTarget) -> socket.socket:
    sock = socket.create_connection((target.host, target.port), timeout=target.timeout_seconds)
    # paramiko leaves Nagle on: 26 times slower on small files.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _handshake(transport: paramiko.Transport, target: SftpTarget, kind: str, pinned: str, name: str) -> None:
    transport.set_log_channel(_LOG_CHANNEL)
    transport.banner_timeout = target.timeout_seconds
    transport.auth_timeout = target.timeout_seconds
    options = transport.get_security_options()
    options.ciphers = CIPHERS
    options.digests = DIGESTS
    # Asking for the pinned type only: a server with several keys shows the one that we know.
    options.key_types = HOST_KEY_TYPES[kind]
    transport.start_client(timeout=target.timeout_seconds)
    shown = transport.get_remote_server_key()
    if shown.get_base64() != pinned:
        raise PeerNotTrusted(
            f"target {name}: the host key has changed (it shows {shown.fingerprint}); nothing was sent. "
            "If the server was renewed on purpose, pin the new key (host_key)"
        )


def _sign_in(
    transport: paramiko.Transport, target: SftpTarget, keys: Sequence[paramiko.PKey], name: str
) -> None:
    for key in keys:
        with contextlib.suppress(paramiko.AuthenticationException):
            transport.auth_publickey(target.username, key)
            return
        if not transport.is_active():
            raise PeerUnavailable(f"target {name}: connection lost while signing in")
    raise DeliveryRefused(
        f"target {name}: the server does not accept our key for user {target.username}; "
        "add its public half to the account"
    )
