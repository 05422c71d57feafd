"""Signatures of packages: Ed25519 (RFC 8032) with a key that comes from the project's own.

Belongs here: the key pair, signing and checking a digest, the public key as a file. Stays out: what is signed
(``transfers.writing``) and what a check means (``transfers.verify``). Ed25519 is deterministic, so that
signed packages stay reproducible. Nothing new has to be kept safe: who restores the project's key signs as
before.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from pathlib import Path

from fiona_dagster.errors import UsageError

PURPOSE = b"fiona package signature ed25519 1"
CONTEXT = b"FIONA package 2\n"
"""Stands before the digest in what is signed, so that a signature can't serve anything else."""

_HEX = re.compile(r"[0-9a-f]{64}")


class SigningKey:
    """The secret half, derived from the 32 bytes of a project's key (HMAC-SHA-256 with :data:`PURPOSE`).

    Attributes:
        public: the public key, 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        seed = hmac.new(secret, PURPOSE, sha256).digest()
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> bytes:
        """Signature (64 bytes) of a SHA-256."""
        return self._key.sign(CONTEXT + digest)


def signature_holds(public: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the owner of a public key signed this SHA-256."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, CONTEXT + digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_pem(public: bytes) -> str:
    """The public key as a PEM file (SubjectPublicKeyInfo, RFC 8410), which openssl reads too."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(public)
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, kind).decode("ascii")


def read_public(path: Path) -> bytes:
    """The public key in a file: PEM as :func:`public_pem` writes it, or 64 hexadecimal digits.

    Raises:
        UsageError: no such file, or no Ed25519 public key in it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        content = path.read_bytes()[: 1 << 16]
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror}); name a public key file") from None
    text = content.decode("ascii", "replace").strip().lower()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            f"{path}: no Ed25519 public key; the sender writes it with `fiona project key PROJECT --public`"
        )
    return key.public_bytes_raw()
