"""Typed models of ``config.json``; that of a project's file is in ``project``.

The original's keys (behaviour reference, section 8) keep their names where they mean the same; what
is new stands in sections of its own. Every model refuses keys that it does not know.
"""

from __future__ import annotations

import re
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from fiona_dagster.config.access import AeTitle, AllowedCaller, Network, OptionalAeTitle, TlsSettings
from fiona_dagster.config.names import PROJECT_NAME
from fiona_dagster.config.notifications import Notification
from fiona_dagster.config.project import TokenSource
from fiona_dagster.config.section import Section
from fiona_dagster.config.targets import Target, require_url

Durability = Literal["full", "rename"]
"""How sure a receipt is: flushed to the disk, or only complete under its name."""


class CommitmentPeer(Section):
    """Where the answer to a request for storage commitment goes (PS3.4 annex J)."""

    host: str
    port: int = Field(104, ge=1, le=65535)
    called_ae_title: AeTitle
    """AE title that is called there."""
    calling_ae_title: OptionalAeTitle = ""
    """AE title that we use; empty: the one that was called by the request."""
    timeout_seconds: float = Field(30.0, gt=0)


class ReceiverSettings(Section):
    """The Storage SCP."""

    quiet_seconds: float = Field(16.0, ge=1)
    """A study is complete when nothing arrived for so long and no association that sent to it is open."""
    quiet_seconds_open: float = Field(600.0, ge=1)
    """The same with such an association still open."""
    quiet_by_sender: dict[str, float] = {}
    """Quiet time of single senders, seconds by calling AE title; a study with several senders takes the
    longest."""
    commitment: dict[str, CommitmentPeer] = {}
    """Storage commitment, by calling AE title of who may ask for it; all others are refused it."""
    accept_unknown: bool = False
    """Accept associations from AE titles that are not listed in ``allowed_callers``."""
    allowed_callers: tuple[AeTitle | AllowedCaller, ...] = ()
    """Who may send: calling AE titles, or rules that combine title, networks and called titles."""
    allowed_networks: tuple[Network, ...] = ()
    """Networks that every association must come from; empty: any."""
    allowed_called: tuple[AeTitle, ...] = ()
    """Called AE titles that we answer to besides DICOMAETITLE; empty: any."""
    tls: TlsSettings | None = None
    """Encryption and client certificates; None: plain connections only."""
    max_associations: int = Field(128, ge=1)
    """Associations at the same time; more are rejected for now (PS3.8 9.3.4)."""
    max_associations_per_peer: int = Field(64, ge=1)
    """The same for one IP address."""
    max_pending: int = Field(64, ge=1)
    """Connections that are not associations yet, in each process of the receiver. Above it the address that
    has most of them loses its oldest one."""
    max_object_mb: int = Field(4096, ge=1)
    """Largest object, MiB of its data set; a larger one is answered with A700 and not kept."""
    object_seconds: float = Field(3600.0, ge=1)
    """Longest time for one object from its command to its last byte, against senders that trickle."""
    max_pdu: int = Field(131072, ge=4096)
    """Largest PDU we offer to receive, bytes."""
    idle_seconds: float = Field(120.0, ge=1)
    """An association that is silent for so long is aborted; also the limit for one PDU that trickles in."""
    artim_seconds: float = Field(30.0, gt=0)
    """Time limit from a connection to its complete A-ASSOCIATE-RQ (PS3.8 9.1.5)."""
    drain_seconds: float = Field(30.0, ge=0)
    """After SIGTERM: how long objects that are under way may take to finish."""
    reserve_mb: int = Field(512, ge=0)
    """Free space that reception leaves on the disk; below it C-STORE answers A700."""
    durability: Durability = "full"
    """``full``: Success only after bytes, directory entry and journal line are flushed to the disk.
    ``rename``: the same order without the flushes; a power loss may then take objects with it that were
    answered with Success."""
    processes: int = Field(0, ge=0, le=32)
    """Processes that share the port; 0: one for each processor, at most 4."""


class ImportSettings(Section):
    """``fiona import`` and the drop folder ``inbox/``."""

    max_unpacked_gb: float = Field(500.0, gt=0)
    """GiB that one ZIP archive may unpack to; at most 200 times its size (but 1 GiB always)."""
    settle_seconds: float = Field(10.0, ge=0)
    """A file in the inbox is taken when it did not change for so long and nobody has it open for writing."""
    poll_seconds: float = Field(5.0, gt=0)
    """How often the inbox is looked at."""


RedcapTable = Literal["AutoID", "CouplingList", "DataTransferProjects", "Routing"]
"""REDCap projects that the gateway reads besides *Incoming*."""


class OptOutSettings(Section):
    """The hospital's list of people whose images must not be used for research."""

    file: str = ""
    """CSV with a column PatientID, or one id a line (relative: below config/). Empty: there is no list."""
    max_age_hours: float = Field(0.0, ge=0)
    """An older file counts as missing: then nothing is assigned or sent. 0: its age does not matter."""


class RedcapSettings(Section):
    """Where people say what shall go where."""

    url: str = ""
    """API address, with the trailing slash. Empty: no REDCap, studies wait."""
    token_env: str = ""
    """Environment variable with the token of *Incoming* ..."""
    token_file: str = ""
    """... or the file that holds it (relative: below config/)."""
    tokens: dict[RedcapTable, TokenSource] = {}
    """Tokens of the tables that assign studies without a person; a table without a token is not asked."""
    trusted_senders: tuple[AeTitle, ...] = ()
    """Calling AE titles whose studies bear participant ids as PatientID already: a routing rule may take
    them, and what it placed may keep its PatientID. Empty: rules go by ``allowed_callers``, where a project
    takes it."""
    coupling_days: float = Field(14.0, gt=0)
    """How long an entry of the coupling list counts after its date."""
    poll_seconds: int = Field(60, ge=5)
    """How often transfer requests are asked for: which of them were changed."""
    list_seconds: int = Field(600, ge=5)
    """How often all requests are listed; it finds what is missing, and what a look at changes overlooked."""
    withdrawals_at_once: int = Field(5, ge=0)
    """When more requests than this are withdrawn together, a person is asked first and nothing of them is
    sent."""
    timeout_seconds: float = Field(30.0, gt=0)
    """Time limit of one call."""
    calls_per_minute: int = Field(300, ge=1)
    """Servers ban clients that call too often."""
    ca_file: str = ""
    """Certificates to trust in place of the system's."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            require_url("url", value, secret=True)
            if not value.endswith("/"):  # REDCap redirects, and what is posted gets lost on the way
                raise ValueError("the address of the API ends with a slash: https://HOST/api/")
        return value


class Source(Section):
    """A PACS that can be asked what it has of a study, and to send what is missing."""

    host: str
    port: int = Field(104, ge=1, le=65535)
    called_ae_title: AeTitle
    calling_ae_title: AeTitle = "FIONA"
    """AE title that we use towards it."""
    callers: tuple[AeTitle, ...] = ()
    """It is asked about studies of these calling AE titles; empty: about all."""
    fetch: bool = False
    """Have it send series of which it has more than arrived (C-MOVE), if the switch file allows pulling."""
    fetch_attempts: int = Field(3, ge=1, le=20)
    """How often it is asked for a series while its count stays the same."""
    move_destination: OptionalAeTitle = ""
    """Our AE title as it knows it; empty: DICOMAETITLE."""
    timeout_seconds: float = Field(30.0, gt=0)


class CompletionSettings(Section):
    """What happens to a study of which instances are known to be missing."""

    wait_limit_seconds: float = Field(3600.0, ge=1)
    """Silence after which it goes on without them, marked incomplete."""
    answer_limit_seconds: float = Field(120.0, ge=1)
    """How long an answer of a source is waited for once it was asked."""


class RetentionSettings(Section):
    """How long things stay."""

    partition_days: float = Field(90.0, ge=0)
    """Days after its last event that a finished study stays visible in Dagster's partition sets."""
    mpps_days: float = Field(90.0, ge=1)
    """Days that a Modality Performed Procedure Step stays in site/scanner after its last change."""


class ReconciliationSettings(Section):
    """The daily comparison of REDCap, ledger, disk and research PACS."""

    gap_days: float = Field(3.0, gt=0)
    """Age in days from which a gap makes the check fail. Studies that nobody asked for are listed only."""
    at: str = Field("02:40", pattern=r"([01]\d|2[0-3]):[0-5]\d")
    """Time of day, in LOCALTIMEZONE."""


class WebSettings(Section):
    """The Dagster UI."""

    host: str = "127.0.0.1"
    port: int = Field(3000, ge=0, le=65535)
    """0: chosen freely."""


class MetricsSettings(Section):
    """The page for Prometheus."""

    host: str = "127.0.0.1"
    """Address that it is served on."""
    port: int | None = Field(None, ge=0, le=65535)
    """Port; 0: chosen freely; None: no page."""


class SiteSettings(Section):
    """An entry of ``SITES``: a project with a port and a ``site/`` tree of its own.

    What it leaves out is as in the main part of ``config.json``, key by key in the section ``receiver`` too.
    """

    DICOMPORT: int = Field(ge=0, le=65535)
    """Its own port; 0: chosen freely."""
    DICOMIP: str = "0.0.0.0"  # noqa: S104 - as in Settings
    """Address that is listened on for it; left out: the main one's."""
    DICOMAETITLE: AeTitle = "FIONA"
    """AE title under which it is called; left out: the main one's."""
    receiver: ReceiverSettings = ReceiverSettings()
    """Who may send to it, and when its studies are complete; what is left out is as in the main one."""


class Settings(Section):
    """``config/config.json``."""

    DICOMIP: str = "0.0.0.0"  # noqa: S104 - a receiver is there to be reached; unknown callers are refused
    DICOMPORT: int = Field(11112, ge=0, le=65535)
    """0: chosen freely."""
    DICOMAETITLE: AeTitle = "FIONA"
    MPPSPORT: int | None = Field(None, ge=0, le=65535)
    """Port for Modality Performed Procedure Steps, on DICOMIP. None: no MPPS; 0: chosen freely."""
    LOCALTIMEZONE: str = "UTC"
    """IANA name of the site's time zone, used towards REDCap and people."""
    SITES: dict[str, SiteSettings] = {}
    """Projects that receive on a port and into a tree of their own, by the project's name."""
    receiver: ReceiverSettings = ReceiverSettings()
    imports: ImportSettings = ImportSettings()
    redcap: RedcapSettings = RedcapSettings()
    opt_out: OptOutSettings = OptOutSettings()
    targets: dict[str, Target] = {}
    """Named end-points; projects refer to them by these names."""
    notifications: dict[str, Notification] = {}
    """Named ways to tell people how transfers ended; projects refer to them by these names."""
    completion: CompletionSettings = CompletionSettings()
    sources: dict[str, Source] = {}
    """PACS that are asked, before a study counts as complete, how much they have of it."""
    retention: RetentionSettings = RetentionSettings()
    reconciliation: ReconciliationSettings = ReconciliationSettings()
    web: WebSettings = WebSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="before")
    @classmethod
    def _complete_sites(cls, document: Any) -> Any:
        """Gives every site the main values that it does not set itself."""
        if not isinstance(document, dict) or not isinstance(document.get("SITES"), dict):
            return document
        sites = {}
        for name, site in document["SITES"].items():
            if isinstance(site, dict):
                main, own = document.get("receiver", {}), site.get("receiver", {})
                mergeable = isinstance(main, dict) and isinstance(own, dict)
                if mergeable and isinstance(main.get("tls"), dict) and main["tls"].get("port") is not None:
                    main = {key: value for key, value in main.items() if key != "tls"}  # a port is one site's
                site = {  # noqa: PLW2901
                    "DICOMIP": document.get("DICOMIP", cls.model_fields["DICOMIP"].default),
                    "DICOMAETITLE": document.get("DICOMAETITLE", cls.model_fields["DICOMAETITLE"].default),
                    **site,
                    "receiver": {**main, **own} if mergeable else own,
                }
            sites[name] = site
        return {**document, "SITES": sites}

    @field_validator("LOCALTIMEZONE")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"no time zone is called {value!r}; names are like 'Europe/Oslo'") from None
        return value

    @field_validator("SITES")
    @classmethod
    def _site_names(cls, value: dict[str, SiteSettings]) -> dict[str, SiteSettings]:
        for name in value:
            if not PROJECT_NAME.fullmatch(name):
                raise ValueError(f"site {name!r} must bear a project's name: 1 to 20 letters, digits or _")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        ports = [self.DICOMPORT, *(site.DICOMPORT for site in self.SITES.values())]
        sections = [self.receiver, *(site.receiver for site in self.SITES.values())]
        ports += [section.tls.port for section in sections if section.tls and section.tls.port]
        ports += [port for port in (self.MPPSPORT, self.web.port, self.metrics.port) if port]
        taken = {port for port in ports if port and ports.count(port) > 1}
        if taken:
            raise ValueError(
                f"port {min(taken)} is given more than once (DICOMPORT, MPPSPORT, SITES, receiver.tls.port, "
                "web.port, metrics.port)"
            )
        return self

    @property
    def has_outreach(self) -> bool:
        """Whether there is anything for the program that talks to peers beside Dagster's runs."""
        receivers = [self.receiver, *(site.receiver for site in self.SITES.values())]
        return bool(self.sources or self.notifications) or any(receiver.commitment for receiver in receivers)

    def of_site(self, name: str) -> Settings | SiteSettings:
        """What holds for reception at one site; for the main one, and for one that was taken out: itself."""
        return self.SITES.get(name, self)

    @field_validator("targets", "sources", "notifications")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,29}", name):
                raise ValueError(f"name {name!r} must be lower case letters, digits and _")
        return value
