"""Whom to tell how transfers ended: the section ``notifications`` of ``config.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fiona_dagster.config.section import Section
from fiona_dagster.config.targets import is_loopback, require_url


class Channel(Section):
    """What all channels have in common."""

    interval_minutes: float = Field(60.0, gt=0)
    """At most one digest for each project in so much time."""
    only: Literal["all", "failures"] = "all"
    """Whether a digest is sent at all when nothing failed."""
    timeout_seconds: float = Field(30.0, gt=0)


class EmailChannel(Channel):
    """Mail over SMTP."""

    kind: Literal["email"]
    host: str
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    """``none``: in the clear; only without a password, or on this machine."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""
    username: str = ""
    password_file: str = ""
    """File with the password; relative: below config/."""
    sender: str = Field(pattern=r"^[^\s@<>]+@[^\s@<>]+$")
    recipients: tuple[Annotated[str, Field(pattern=r"^[^\s@<>]+@[^\s@<>]+$")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_safe(self) -> EmailChannel:
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and password_file go together")
        if self.username and self.security == "none" and not is_loopback(self.host):
            raise ValueError("security: a password would go over the network in the clear")
        return self


class WebhookChannel(Channel):
    """An address that gets JSON by POST, signed."""

    kind: Literal["webhook"]
    url: str
    secret_file: str
    """File with the secret of the signature; relative: below config/."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""

    @model_validator(mode="after")
    def _is_safe(self) -> WebhookChannel:
        require_url("url", self.url, secret=False)
        return self


class AppriseChannel(Channel):
    """Any service that Apprise knows."""

    kind: Literal["apprise"]
    urls_file: str
    """File with one Apprise address a line, since they hold secrets; relative: below config/."""


Notification = Annotated[EmailChannel | WebhookChannel | AppriseChannel, Field(discriminator="kind")]
