"""Where packages and instances are delivered: the section ``targets`` of ``config.json``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fiona_dagster.config.access import AeTitle, Network, OptionalAeTitle
from fiona_dagster.config.section import Section

SftpProofSetting = Literal["readback", "digest", "md5sum_server", "agreement"]
"""What may prove that an SFTP server has a package, the most trusted first.

``readback``: every byte is read back and compared. ``digest``: the server says its SHA-256 or MD5, by the
check-file extension or by running ``sha256sum`` or ``md5sum``. ``md5sum_server``: a program over there writes
the MD5 beside the package, as with the original. ``agreement``: nothing; a write-only drop box."""


class SftpTarget(Section):
    """An SFTP server that takes packages."""

    kind: Literal["sftp"]
    host: str
    port: int = Field(22, ge=1, le=65535)
    username: str
    private_key_file: str = ""
    """Private key without a passphrase; relative: below config/. Empty: keys of the SSH agent."""
    agent: bool = False
    """Sign in with a key of the SSH agent that SSH_AUTH_SOCK of the service names."""
    host_key: str
    """Pinned public host key, as in known_hosts: ``ssh-ed25519 AAAA...``."""
    directory: str = "."
    """Remote folder that packages are put into."""
    timeout_seconds: float = Field(30.0, gt=0)
    """Longest silence of the server."""
    megabytes_per_second: float | None = Field(None, gt=0)
    """Upper bound of what an upload takes of the line; None: as fast as it goes."""
    proofs: tuple[SftpProofSetting, ...] = Field(("readback",), min_length=1)
    """What counts as proof, in this order: the first that the server can give decides."""

    @model_validator(mode="after")
    def _can_sign_in(self) -> SftpTarget:
        if self.agent == bool(self.private_key_file):
            raise ValueError("either private_key_file or agent: true says how we sign in")
        return self

    @model_validator(mode="after")
    def _agreement_is_last(self) -> SftpTarget:
        if len(set(self.proofs)) != len(self.proofs):
            raise ValueError("proofs: each kind only once")
        if "agreement" in self.proofs and len(self.proofs) > 1:
            raise ValueError(
                "proofs: agreement stands alone; with another kind beside it a delivery without proof "
                "would look like one"
            )
        return self


class PeerTlsSettings(Section):
    """TLS towards a PACS (BCP 195, PS3.15 section B.12); its certificate is always verified."""

    ca_file: str = ""
    """Certificates that vouch for the PACS, PEM; relative: below config/. Empty: those of the system."""
    certificate: str = ""
    """Our certificate with its chain, PEM; relative: below config/. Empty: the PACS asks for none."""
    key: str = ""
    """Its private key, PEM, without a passphrase; relative: below config/."""
    server_name: str = ""
    """What the certificate of the PACS must be made out to. Empty: ``host`` of the target."""

    @model_validator(mode="after")
    def _key_and_certificate(self) -> PeerTlsSettings:
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        return self


class DicomTarget(Section):
    """A research PACS."""

    kind: Literal["dicom"]
    host: str
    port: int = Field(104, ge=1, le=65535)
    called_ae_title: AeTitle
    calling_ae_title: AeTitle = "FIONA"
    timeout_seconds: float = Field(30.0, gt=0)
    """Longest wait for a connection, for an association, and for an answer to an instance."""
    associations: int = Field(1, ge=1, le=16)
    """How many associations send one study at the same time."""
    commitment_hours: float | None = Field(None, gt=0)
    """Ask for storage commitment, and wait so long for the answer before C-FIND has to do; None: no."""
    compare: Literal["uncertain", "all", "none"] = "uncertain"
    """Which instances are retrieved and compared: those that were there before with bytes that nobody can
    vouch for, all, or none."""
    retrieve: Literal["get", "move"] = "get"
    """How they are retrieved: C-GET, or C-MOVE to a listener of the delivery's own."""
    move_ae_title: OptionalAeTitle = ""
    """For C-MOVE: our AE title as a move destination; the PACS knows it with our address and move_port."""
    move_port: int | None = Field(None, ge=1, le=65535)
    """For C-MOVE: TCP port that is listened on while instances are compared."""
    move_host: str = ""
    """For C-MOVE: address that is listened on. Empty: all of this machine."""
    move_from: tuple[Network, ...] = ()
    """For C-MOVE: further addresses that the PACS sends from, beside those of ``host``."""
    tls: PeerTlsSettings | None = None
    """How connections to it are secured; None: they are not."""

    @model_validator(mode="after")
    def _can_be_moved_to(self) -> DicomTarget:
        wanted = self.retrieve == "move"
        if wanted != bool(self.move_ae_title) or wanted != (self.move_port is not None):
            raise ValueError('move_ae_title and move_port go with retrieve: "move", and with nothing else')
        if wanted and self.tls is not None and not self.tls.certificate:
            raise ValueError('retrieve: "move" with tls needs tls.certificate: the PACS connects to us')
        return self


class FolderTarget(Section):
    """A folder that takes packages, mostly a mounted share."""

    kind: Literal["folder"]
    directory: str
    """Absolute path; it must exist, and is never made."""
    marker: str = Field(".fiona-target", pattern=r"^[A-Za-z0-9._\-]{0,100}$")
    """A file that somebody made in it once; without it the share counts as not mounted. Empty: the folder
    alone is enough."""
    file_mode: str = Field("0640", pattern=r"^0[0-7]{3}$")
    """Permissions of what is put there, in octal, where the file system has them."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Longest that the file system may take for one call."""

    @field_validator("directory")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not Path(value).is_absolute():
            raise ValueError("directory: an absolute path is needed")
        return value


class StowTarget(Section):
    """A DICOMweb server that takes instances."""

    kind: Literal["stow"]
    url: str
    """Where its services are: what comes before ``/studies``."""
    token_file: str = ""
    """File with a bearer token; relative: below config/."""
    username: str = ""
    """User of HTTP basic authentication."""
    password_file: str = ""
    """File with that user's password; relative: below config/."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
    certificate_file: str = ""
    """Our own certificate, where the server asks for one."""
    key_file: str = ""
    """Its key, without a passphrase."""
    compare: Literal["uncertain", "all", "none"] = "uncertain"
    """Which instances are retrieved and compared: those that were there before with bytes that nobody can
    vouch for, all, or none."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Longest silence of the server."""

    @model_validator(mode="after")
    def _is_safe(self) -> StowTarget:
        secret = bool(self.token_file or self.username)
        if bool(self.username) != bool(self.password_file) or (self.token_file and self.username):
            raise ValueError("either token_file, or username with password_file, or neither")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file go together")
        require_url("url", self.url, secret=secret)
        return self


class S3Target(Section):
    """A bucket of S3, or of a server that speaks like it, that takes packages."""

    kind: Literal["s3"]
    bucket: str = Field(min_length=3)
    prefix: str = Field("", pattern=r"^([A-Za-z0-9._\-]+/)*$")
    """What comes before a package's name; ends with a slash."""
    endpoint: str = ""
    """Address of the server; empty: Amazon's."""
    region: str = "us-east-1"
    path_style: bool = False
    """The bucket is part of the path, not of the host name; most servers other than Amazon's want that."""
    access_key_id: str = ""
    """Empty: what boto3 finds by itself (role of the machine, environment)."""
    secret_key_file: str = ""
    """File with the secret key; relative: below config/."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
    encryption: Literal["", "AES256", "aws:kms"] = ""
    """How the server encrypts what it keeps; empty: as the bucket says."""
    kms_key: str = ""
    """Key for ``aws:kms``."""
    proofs: tuple[Literal["checksum", "readback"], ...] = Field(("checksum", "readback"), min_length=1)
    """What counts as proof, in this order: the first that the server can give decides."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Longest silence of the server."""

    @model_validator(mode="after")
    def _is_safe(self) -> S3Target:
        if bool(self.access_key_id) != bool(self.secret_key_file):
            raise ValueError("access_key_id and secret_key_file go together")
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key: only with encryption aws:kms")
        if self.endpoint:
            require_url("endpoint", self.endpoint, secret=True)
        return self


def require_url(key: str, url: str, *, secret: bool) -> None:
    """An address of HTTP; what has a secret goes over TLS, or stays on this machine.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{key}: expected https://HOST/PATH")
    if parts.username or parts.password:
        raise ValueError(f"{key}: no secrets in it; they have files of their own")
    if secret and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"{key}: a secret would go over the network in the clear; use https")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


InstanceTarget = DicomTarget | StowTarget
"""Takes instances."""
PackageTarget = SftpTarget | FolderTarget | S3Target
"""Takes packages."""
Target = Annotated[PackageTarget | InstanceTarget, Field(discriminator="kind")]
