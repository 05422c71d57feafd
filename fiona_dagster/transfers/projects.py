"""Projects as REDCap's table *DataTransferProjects* has them, besides their files in ``config/projects``.

Both count: what either refuses is refused. The table is read at every poll and kept in the ledger, without
its tokens, so that a project that was ended is refused before sending too, also while REDCap is away.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from fiona_dagster.config.patterns import NO_PATTERN, site_pattern
from fiona_dagster.errors import PatternTooSlow, RequestRefused
from fiona_dagster.redcap import ResearchProject
from fiona_dagster.redcap.tables import ProjectEntry, read_projects
from fiona_dagster.transfers.context import Gateway


def refresh(gateway: Gateway) -> None:
    """Reads the table, if a token of it is configured.

    An empty answer changes nothing when there were projects before: absence is never a command. What failed
    for good gets a new chance when the table changed: it may have been mended there.

    Raises:
        RedcapUnavailable, RedcapRejected: REDCap gave no usable answer.
    """
    client = gateway.table("DataTransferProjects")
    if client is None:
        return
    entries = read_projects(client)
    if entries or not gateway.ledger.assignments.has_projects():
        before = gateway.ledger.assignments.project_entries()
        with gateway.ledger.store.writing():
            gateway.ledger.assignments.replace_projects(entries)
            if gateway.ledger.assignments.project_entries() != before:
                gateway.ledger.work.unblock()


def entry(gateway: Gateway, project: str) -> ProjectEntry | None:
    """The project in REDCap's table as last read; None: it is not in it, or the table is not asked."""
    if "DataTransferProjects" not in gateway.settings.redcap.tokens:
        return None
    found = gateway.ledger.assignments.project_entry(project)
    return None if found is None else ProjectEntry.of(found)


def entries(gateway: Gateway) -> list[ProjectEntry]:
    """All projects in REDCap's table as last read."""
    if "DataTransferProjects" not in gateway.settings.redcap.tokens:
        return []
    return [ProjectEntry.of(found) for found in gateway.ledger.assignments.project_entries()]


def require_entry(gateway: Gateway, project: str, participant: str) -> None:
    """What REDCap's table says against this participant in this project.

    Raises:
        RequestRefused: the project is not active there, its approval does not run today, or the participant
            id does not match the pattern there.
    """
    require_open(gateway, project)
    found = entry(gateway, project)
    where = f"project {project} in DataTransferProjects"
    if found and found.pattern and not matches(found.pattern, participant, where):
        raise RequestRefused(f"the participant id does not match the pattern of {where}")


def require_open(gateway: Gateway, project: str) -> None:
    """The project takes studies today, as far as REDCap's table says.

    Raises:
        RequestRefused: it is not active there, or its approval does not run today.
    """
    found = entry(gateway, project)
    if found is None:
        return
    if not found.active:
        raise RequestRefused(f"project {project} is not active in REDCap's DataTransferProjects")
    today = site_today(gateway)
    if found.starts and today < found.starts:
        raise RequestRefused(f"the approval of project {project} begins on {found.starts}")
    if found.ends and today > found.ends:
        raise RequestRefused(f"the approval of project {project} ended on {found.ends}")


class ProjectEvents:
    """The events of the projects' own REDCap projects, asked for once while this object lives."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._projects: dict[str, ResearchProject | None] = {}

    def require(self, project: str, event: str) -> None:
        """The project's own REDCap has this event, as far as its token is known and it has events.

        Raises:
            RequestRefused: it has others.
            RedcapUnavailable, RedcapRejected: it gave no usable answer; the request can wait.
        """
        if project not in self._projects:
            self._projects[project] = self._gateway.research(project)
        research = self._projects[project]
        if research is not None and not research.has_event(event):
            raise RequestRefused(f"project {project} has no such event in its REDCap")


def matches(pattern: str, participant: str, where: str) -> bool:
    """Whether a participant id matches a pattern in full.

    Args:
        pattern: a regular expression that a person wrote.
        participant: the id.
        where: whose pattern it is, for messages.

    Raises:
        RequestRefused: it is no regular expression, or one that takes too long for this id.
    """
    try:
        return site_pattern(pattern, f"the pattern of {where}").fullmatch(participant) is not None
    except NO_PATTERN:
        raise RequestRefused(f"the pattern of {where} is no regular expression; correct it") from None
    except PatternTooSlow as error:
        raise RequestRefused(str(error)) from None


def site_today(gateway: Gateway) -> date:
    """The day that it is in the site's time zone."""
    return datetime.now(UTC).astimezone(ZoneInfo(gateway.settings.LOCALTIMEZONE)).date()
