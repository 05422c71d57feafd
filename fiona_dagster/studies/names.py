"""Names on disk from unchecked values."""

from __future__ import annotations

import hashlib
import string

MAX_NAME = 120
"""Longest name, in characters; file systems allow 255 bytes and suffixes need room."""
_SAFE = frozenset((string.ascii_letters + string.digits + "._-").encode())


def safe_name(text: str) -> str:
    """A file name for any text: never empty, hidden, a path, or too long; different texts, different names.

    Bytes (UTF-8) outside ``[A-Za-z0-9._-]`` are percent-encoded, so is a leading point. What gets longer than
    :data:`MAX_NAME` is cut and ends with a part of its SHA-256.
    """
    data = text.encode("utf-8", "surrogatepass")
    name = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in data)
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > MAX_NAME:
        name = name[: MAX_NAME - 33] + "-" + hashlib.sha256(data).hexdigest()[:32]
    return name or "%"
