"""A DICOM application entity elsewhere, and the TLS towards it (BCP 195, PS3.15 annex B)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fiona_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl

_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:@SECLEVEL=2"
)
"""For TLS 1.2: what RFC 9325 section 4.2 recommends, as the receiver has it. TLS 1.3 has its own."""


@dataclass(frozen=True)
class PeerTls:
    """How a connection to a peer is secured; its certificate is always verified.

    Attributes:
        ca_file: PEM file of the authorities that may vouch for the peer; None: those of the system.
        certificate: PEM file of our own certificate, with the chain; None: the peer wants none.
        key: PEM file of its key, without a passphrase.
        server_name: what the peer's certificate must be made out to; empty: the peer's host.
    """

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or 1.3 with these files, read anew.

        Raises:
            ConfigurationError: a file can't be used.
        """
        import ssl  # it has its weight, and the receiver imports this module

        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise _unusable(f"ca_file {self.ca_file}", error) from None
        return self._hardened(context)

    def server_context(self) -> ssl.SSLContext:
        """The same for connections that the peer makes to us; it has to show a certificate.

        Raises:
            ConfigurationError: a file can't be used, or there is no certificate of ours.
        """
        import ssl

        if self.certificate is None:
            raise ConfigurationError("TLS to a peer: certificate: needed where the peer connects to us")
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca_file)
        except (OSError, ValueError) as error:
            raise _unusable(f"ca_file {self.ca_file}", error) from None
        context.verify_mode = ssl.CERT_REQUIRED
        return self._hardened(context)

    def _hardened(self, context: ssl.SSLContext) -> ssl.SSLContext:
        import ssl

        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
            except (OSError, ValueError) as error:
                raise _unusable(f"certificate {self.certificate} with key {self.key}", error) from None
        return context


@dataclass(frozen=True)
class Peer:
    """A DICOM application entity elsewhere.

    Attributes:
        host: name or address.
        port: TCP port.
        called: its AE title.
        calling: ours.
        timeout: seconds that any single wait may take.
        tls: how the connection is secured; None: it is not.
    """

    host: str
    port: int
    called: str
    calling: str = "FIONA"
    timeout: float = 30.0
    tls: PeerTls | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.called} at {self.host}:{self.port}"


def _no_password() -> str:
    """In place of a question on a terminal that nobody sits at."""
    raise ValueError("the key is encrypted; store it without a passphrase and with mode 0600")


def _unusable(what: str, error: OSError | ValueError) -> ConfigurationError:
    reason = getattr(error, "reason", None)  # OpenSSL's word for it
    if reason:
        why = str(reason).lower().replace("_", " ")
    else:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return ConfigurationError(f"TLS to a peer: {what} can't be used ({why})")
