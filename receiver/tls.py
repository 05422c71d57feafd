"""TLS on a listener: BCP 195 (RFC 8996, RFC 9325) as PS3.15 section B.12 asks for, with client certificates.

Belongs here: the context, its renewal when files change, the handshake, who the certificate names. Stays out:
what a certificate may do (:mod:`admission`). Imported only where TLS is configured: ``ssl`` has its weight.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fiona_dagster.config import DataRoot
from fiona_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from fiona_dagster.config import TlsSettings

log = logging.getLogger("fiona.receiver")

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:@SECLEVEL=2"
)
"""For TLS 1.2: what RFC 9325 section 4.2 recommends, all with forward secrecy. TLS 1.3 has its own."""

_LOOK = 1.0
_CRL = b"-----BEGIN X509 CRL-----"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Stamp = tuple[tuple[int, int, int], ...]


class HandshakeFailed(Exception):
    """No secure connection came about; the text is for a log line."""


class Tls:
    """The TLS of one listener in one process.

    New connections take the files as they are now, at most a second late; connections that are open keep what
    they have. Files that don't work leave the last ones that did in force, and say so once.

    Args:
        root: relative names lie below its ``config/``.
        settings: ``receiver.tls``.

    Raises:
        ConfigurationError: the files don't work.
    """

    def __init__(self, root: DataRoot, settings: TlsSettings) -> None:
        self._settings = settings
        names = (settings.certificate, settings.key, settings.ca_file)
        self._files = tuple(_resolve(root, name) if name else None for name in names)
        self._mutex = threading.Lock()
        self._stamp = self._stamps()
        self._context = self._load()
        self._look_at = time.monotonic() + _LOOK

    def wrap(self, sock: socket.socket, seconds: float) -> ssl.SSLSocket:
        """Secures a connection.

        Args:
            sock: connected; it belongs to what is returned afterwards.
            seconds: limit for the whole handshake.

        Raises:
            HandshakeFailed: the peer speaks no TLS, an old version, has no certificate, one that nobody
                vouches for, or none in time.
        """
        try:
            secured = self.context().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            sock.close()
            raise HandshakeFailed(error.strerror or "the connection broke") from None
        try:
            secured.settimeout(seconds)
            secured.do_handshake()
        except OSError as error:
            secured.close()
            raise HandshakeFailed(_reason(error)) from None
        return secured

    def context(self) -> ssl.SSLContext:
        """What is in force now."""
        with self._mutex:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + _LOOK
                self._renew()
            return self._context

    def _renew(self) -> None:
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._context = self._load()
        except ConfigurationError as error:
            log.error("%s; the last good certificate stays in force", error)  # noqa: TRY400 - for an operator
        else:
            log.info("new connections get the new certificate %s", self._files[0])

    def _stamps(self) -> Stamp:
        found = []
        for path in filter(None, self._files):
            try:
                status = path.stat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append((0, 0, 0))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        certificate, key, authorities = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._settings.minimum_version]
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            context.load_cert_chain(str(certificate), str(key), password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"receiver.tls: certificate {certificate} and key {key} can't be used ({_plain(error)})"
            ) from None
        if authorities is not None:
            try:
                context.load_verify_locations(str(authorities))
                if _CRL in authorities.read_bytes():
                    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
            except (OSError, ValueError) as error:
                raise ConfigurationError(
                    f"receiver.tls: ca_file {authorities} can't be used ({_plain(error)})"
                ) from None
        required = self._settings.require_client_certificate
        optional = ssl.CERT_OPTIONAL if authorities is not None else ssl.CERT_NONE
        context.verify_mode = ssl.CERT_REQUIRED if required else optional
        return context


def certificate_names(sock: ssl.SSLSocket) -> frozenset[str]:
    """What a rule's ``certificates`` may call the peer's certificate: its SHA-256, and ``CN=...``."""
    raw = sock.getpeercert(binary_form=True)
    if not raw:
        return frozenset()
    names = {hashlib.sha256(raw).hexdigest()}
    subject = (sock.getpeercert() or {}).get("subject", ())
    for relative in subject:
        names.update(f"CN={pair[1]}" for pair in relative if pair[0] == "commonName")
    return frozenset(names)


def _no_password() -> str:
    """In place of a question on a terminal that nobody sits at."""
    raise ValueError("the key is encrypted; store it without a passphrase and with mode 0600")


def _resolve(root: DataRoot, name: str) -> Path:
    path = Path(name)
    return path if path.is_absolute() else root.config / path


def _reason(error: OSError) -> str:
    """OpenSSL's words without what the peer may have put into a certificate."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"client certificate: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    return _plain(error)


def _plain(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "connection broke").lower().replace("_", " ")
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "") or str(error)
