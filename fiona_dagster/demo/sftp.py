"""A small SFTP server on loopback: one user, one key, one folder (SFTP version 3 on paramiko)."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)
from paramiko.sftp import SFTP_OK

USERNAME = "fiona"


def _make_key(path: Path) -> paramiko.Ed25519Key:
    """The key in a file, made if it is not there, mode 0600."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        part = path.with_name(f".{path.name}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(data)
        part.replace(path)
    return paramiko.Ed25519Key(filename=str(path))


class SftpServer:
    """Serves ``folder/files`` on a free port of loopback until closed.

    Args:
        folder: keys lie in it (``host_key``, ``user_key``), files in ``files``.

    Use::

        with SftpServer(folder) as server:
            print(server.describe())
    """

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.private_key = folder / "user_key"
        self._host = _make_key(folder / "host_key")
        self._user = _make_key(self.private_key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._transports: list[paramiko.Transport] = []
        self._thread = threading.Thread(target=self._serve, name="demo-sftp", daemon=True)
        self._thread.start()

    def __enter__(self) -> SftpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host_key(self) -> str:
        """Public host key as a target pins it."""
        return f"{self._host.get_name()} {self._host.get_base64()}"

    def describe(self) -> dict[str, Any]:
        """What a target in config.json needs to know."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": USERNAME,
            "private_key_file": str(self.private_key),
            "host_key": self.host_key,
            "directory": ".",
            "files": str(self.files),
        }

    def close(self) -> None:
        """Stops listening and ends all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for transport in self._transports:
            transport.close()
            transport.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._host)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files, self.files)
            self._transports = [known for known in self._transports if known.is_active()]
            self._transports.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                # With an event it returns at once; a visitor who never speaks must not hold up the others.
                transport.start_server(event=threading.Event(), server=_Door(self._user))


class _Door(paramiko.ServerInterface):
    """Lets one user in with one key, to sessions only."""

    def __init__(self, user: paramiko.PKey) -> None:
        self._user = user

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == USERNAME and key == self._user
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return OPEN_SUCCEEDED
        return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


class _Files(paramiko.SFTPServerInterface):
    """Files below one folder; every path is taken relative to it, ``..`` can't leave it."""

    def __init__(self, server: paramiko.ServerInterface, folder: Path) -> None:
        super().__init__(server)
        self._folder = folder

    def _path(self, path: str) -> Path:
        return self._folder / self.canonicalize(path).lstrip("/")

    def list_folder(self, path: str) -> Any:
        try:
            found = list(self._path(path).iterdir())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return [paramiko.SFTPAttributes.from_stat(entry.lstat(), entry.name) for entry in found]

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(self._path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Any:
        try:
            descriptor = os.open(self._path(path), flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            mode = "rb" if not flags & (os.O_WRONLY | os.O_RDWR) else "r+b" if flags & os.O_RDWR else "wb"
            stream = os.fdopen(descriptor, mode, buffering=0)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle = paramiko.SFTPHandle(flags)
        handle.filename = str(path)  # type: ignore[attr-defined]
        handle.readfile = stream  # type: ignore[attr-defined]
        handle.writefile = stream  # type: ignore[attr-defined]
        handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(stream.fileno()))  # type: ignore[method-assign]
        return handle

    def remove(self, path: str) -> int:
        return _done(lambda: self._path(path).unlink())

    def rename(self, oldpath: str, newpath: str) -> int:
        # As OpenSSH does it: a link fails where the new name exists.
        def link() -> None:
            self._path(newpath).hardlink_to(self._path(oldpath))
            self._path(oldpath).unlink()

        return _done(link)

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return _done(lambda: self._path(oldpath).replace(self._path(newpath)))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return _done(lambda: self._path(path).mkdir(mode=0o700))

    def rmdir(self, path: str) -> int:
        return _done(lambda: self._path(path).rmdir())

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return SFTP_OK


def _done(action: Any) -> int:
    try:
        action()
    except OSError as error:
        return int(paramiko.SFTPServer.convert_errno(error.errno or 0))
    return SFTP_OK
