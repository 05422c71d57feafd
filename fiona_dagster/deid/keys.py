"""Project keys: 32 secret bytes a project, from which every replaced identity comes (design section 8)."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from fiona_dagster.config import PROJECT_NAME, DataRoot
from fiona_dagster.errors import ConfigurationError, KeyMismatch

_HEX = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class ProjectKey:
    """The key of one project.

    Attributes:
        project: its name.
        secret: 32 bytes; never printed, logged, or part of ``repr``.
    """

    project: str
    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without telling them: stands in the ledger and in every report."""
        return hmac.new(self.secret, b"fiona fingerprint", sha256).hexdigest()[:32]

    @classmethod
    def load(cls, root: DataRoot, project: str) -> ProjectKey | None:
        """The key from ``FIONA_KEY_<PROJECT>`` or ``config/secrets/<PROJECT>.key``, or ``None``.

        Raises:
            ConfigurationError: not 64 hexadecimal digits, can't be read, or others may read it.
        """
        if not PROJECT_NAME.fullmatch(project):
            raise ConfigurationError(f"project name {project!r}: must be 1 to 20 letters, digits or _")
        name = f"FIONA_KEY_{project}"
        if os.environ.get(name):
            return cls(project, _decoded(os.environ[name], name))
        path = root.secrets / f"{project}.key"
        try:
            mode = path.stat().st_mode
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{path}: the project key can't be read ({error.strerror})") from None
        if mode & 0o077:
            raise ConfigurationError(f"{path}: others may read the project key; run chmod 600 on it")
        return cls(project, _decoded(content.decode("ascii", "replace"), str(path)))

    @classmethod
    def make(cls, root: DataRoot, project: str) -> ProjectKey:
        """Makes the key file; if another process was faster, its key counts."""
        key = cls(project, secrets.token_bytes(32))
        root.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root.secrets / f"{project}.key"
        part = root.secrets / f".{project}.{os.getpid()}-{secrets.token_hex(4)}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
            handle.write(key.secret.hex() + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(part, path)  # unlike rename, never replaces a key
        except FileExistsError:
            there = cls.load(root, project)
            if there is None:
                raise KeyMismatch(f"{path}: appeared and went; try again") from None
            key = there
        finally:
            part.unlink(missing_ok=True)
        directory = os.open(root.secrets, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return key


def _decoded(content: str, where: str) -> bytes:
    if not _HEX.fullmatch(content.strip()):
        raise ConfigurationError(f"{where}: a project key is 64 hexadecimal digits; restore the backup")
    return bytes.fromhex(content.strip())


def project_key(
    root: DataRoot,
    project: str,
    recorded: Callable[[str], str | None],
    record: Callable[[str, str], None],
    *,
    make: bool,
) -> ProjectKey:
    """The one key of a project, checked against the fingerprint of its first use.

    Args:
        root: the data root.
        project: its name.
        recorded: asks the ledger for the fingerprint of a project.
        record: tells the ledger a fingerprint.
        make: make a key if there is none and none was ever recorded.

    Raises:
        KeyMismatch: missing though it should be there, or another one than before.
        ConfigurationError: the key can't be read.
    """
    known = recorded(project)
    key = ProjectKey.load(root, project)
    if key is None:
        if known is not None or not make:
            why = "its fingerprint is recorded, so it existed" if known else "none was made"
            raise KeyMismatch(
                f"{root.secrets / f'{project}.key'}: the key of project {project} is missing ({why}); "
                "restore it from the backup: a new key would split every participant"
            )
        key = ProjectKey.make(root, project)
    if known is None:
        record(project, key.fingerprint)
    elif not hmac.compare_digest(known, key.fingerprint):
        raise KeyMismatch(
            f"project {project}: the key has fingerprint {key.fingerprint}, recorded is {known}; "
            "restore the right key: another one would split every participant"
        )
    return key
