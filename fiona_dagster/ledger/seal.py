"""Seals what names people before it goes into the ledger: a copy of the ledger's file alone tells no name.

The key is made at first use, in ``config/secrets/persons.seal``. Nothing depends on it: what can't be opened
any more is read from the archive again.
"""

from __future__ import annotations

import json
import os
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from fiona_dagster.config import DataRoot

if TYPE_CHECKING:
    from cryptography.fernet import Fernet


def seal_of(root: DataRoot) -> Fernet:
    """The seal of a data root; makes its key when there is none, or when it is none."""
    path = root.secrets / "persons.seal"
    try:
        return _fernet(path.read_bytes().strip())
    except (FileNotFoundError, ValueError):
        from cryptography.fernet import Fernet

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(Fernet.generate_key())
        part.replace(path)  # of two at once one wins; what the other sealed is read from the archive again
        return _fernet(path.read_bytes().strip())


@lru_cache(maxsize=8)
def _fernet(key: bytes) -> Fernet:
    from cryptography.fernet import Fernet  # most processes that open the ledger ask for nobody

    return Fernet(key)


def opened(seal: Fernet, sealed: bytes) -> dict[str, Any] | None:
    """What was sealed; None when it was sealed with another key."""
    from cryptography.fernet import InvalidToken

    try:
        found = json.loads(seal.decrypt(sealed))
    except InvalidToken:
        return None
    return found if isinstance(found, dict) else None
