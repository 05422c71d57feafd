"""Who may reach the receiver, as ``config.json`` says it: titles, networks, certificates, TLS."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fiona_dagster.config.section import Section


def _ae_title(value: str) -> str:
    title = value.strip(" ")
    if not 0 < len(title) <= 16 or not all(" " <= c <= "~" and c != "\\" for c in title):
        raise ValueError("an AE title is 1 to 16 printable ASCII characters without backslash (PS3.5 6.2)")
    return title


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value.strip()))
    except ValueError as error:
        raise ValueError(f"not an IP network like 10.1.2.0/24, 2001:db8::/32 or 10.1.2.3: {error}") from None


def _certificate(value: str) -> str:
    if value.startswith("CN=") and len(value) > 3:
        return value
    digits = value.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(
            "a certificate is named by CN=<common name> or its SHA-256 fingerprint in hexadecimal"
        )
    return digits


AeTitle = Annotated[str, AfterValidator(_ae_title)]
"""An AE title (PS3.5 section 6.2): spaces around it mean nothing, capitals do."""
OptionalAeTitle = Annotated[str, AfterValidator(lambda value: value and _ae_title(value))]
"""The same; empty: another setting's is taken."""
Network = Annotated[str, AfterValidator(_network)]
"""An IPv4 or IPv6 network in CIDR notation, or one address."""


CertificateName = Annotated[str, AfterValidator(_certificate)]
"""A client certificate: ``CN=<common name>``, or its SHA-256 fingerprint in hexadecimal."""


class AllowedCaller(Section):
    """One rule of who may send: all that it names must be true at once."""

    ae_title: AeTitle | None = None
    """Calling AE title; absent: any."""
    networks: tuple[Network, ...] = ()
    """Where it must call from; empty: anywhere."""
    called: tuple[AeTitle, ...] = ()
    """Called AE titles that it may use; empty: all that the receiver answers to."""
    certificates: tuple[CertificateName, ...] = ()
    """Client certificates of which it must show one (TLS); empty: none is asked for by this rule."""

    @model_validator(mode="after")
    def _says_something(self) -> AllowedCaller:
        if self.ae_title is None and not self.networks and not self.certificates:
            raise ValueError(
                "a rule must name ae_title, networks or certificates; accept_unknown lets anybody send"
            )
        return self


class TlsSettings(Section):
    """TLS by the BCP 195 profile (PS3.15 section B.12: RFC 8996, RFC 9325)."""

    port: int | None = Field(None, ge=0, le=65535)
    """A port for TLS beside the plain one; 0: chosen freely; None: DICOMPORT itself speaks TLS only."""
    certificate: str
    """Our certificate with its chain, PEM; relative: below config/."""
    key: str
    """Its private key, PEM, without a passphrase; relative: below config/."""
    ca_file: str = ""
    """Certificates that vouch for client certificates, PEM; a CRL in the same file is heeded."""
    require_client_certificate: bool = True
    """Whether a sender must have a certificate."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""

    @model_validator(mode="after")
    def _has_authorities(self) -> TlsSettings:
        if self.require_client_certificate and not self.ca_file:
            raise ValueError("require_client_certificate needs ca_file, which says whom to trust")
        return self
