"""What every step needs at hand: data root, settings in force, ledger, and the way to REDCap."""

from __future__ import annotations

import math
from types import TracebackType

from fiona_dagster.config import (
    DataRoot,
    ProjectSettings,
    Settings,
    Target,
    has_project,
    load_project_in_force,
    load_settings_in_force,
    redcap_token,
    resolve,
    token_of,
)
from fiona_dagster.config.settings import RedcapTable
from fiona_dagster.errors import ConfigurationError
from fiona_dagster.ledger import Ledger
from fiona_dagster.redcap import IncomingProject, RedcapClient, ResearchProject, tables


def _with_import_rule(project: ProjectSettings, rule: tuple[str, str]) -> ProjectSettings:
    filtered = project.model_copy(update=dict(zip(tables.IMPORT_RULE, rule, strict=True)))
    try:
        filtered.import_rule()
    except ValueError as error:
        why = "; ".join(part.strip() for part in str(error).splitlines()[:3])
        raise ConfigurationError(
            f"project {project.name}: project_import_rule_1 in REDCap's DataTransferProjects: {why}"
        ) from None
    return filtered


class Gateway:
    """An open gateway: the ledger is connected, the settings are those in force now.

    Args:
        root: the data root; it must have a configuration.
        ledger: one that is open and stays so, while it is rebuilt; else the root's own.

    Attributes:
        redcap_patience: seconds after which a call of REDCap is not tried again; for who must not wait long.

    Raises:
        ConfigurationError: there is no usable configuration, not even a last good one.
    """

    def __init__(self, root: DataRoot, ledger: Ledger | None = None) -> None:
        self.root = root
        self.redcap_patience = math.inf
        self.settings: Settings = load_settings_in_force(root)[0]
        self._is_guest = ledger is not None
        self.ledger = Ledger(root) if ledger is None else ledger

    def incoming(self) -> IncomingProject:
        """REDCap's project *Incoming*.

        Raises:
            ConfigurationError: no REDCap is configured.
        """
        redcap = self.settings.redcap
        if not redcap.url:
            raise ConfigurationError(
                f"{self.root.config_file}: redcap.url: not set; studies can't be registered"
            )
        return IncomingProject(self._client("Incoming", redcap_token(self.root, redcap)))

    def table(self, name: RedcapTable) -> RedcapClient | None:
        """The REDCap project of that name; None when no token of it is configured.

        Raises:
            ConfigurationError: the token can't be read.
        """
        source = self.settings.redcap.tokens.get(name)
        if source is None or not self.settings.redcap.url:
            return None
        where = f"{self.root.config_file}: redcap.tokens.{name}"
        return self._client(name, token_of(self.root, source, where))

    def research(self, project: str) -> ResearchProject | None:
        """A research project's own REDCap project; None when nobody gave its token.

        The token stands in the project's file or in *DataTransferProjects*.

        Raises:
            ConfigurationError: the token can't be read.
            RedcapUnavailable: REDCap gave no usable answer.
        """
        if not self.settings.redcap.url:
            return None
        source = self.project(project).redcap_token
        if source is not None:
            where = f"{self.root.project_files / project}.json: redcap_token"
            return ResearchProject(self._client(f"project-{project}", token_of(self.root, source, where)))
        table = self.table("DataTransferProjects")
        token = tables.project_token(table, project) if table is not None else None
        return None if token is None else ResearchProject(self._client(f"project-{project}", token.reveal()))

    def _client(self, name: str, token: str) -> RedcapClient:
        redcap = self.settings.redcap
        return RedcapClient(
            redcap.url,
            token,
            timeout=redcap.timeout_seconds,
            ca_file=str(resolve(self.root, redcap.ca_file)) if redcap.ca_file else None,
            calls_per_minute=redcap.calls_per_minute,
            budget_file=self.root.redcap_calls_file,
            patience=self.redcap_patience,
            structure_file=self.root.redcap_structure_file(name),
        )

    def has_project(self, name: str) -> bool:
        """Whether such a project is configured here."""
        return has_project(self.root, name)

    def project(self, name: str) -> ProjectSettings:
        """The project's settings in force: its file, and what REDCap's table of projects adds to it.

        That is the import filter of *DataTransferProjects* as last read; one in the file goes before it.

        Raises:
            ConfigurationError: no such project, its file was never good, or the table's filter is wrong.
        """
        project = load_project_in_force(self.root, name)[0]
        if project.project_import_rule_1_tag or "DataTransferProjects" not in self.settings.redcap.tokens:
            return project
        found = self.ledger.assignments.project_entry(name)
        rule = tables.ProjectEntry.of(found).import_rule if found else None
        return _with_import_rule(project, rule) if rule else project

    def target(self, name: str) -> Target:
        """A configured end-point.

        Raises:
            ConfigurationError: config.json has no target of that name.
        """
        try:
            return self.settings.targets[name]
        except KeyError:
            known = ", ".join(sorted(self.settings.targets)) or "none"
            raise ConfigurationError(
                f"{self.root.config_file}: targets: no target {name!r} (there: {known})"
            ) from None

    def close(self) -> None:
        """Closes the ledger."""
        if not self._is_guest:
            self.ledger.close()

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
