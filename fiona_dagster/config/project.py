"""Typed model of ``config/projects/<PROJECT>.json``: what a project wants, apart from the site's settings.

De-identifying needs no more than this, and starts without the models of targets, peers and the receiver.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fiona_dagster.config.access import AeTitle
from fiona_dagster.config.deid import Deidentification
from fiona_dagster.config.names import PROJECT_NAME
from fiona_dagster.config.packaging import PackageSettings
from fiona_dagster.config.patterns import NO_PATTERN, site_pattern
from fiona_dagster.config.section import Section


class TokenSource(Section):
    """Where an API token stands; never in a configuration file itself."""

    env: str = ""
    """Environment variable with the token ..."""
    file: str = ""
    """... or the file that holds it (relative: below config/)."""


class ProjectSettings(Deidentification):
    """``config/projects/<PROJECT>.json``."""

    name: str
    """The acronym; equal to the file name."""
    description: str = ""
    active: bool = True
    """An inactive project takes no transfer requests."""
    participant_pattern: str = r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}"
    """Regular expression that a participant id must match in full."""
    participant_may_be_identifier: bool = False
    """Whether a participant id may be the hospital's own PatientID, name or accession number; otherwise such
    a transfer is refused at the verification."""
    events: tuple[str, ...] = ()
    """Event names that a request may use; empty: any."""
    trusted_senders: tuple[AeTitle, ...] = ()
    """Calling AE titles whose studies bear the project's own participant ids already: what only they sent may
    have the participant id as PatientID or PatientName. All others, see ``participant_may_be_identifier``."""
    unprocessable: Literal["stop", "leave_out"] = "stop"
    """An instance that can't be de-identified ``stop``s its study, or is left out and reported."""
    release: Literal["automatic", "review"] = "automatic"
    """``review``: every verified copy waits for a person (``fiona release``)."""
    release_first_studies: int = Field(0, ge=0)
    """Copies wait until so many studies of the project were released by a person."""
    weak_hits: Literal["review", "pass"] = "review"
    """Weak hits of the residual search (a common word, initials, a short number) wait for a person, or
    pass."""
    targets: tuple[str, ...] = ()
    """Names of ``targets`` in config.json that must have the package before it counts as delivered."""
    transcode: bool = False
    """Whether a PACS or DICOMweb server that refuses the transfer syntax of an instance gets it decompressed,
    or written in explicit or implicit VR, without loss; otherwise such instances are refused."""
    notify: tuple[str, ...] = ()
    """Names of ``notifications`` in config.json that are told how transfers ended."""
    package: PackageSettings = PackageSettings()
    redcap_token: TokenSource | None = None
    """Token of the project's own REDCap project; absent: the one in *DataTransferProjects*, if any."""
    autoid_event: str = ""
    """Event of studies that get their participant id automatically; empty: the first of ``events``, or of
    the project's own REDCap."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not PROJECT_NAME.fullmatch(value):
            raise ValueError("a project name is 1 to 20 letters, digits or _")
        return value

    @field_validator("participant_pattern")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            site_pattern(value)
        except NO_PATTERN as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return value
