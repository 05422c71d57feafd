"""Delivery of a package to an SFTP server, proven by reading every byte back.

The package goes to a temporary name, is flushed where the server can, is read back and compared, and only
then gets its name; nothing that has the name is ever overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from fiona_dagster.config import DataRoot, SftpTarget
from fiona_dagster.errors import (
    DeliveryRefused,
    FionaError,
    NotVerified,
    PeerUnavailable,
    StorageFull,
    UsageError,
)
from fiona_dagster.transfers.targets import Proof, utc_now
from fiona_dagster.transfers.targets.ssh import Link, connection, errors

CHUNK = 1 << 20
OPENSSH_REQUEST = 131072
"""Bytes of one write or read; OpenSSH takes up to 256 KiB."""
OTHER_REQUEST = 32768
"""What every SFTP server must take (draft-ietf-secsh-filexfer-02, section 3)."""
READ_AHEAD = 64
"""Read requests under way at a time; bounds memory."""
EXTENDED = 200
"""SSH_FXP_EXTENDED."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+\-]{0,200}")


@dataclass(frozen=True)
class _Local:
    """What is to lie at the other side, and a call that raises when it may not go there any more."""

    path: Path
    size: int
    md5: str
    sha256: str
    may_go_on: Callable[[], None]


def deliver_sftp(
    target: SftpTarget,
    root: DataRoot,
    package: Path,
    expected_sha256: str,
    *,
    remote_name: str,
    begin: Callable[[], object],
    name: str = "sftp",
    may_go_on: Callable[[], None] = lambda: None,
) -> Proof:
    """Brings one package to an SFTP server and proves that it is there, byte for byte.

    Args:
        target: where.
        root: relative key files lie below its ``config/``.
        package: the ZIP.
        expected_sha256: the package's digest in the ledger; anything else is not sent.
        remote_name: file name at the other side; ``.md5`` and ``.sha256`` come beside it.
        begin: called before the first byte leaves; writes that down.
        name: the target's name in config.json, for messages and the proof.
        may_go_on: called before every MiB; what it raises ends the delivery.

    Returns:
        A proof of kind ``sftp-readback``; ``counts["sent"]`` is 0 when the same bytes were there before.

    Raises:
        NotVerified: the bytes in hand are not those of the ledger.
        DeliveryRefused: host key changed, no permission, or other content under our name.
        StorageFull: the remote disk is full.
        PeerUnavailable: no connection, it broke, or what arrived is not what was sent.
    """
    if not _NAME.fullmatch(remote_name):
        raise UsageError(
            f"target {name}: the package's remote name may hold only letters, digits and . _ + -"
        )
    local = _hash(package, expected_sha256, may_go_on)
    with connection(target, root, name) as link:
        final = posixpath.join(target.directory, remote_name)
        may_go_on()
        begin()
        sent = _bring(link, local, final)
        for kind, digest in (("md5", local.md5), ("sha256", local.sha256)):
            _put_text(link, f"{final}.{kind}", f"{digest}  {remote_name}\n".encode())
    return Proof(
        kind="sftp-readback",
        target=name,
        time=utc_now(),
        counts={"files": 3, "bytes": local.size, "sent": int(sent)},
        digests={"md5": local.md5, "sha256": local.sha256},
        private={"remote_path": final},
    )


def _hash(package: Path, expected_sha256: str, may_go_on: Callable[[], None]) -> _Local:
    md5, sha256, size = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        with package.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                md5.update(chunk)
                sha256.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise NotVerified(f"the package can't be read ({error.strerror}); package the study again") from None
    if sha256.hexdigest() != expected_sha256:
        raise _not_verified()
    return _Local(package, size, md5.hexdigest(), expected_sha256, may_go_on)


def _not_verified() -> NotVerified:
    return NotVerified("the package in hand is not the one in the ledger; package the study again")


def _bring(link: Link, local: _Local, final: str) -> bool:
    """Returns whether something had to be sent."""
    if _already_there(link, local, final):
        return False
    part = _part_name(final)
    try:
        _send(link, local, part)
        _compare(link, local, part)
        local.may_go_on()
        _give_name(link, local, part, final)
    except FionaError:
        with contextlib.suppress(FionaError):
            _remove(link, part)
        raise
    return True


def _already_there(link: Link, local: _Local, final: str) -> bool:
    size = _size(link, final)
    if size is None:
        return False
    if size != local.size or _read_back(link, final, size) != local.sha256:
        raise DeliveryRefused(
            f"target {link.name}: other content ({size} bytes, ours has {local.size}) lies there under the "
            "package's name; it is never overwritten: have it moved away there, then deliver again"
        )
    return True


def _part_name(path: str) -> str:
    folder, base = posixpath.split(path)
    return posixpath.join(folder, f".{base}.fiona-part")


def _size(link: Link, path: str) -> int | None:
    with errors(link.name, "looking at the remote folder"):
        try:
            attributes = link.client.stat(path)
        except FileNotFoundError:
            return None
    if attributes.st_mode is not None and not stat.S_ISREG(attributes.st_mode):
        raise DeliveryRefused(
            f"target {link.name}: something that is no file lies there under the package's name"
        )
    return attributes.st_size or 0


def _send(link: Link, local: _Local, part: str) -> None:
    _check_room(link, part, local.size)
    sha256 = hashlib.sha256()
    with errors(link.name, "sending"), local.path.open("rb") as stream:
        with _opened(link, part, "wb") as remote:
            remote.set_pipelined(True)
            while chunk := stream.read(CHUNK):
                local.may_go_on()
                sha256.update(chunk)
                _write(link, remote, chunk, part)
            _flush(link, remote)
            arrived = remote.stat().st_size
        if sha256.hexdigest() != local.sha256:
            raise _not_verified()
        if arrived != local.size:
            # Writes are answered late: a full disk may show only here.
            _check_room(link, part, local.size - (arrived or 0))
            raise PeerUnavailable(
                f"target {link.name}: only {arrived} of {local.size} bytes arrived; trying again may help"
            )


def _write(link: Link, remote: paramiko.SFTPFile, chunk: bytes, part: str) -> None:
    try:
        remote.write(chunk)
    except TimeoutError:
        raise
    except OSError as error:
        if error.errno is None:  # SSH_FX_FAILURE: version 3 has no code for "disk full"
            _check_room(link, part, len(chunk))
        raise


@contextlib.contextmanager
def _opened(link: Link, path: str, mode: str) -> Iterator[paramiko.SFTPFile]:
    file = link.client.open(path, mode)
    file.MAX_REQUEST_SIZE = OPENSSH_REQUEST if link.openssh else OTHER_REQUEST
    try:
        yield file
    finally:
        file.close()


def _flush(link: Link, remote: paramiko.SFTPFile) -> None:
    # OpenSSH PROTOCOL, section 4.4. paramiko has no public call for it and hides who announces it.
    with contextlib.suppress(OSError):
        _extended(link, "fsync@openssh.com", remote.handle)


def _check_room(link: Link, path: str, needed: int) -> None:
    """Asks for free space where the server can say it (OpenSSH PROTOCOL, section 4.4: statvfs)."""
    with errors(link.name, "asking for free space"):
        try:
            reply = _extended(link, "statvfs@openssh.com", posixpath.dirname(path) or ".")
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


def _extended(link: Link, request: str, argument: Any) -> paramiko.Message | None:
    kind, reply = link.client._request(EXTENDED, request, argument)  # type: ignore[attr-defined]
    return reply if kind == EXTENDED + 1 else None


def _compare(link: Link, local: _Local, part: str) -> None:
    if _read_back(link, part, local.size) != local.sha256:
        raise PeerUnavailable(
            f"target {link.name}: what lies there differs from what was sent; removed, trying again may help"
        )


def _read_back(link: Link, path: str, size: int) -> str | None:
    """SHA-256 of the remote file, or None when it does not have ``size`` bytes."""
    sha256, done = hashlib.sha256(), 0
    with errors(link.name, "reading back"), _opened(link, path, "rb") as remote:
        if remote.stat().st_size != size:
            return None
        _read_ahead(remote, size)
        while chunk := remote.read(CHUNK):
            sha256.update(chunk)
            done += len(chunk)
    return sha256.hexdigest() if done == size else None


def _read_ahead(remote: paramiko.SFTPFile, size: int) -> None:
    ask = remote._prefetch_thread  # type: ignore[attr-defined]

    def quietly(*arguments: Any) -> None:
        # paramiko asks ahead in a thread; when the connection breaks, the reader says so, not a traceback.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            ask(*arguments)

    remote._prefetch_thread = quietly  # type: ignore[attr-defined]
    remote.prefetch(size, max_concurrent_requests=READ_AHEAD)


def _give_name(link: Link, local: _Local, part: str, final: str) -> None:
    # SFTP's own rename fails where the new name exists (draft 02, section 6.5): no race can overwrite.
    with errors(link.name, "renaming"):
        try:
            link.client.rename(part, final)
        except PermissionError:
            raise
        except OSError:
            if _already_there(link, local, final):
                _remove(link, part)
                return
            link.client.posix_rename(part, final)
    if _size(link, final) != local.size:
        raise PeerUnavailable(
            f"target {link.name}: the package is not there after renaming; trying again may help"
        )


def _remove(link: Link, path: str) -> None:
    with errors(link.name, "removing a temporary file"), contextlib.suppress(FileNotFoundError):
        link.client.remove(path)


def _put_text(link: Link, path: str, text: bytes) -> None:
    """Writes a checksum file; one that is right already stays, an outdated one is replaced."""
    digest = hashlib.sha256(text).hexdigest()
    if _size(link, path) == len(text) and _read_back(link, path, len(text)) == digest:
        return
    part = _part_name(path)
    with errors(link.name, "writing a checksum file"):
        with _opened(link, part, "wb") as remote:
            remote.write(text)
            _flush(link, remote)
        if _read_back(link, part, len(text)) != digest:
            raise PeerUnavailable(
                f"target {link.name}: a checksum file did not arrive; trying again may help"
            )
        try:
            link.client.posix_rename(part, path)
        except PermissionError:
            raise
        except OSError:
            # A server without the extension: the file is derived from the package, so it may go first.
            _remove(link, path)
            link.client.rename(part, path)
