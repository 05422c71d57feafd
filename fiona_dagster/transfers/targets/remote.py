"""Files at an SFTP server: open, write, read back, flush, rename; every error is one of ours.

Belongs here: what SFTP and OpenSSH's extensions can do with one file. Stays out: which file, and what proves
that it arrived.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

import paramiko
from paramiko.sftp import CMD_RENAME, CMD_STAT

from fiona_dagster.errors import DeliveryRefused, PeerUnavailable, StorageFull
from fiona_dagster.transfers.targets.hashing import Hashing
from fiona_dagster.transfers.targets.pipeline import (
    OPENSSH_REQUEST,
    OTHER_REQUEST,
    Pipeline,
    Reading,
    Writing,
    attributes_of,
)
from fiona_dagster.transfers.targets.ssh import Link, errors

CHUNK = 1 << 20
EXTENDED = 200
"""SSH_FXP_EXTENDED."""


def size_of(link: Link, path: str, *, blind: bool = False) -> int | None:
    """Bytes of a remote file, None if there is none.

    Args:
        link: the connection.
        path: the remote file.
        blind: a server that does not let us look counts as one that has none.

    Raises:
        DeliveryRefused: something that is no file, or no permission.
    """
    with errors(link.name, "looking at the remote folder"):
        try:
            attributes = link.client.stat(path)
        except FileNotFoundError:
            return None
        except PermissionError:
            if blind:
                return None
            raise
    if attributes.st_mode is not None and not stat.S_ISREG(attributes.st_mode):
        raise DeliveryRefused(
            f"target {link.name}: something that is no file lies there under the package's name"
        )
    return attributes.st_size or 0


@contextlib.contextmanager
def opened(link: Link, path: str, mode: str) -> Iterator[paramiko.SFTPFile]:
    """Opens a remote file with requests as large as the server takes."""
    file = link.client.open(path, mode)
    file.MAX_REQUEST_SIZE = OPENSSH_REQUEST if link.openssh else OTHER_REQUEST
    try:
        yield file
    finally:
        file.close()


class NotWritten(PeerUnavailable):
    """The server failed to write; what lies there may have holes."""


@contextlib.contextmanager
def full_disk(link: Link, path: str) -> Iterator[None]:
    """A failed write that may mean a full disk is looked into.

    Raises:
        StorageFull: there is no room for another chunk.
        NotWritten: there is, and the server failed for a reason that it does not tell.
    """
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno is not None or link.channel.closed:
            raise
        check_room(link, path, CHUNK)  # SSH_FX_FAILURE: version 3 has no code for "disk full"
        raise NotWritten(
            f"target {link.name}: the server fails to write and does not say why; trying again may help"
        ) from None


def finished(link: Link, remote: Writing) -> tuple[bool, int | None]:
    """Flushes and closes a file; whether the server put it on its disk, and the size that it says.

    Raises:
        StorageFull: it could not flush for want of room.
    """
    not_flushed, size = remote.finish()
    if not_flushed is not None and not_flushed.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StorageFull(f"target {link.name}: the remote disk is full; free space there")
    return not_flushed is None, size


def check_room(link: Link, path: str, needed: int) -> None:
    """Asks for free space where the server can say it (OpenSSH PROTOCOL, section 4.4: statvfs).

    Raises:
        StorageFull: there is less than ``needed`` bytes.
    """
    with errors(link.name, "asking for free space"):
        try:
            reply = extended(link, "statvfs@openssh.com", posixpath.dirname(path) or ".")
        except TimeoutError:
            raise
        except OSError:
            return  # not offered, or the folder is missing: opening the file will say so
    if reply is None:
        return
    _, fragment, _, _, available = (reply.get_int64() for _ in range(5))
    if fragment * available < needed:
        raise StorageFull(
            f"target {link.name}: the remote disk has {fragment * available} bytes free, {needed} are "
            "needed; free space there"
        )


def extended(link: Link, request: str, *arguments: Any) -> paramiko.Message | None:
    """An extended request; its reply, or None for a plain success."""
    kind, reply = link.client._request(EXTENDED, request, *arguments)  # type: ignore[attr-defined]
    return reply if kind == EXTENDED + 1 else None


def digest_of(link: Link, path: str, size: int) -> str | None:
    """SHA-256 of a remote file, read back byte for byte; None when it does not have ``size`` bytes."""
    done = 0
    with errors(link.name, "reading back"), Reading(link, path, size) as remote, Hashing() as sha256:
        if remote.length != size:
            return None
        for piece in remote.pieces():
            sha256.update(piece)
            done += len(piece)
        return sha256.hexdigest() if done == size else None


def begins_as(link: Link, path: str, size: int, local: BinaryIO) -> bool:
    """Whether a remote file of ``size`` bytes is the beginning of the local one."""
    done = 0
    with errors(link.name, "comparing what is there"), Reading(link, path, size) as remote:
        for piece in remote.pieces():
            if piece != local.read(len(piece)):
                return False
            done += len(piece)
    return done == size


def read_text(link: Link, path: str, limit: int = 1024) -> str | None:
    """The first bytes of a small remote file as text; None if there is none."""
    with errors(link.name, "reading a checksum file"):
        try:
            with opened(link, path, "rb") as remote:
                return remote.read(limit).decode("latin-1")
        except FileNotFoundError:
            return None


def name_it(link: Link, part: str, final: str) -> int | None:
    """Renames a file and asks for its size under the new name, in one round trip; the size, None: not there.

    Raises:
        OSError: the server did not rename, as when the new name exists.
    """
    pipeline = Pipeline(link)
    renamed = pipeline.ask(CMD_RENAME, part.encode(), final.encode())
    looked = pipeline.ask(CMD_STAT, final.encode())
    pipeline.answer(renamed)
    try:
        said = pipeline.answer(looked)
    except (FileNotFoundError, PermissionError):
        return None
    return None if said is None else attributes_of(said).st_size


def remove(link: Link, path: str) -> None:
    """Removes a remote file; one that is not there is fine."""
    with errors(link.name, "removing a temporary file"), contextlib.suppress(FileNotFoundError):
        link.client.remove(path)


def part_name(path: str) -> str:
    """The temporary name of a remote file, in the same folder."""
    folder, base = posixpath.split(path)
    return posixpath.join(folder, f".{base}.fiona-part")
