"""The package in hand, as targets that take files need it: hashed, safely named, the one of the ledger."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from fiona_dagster.dicom.opened import from_copy
from fiona_dagster.errors import NotVerified, UsageError
from fiona_dagster.transfers.targets import has_side_files
from fiona_dagster.transfers.targets.hashing import Hashing

CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+\-]{0,200}")


@dataclass(frozen=True)
class Wanted:
    """What is to lie at the other side: its bytes, MD5 and SHA-256 (hexadecimal)."""

    size: int
    md5: str
    sha256: str

    def has(self, algorithm: str, digest: str) -> bool:
        """Whether a digest is the right one."""
        return digest.lower() == (self.sha256 if algorithm == "sha256" else self.md5)


@dataclass(frozen=True)
class LocalPackage(Wanted):
    """The package that is to lie there, and a call that raises when it may not go there any more.

    Attributes:
        path: the ZIP.
        may_go_on: to be called before every MiB.
    """

    path: Path
    may_go_on: Callable[[], None]

    def open(self) -> BinaryIO:
        """The package, to be read; what the disk does not give is not the target's fault.

        Raises:
            NotVerified: it is gone.
            CopyUnavailable: the disk does not give it; also raised while it is read.
        """
        return BufferedReader(_Stream(self.path), CHUNK)

    def side_files(self, remote_name: str) -> dict[str, bytes]:
        """Ending -> content of what lies beside the package, as ``md5sum -c`` and the like read it."""
        if not has_side_files(remote_name):
            return {}
        return {
            f".{kind}": f"{digest}  {remote_name}\n".encode()
            for kind, digest in (("md5", self.md5), ("sha256", self.sha256))
        }


class _Stream(FileIO):
    """A file whose errors are those of our disk."""

    def __init__(self, path: Path) -> None:
        with from_copy():
            super().__init__(path, "rb")

    def readinto(self, room: Any) -> int:
        """See :class:`io.RawIOBase`."""
        with from_copy():
            return super().readinto(room)

    def readall(self) -> bytes:
        """See :class:`io.RawIOBase`."""
        with from_copy():
            return super().readall()


def in_hand(package: Path, expected_sha256: str, may_go_on: Callable[[], None]) -> LocalPackage:
    """Reads the whole package and compares it with the ledger: half of the gate.

    Args:
        package: the ZIP.
        expected_sha256: its digest in the ledger.
        may_go_on: kept for what follows.

    Raises:
        NotVerified: it is another one, or gone.
        CopyUnavailable: the disk does not give it.
    """
    size = 0
    with Hashing("md5") as md5, Hashing("sha256") as sha256:
        with from_copy("the package is gone; package the study again"), package.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                md5.update(chunk)
                sha256.update(chunk)
                size += len(chunk)
        if sha256.hexdigest() != expected_sha256:
            raise not_the_one()
        return LocalPackage(size, md5.hexdigest(), expected_sha256, package, may_go_on)


def not_the_one() -> NotVerified:
    """The bytes in hand are not those of the ledger."""
    return NotVerified("the package in hand is not the one in the ledger; package the study again")


def require_safe_name(remote_name: str, target: str) -> None:
    """Refuses a name that could mean something else at the other side.

    Raises:
        UsageError: it is not a plain file name.
    """
    if not _NAME.fullmatch(remote_name):
        raise UsageError(
            f"target {target}: the package's remote name may hold only letters, digits and . _ + -"
        )
