"""The data root: where everything lies on disk (design section 4)."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from fiona_dagster.config.names import PROJECT_NAME

DIRECTORY_MODE = 0o700
UMASK = 0o077


@dataclass(frozen=True)
class DataRoot:
    """Paths below ``$FIONA_DATA``. Building one touches nothing on disk; see :func:`DataRoot.make`.

    Attributes:
        path: ``$FIONA_DATA``.
        site_name: whose ``site/`` tree is meant: that of an entry in ``SITES``, or empty for the main one.
            Everything but that tree is common to all sites.
    """

    path: Path
    site_name: str = ""

    @classmethod
    def from_environment(cls) -> DataRoot:
        """The data root named by ``FIONA_DATA``, or ``./data``; always absolute."""
        return cls(Path(os.environ.get("FIONA_DATA") or "data").absolute())

    @property
    def config(self) -> Path:
        """Folder of configuration."""
        return self.path / "config"

    @property
    def config_file(self) -> Path:
        """``config/config.json``."""
        return self.config / "config.json"

    @property
    def rules_file(self) -> Path:
        """``config/classifyRules.json`` in the original's grammar."""
        return self.config / "classifyRules.json"

    @property
    def project_files(self) -> Path:
        """Folder of ``<PROJECT>.json``."""
        return self.config / "projects"

    @property
    def secrets(self) -> Path:
        """Keys per project, files of mode 0600."""
        return self.config / "secrets"

    @property
    def last_good(self) -> Path:
        """What is in force when a new file is refused."""
        return self.config / ".last-good"

    @property
    def enabled_file(self) -> Path:
        """The original's switch file of three digits."""
        return self.config / "enabled"

    def of_site(self, name: str) -> DataRoot:
        """The same data root with the ``site/`` tree of one entry in ``SITES``.

        Args:
            name: 1 to 20 letters, digits or ``_``; empty: the main tree.

        Raises:
            ValueError: not such a name.
        """
        if name and not PROJECT_NAME.fullmatch(name):
            raise ValueError("the name of a site is 1 to 20 letters, digits or _")
        return replace(self, site_name=name)

    def site_trees(self) -> list[DataRoot]:
        """One data root for every ``site/`` tree on the disk, the main one first.

        Also those that the configuration names no more: what they received is still to be accounted for.
        """
        try:
            names = sorted(name for name in os.listdir(self.sites) if PROJECT_NAME.fullmatch(name))  # noqa: PTH208
        except FileNotFoundError:
            names = []
        return [self.of_site(""), *(self.of_site(name) for name in names)]

    def tree_of(self, path: str) -> DataRoot:
        """The data root with the ``site/`` tree that a path lies in.

        Args:
            path: relative to the data root, as in the journals.
        """
        folder, _, rest = path.partition("/")
        name = rest.partition("/")[0]
        return self.of_site(name if folder == self.sites.name and PROJECT_NAME.fullmatch(name) else "")

    @property
    def sites(self) -> Path:
        """Folder of the trees of ``SITES``, one for each entry."""
        return self.path / "sites"

    @property
    def site(self) -> Path:
        """Everything that was received and derived from it without assigning it."""
        return self.sites / self.site_name / "site" if self.site_name else self.path / "site"

    @property
    def archive(self) -> Path:
        """Received bytes, never modified."""
        return self.site / "archive"

    @property
    def arrived(self) -> Path:
        """Journals of receipts."""
        return self.site / ".arrived"

    @property
    def scanner(self) -> Path:
        """Modality Performed Procedure Steps."""
        return self.site / "scanner"

    @property
    def raw(self) -> Path:
        """Links per study and series, and the series records."""
        return self.site / "raw"

    @property
    def participants(self) -> Path:
        """Links per incoming PatientID."""
        return self.site / "participants"

    @property
    def conflicts(self) -> Path:
        """Same SOP Instance UID with another data set, until a person decides."""
        return self.site / "conflicts"

    @property
    def quarantine(self) -> Path:
        """What could not be read or accepted, with the reason beside it."""
        return self.path / "quarantine"

    @property
    def projects(self) -> Path:
        """De-identified working copies."""
        return self.path / "projects"

    @property
    def outbox(self) -> Path:
        """Packages cleared for sending."""
        return self.path / "outbox"

    @property
    def daic(self) -> Path:
        """Packages that every configured target is proven to have."""
        return self.path / "DAIC"

    @property
    def inbox(self) -> Path:
        """Drop folder."""
        return self.path / "inbox"

    @property
    def dagster_home(self) -> Path:
        """``DAGSTER_HOME``."""
        return self.path / "dagster"

    @property
    def logs(self) -> Path:
        """Log files of the services."""
        return self.path / "logs"

    @property
    def counters_file(self) -> Path:
        """What the receiver's processes count (see ``landing.counters``)."""
        return self.logs / "receiver.counters"

    def redcap_structure_file(self, project: str) -> Path:
        """What a REDCap project is made of, remembered for a few minutes by all processes."""
        return self.ledger_file.parent / f"redcap-structure-{project}.json"

    @property
    def redcap_calls_file(self) -> Path:
        """When REDCap was called last: all processes here share one budget (see ``redcap.budget``)."""
        return self.path / "ledger" / "redcap-calls"

    @property
    def locks(self) -> Path:
        """One lock file a study (see ``landing.study_lock``)."""
        return self.path / "ledger" / "locks"

    @property
    def inbox_lock(self) -> Path:
        """Lock of whoever empties the drop folder."""
        return self.locks / "inbox.lock"

    @property
    def erasure_file(self) -> Path:
        """What an erasure that is under way has to do (see ``operations.erasure``)."""
        return self.path / "ledger" / "erasure.json"

    @property
    def use_lock(self) -> Path:
        """Held by everybody who writes below the data root (see ``landing.claim``)."""
        return self.path / "ledger" / "in-use.lock"

    @property
    def ledger_file(self) -> Path:
        """The ledger (SQLite, WAL)."""
        return self.path / "ledger" / "ledger.sqlite"

    def directories(self) -> tuple[Path, ...]:
        """Every folder of the data root, parents first."""
        return (
            self.path,
            self.config,
            self.project_files,
            self.secrets,
            self.last_good,
            *((self.sites, self.sites / self.site_name) if self.site_name else ()),
            self.site,
            self.archive,
            self.arrived,
            self.scanner,
            self.raw,
            self.participants,
            self.conflicts,
            self.quarantine,
            self.projects,
            self.outbox,
            self.daic,
            self.inbox,
            self.dagster_home,
            self.logs,
            self.ledger_file.parent,
            self.locks,
        )

    def make(self) -> None:
        """Creates the folders that are missing with mode 0700; leaves what is there alone.

        All of them are there after a power loss: what is acknowledged later lies below them. That also holds
        for folders that somebody else made a moment ago, so their entries are flushed every time.
        """
        for folder in self.directories():
            folder.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        for parent in {folder.parent: None for folder in self.directories()}:
            fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
