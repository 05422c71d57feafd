"""What proves that an SFTP server has a package: in the order that the target's configuration trusts them.

Belongs here: asking, and what an answer means. Stays out: bringing the bytes there.
"""

from __future__ import annotations

import posixpath
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paramiko

from fiona_dagster.config.targets import SftpProofSetting
from fiona_dagster.errors import DeliveryRefused, ProofAwaited
from fiona_dagster.transfers.targets import ProofKind
from fiona_dagster.transfers.targets.local import Wanted
from fiona_dagster.transfers.targets.remote import digest_of, opened, read_text, size_of
from fiona_dagster.transfers.targets.ssh import Link, errors

SLOWEST_HASHING = 20_000_000
"""Bytes a second that a server is given time for when it takes a digest."""
COMMANDS = (
    ("sha256", "sha256sum"),
    ("sha256", "shasum -a 256"),
    ("md5", "md5sum"),
)
"""What is tried by exec, the best first; each reads the file on its standard input."""
LENGTHS = {"sha256": 64, "md5": 32}

_HEX = re.compile(r"\\?([0-9a-fA-F]{32,64})\b")


@dataclass(frozen=True)
class Answer:
    """What the server gave: whether it has the very bytes, and how we know."""

    kind: ProofKind
    same: bool


@dataclass(frozen=True)
class Proofs:
    """The setting ``proofs``, cut at the server's own checksum file, which comes after the file has its name.

    Attributes:
        at_once: kinds that are asked for before the file gets its name.
        server_file: whether the checksum file counts.
        later: kinds that are asked for when the checksum file does not come.
    """

    at_once: tuple[SftpProofSetting, ...]
    server_file: bool
    later: tuple[SftpProofSetting, ...]

    @classmethod
    def of(cls, proofs: tuple[SftpProofSetting, ...], *, archive: bool = True) -> Proofs:
        """The parts of a setting, in its order.

        Args:
            proofs: the setting.
            archive: False for the small files that lie beside archives: the other side's program writes no
                checksum of them (behaviour reference, 5.4), so they are read back in its place.
        """
        if not archive:
            proofs = tuple(dict.fromkeys("readback" if each == "md5sum_server" else each for each in proofs))
        if "md5sum_server" not in proofs:
            return cls(proofs, server_file=False, later=())
        where = proofs.index("md5sum_server")
        return cls(proofs[:where], server_file=True, later=proofs[where + 1 :])


def ask(link: Link, path: str, wanted: Wanted, kinds: Sequence[SftpProofSetting]) -> Answer | None:
    """Compares a remote file with what it is to be, by the first kind of proof that the server can give.

    Args:
        link: the connection.
        path: the remote file.
        wanted: size and digests.
        kinds: what counts, in this order; what can't be had at once is passed over.

    Returns:
        The answer, or None when the server can give none of these now.

    Raises:
        PeerUnavailable: the connection broke.
    """
    for kind in kinds:
        answer = _BY_KIND[kind](link, path, wanted) if kind in _BY_KIND else None
        if answer is not None:
            return answer
    return None


def _readback(link: Link, path: str, wanted: Wanted) -> Answer | None:
    try:
        return Answer("sftp-readback", digest_of(link, path, wanted.size) == wanted.sha256)
    except DeliveryRefused:  # a folder that may be written to but not read
        return None


def _digest(link: Link, path: str, wanted: Wanted) -> Answer | None:
    if size_of(link, path) != wanted.size:
        return Answer("sftp-digest", same=False)
    found = _by_check_file(link, path, wanted.size) or by_command(link, path, wanted.size)
    if found is None:
        return None
    return Answer("sftp-digest", wanted.has(*found))


def _by_check_file(link: Link, path: str, size: int) -> tuple[str, str] | None:
    """The extension of draft-ietf-secsh-filexfer-extensions-00, section 3, as SHA-256 or else MD5."""
    with errors(link.name, "asking for a digest"), opened(link, path, "rb") as remote:
        for algorithm, length in LENGTHS.items():
            channel = link.channel
            usual = channel.gettimeout()
            channel.settimeout((usual or 30.0) + size / SLOWEST_HASHING)
            try:
                digest = remote.check(algorithm, 0, 0, 0).hex()
            except TimeoutError:
                raise
            except (OSError, paramiko.SFTPError):
                continue
            finally:
                channel.settimeout(usual)
            if len(digest) == length:
                return algorithm, digest
    return None


def by_command(link: Link, path: str, size: int, first: int | None = None) -> tuple[str, str] | None:
    """Digest of a remote file, or of its ``first`` bytes, by a command that the server runs for us."""
    source = shlex.quote(path if path.startswith("/") else f"./{path}")
    for algorithm, command in COMMANDS:
        line = f"{command} < {source}" if first is None else f"head -c {first} < {source} | {command}"
        found = _HEX.match(_run(link, line, size))
        if found and len(found[1]) == LENGTHS[algorithm]:
            return algorithm, found[1].lower()
    return None


def _run(link: Link, line: str, size: int) -> str:
    """Standard output of a command, as far as a digest needs it; empty when the server runs none."""
    channel = link.channel
    transport, usual = channel.get_transport(), channel.gettimeout() or 30.0
    with errors(link.name, "asking for a digest"):
        try:
            session = transport.open_session(timeout=usual)
        except paramiko.ChannelException:
            return ""
        try:
            session.settimeout(usual + size / SLOWEST_HASHING)
            session.exec_command(line)
            return session.makefile("rb").read(200).decode("latin-1")
        except paramiko.SSHException:
            if not transport.is_active():
                raise
            return ""  # refused: the account is for SFTP alone
        finally:
            session.close()


def by_server_file(link: Link, path: str, wanted: Wanted, seconds: float) -> Answer:
    """The MD5 that a program of the other side writes beside a file that has its name.

    Args:
        link: the connection.
        path: the remote file; the MD5 lies in ``<path>.md5sum_server``, or in the same without the extension.
        wanted: size and digests.
        seconds: how long it is waited for in this attempt.

    Raises:
        ProofAwaited: it is not there yet.
    """
    deadline = time.monotonic() + seconds
    names = (f"{path}.md5sum_server", f"{posixpath.splitext(path)[0]}.md5sum_server")
    while True:
        for name in names:
            found = _HEX.match(read_text(link, name) or "")
            if found and len(found[1]) == LENGTHS["md5"] and _is_newer(link, name, path):
                same = size_of(link, path) == wanted.size and wanted.has("md5", found[1])
                return Answer("sftp-md5sum-server", same)
        if time.monotonic() >= deadline:
            raise ProofAwaited(
                f"target {link.name}: the package is there, the server's own checksum (md5sum_server) is "
                "not yet; it is looked for again"
            )
        time.sleep(min(0.5, max(seconds / 10, 0.05)))


def _is_newer(link: Link, checksum: str, path: str) -> bool:
    """Whether the checksum is of this file: one that is older was left from a file that lay there before."""
    with errors(link.name, "looking at the remote folder"):
        try:
            made, arrived = link.client.stat(checksum).st_mtime, link.client.stat(path).st_mtime
        except FileNotFoundError:
            return False
    return made is not None and arrived is not None and made >= arrived


_BY_KIND: dict[str, Callable[[Link, str, Wanted], Answer | None]] = {
    "readback": _readback,
    "digest": _digest,
}
