"""The rules that a copy was made by, and whether they are still those in force.

A package waits, sometimes for days: meanwhile a project may be ended, or its rules made stricter. Nothing
that was made by other rules than those in force is packaged or sent.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib.resources import files

from fiona_dagster.config import ProjectSettings
from fiona_dagster.config.deid import Deidentification
from fiona_dagster.errors import PermanentError, RequestRefused, Superseded
from fiona_dagster.ledger import Study, Transfer
from fiona_dagster.transfers import optout, projects
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.intake import person


def rules_digest(project: ProjectSettings) -> str:
    """SHA-256 over everything that decides what a copy holds: the project's choices, our tables and code."""
    choices = {
        **project.model_dump(mode="json", include=set(Deidentification.model_fields)),
        "options": sorted(project.options),
        "allow_kinds": sorted(project.allow_kinds),
        "participant_may_be_identifier": project.participant_may_be_identifier,
        "trusted_senders": sorted(project.trusted_senders),
        "unprocessable": project.unprocessable,
        "release": [project.release, project.release_first_studies, project.weak_hits],
        "code": _code_digest(),
    }
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code_digest() -> str:
    """An update of FIONA that touches the de-identification counts as another rule."""
    package = files("fiona_dagster.deid")
    digest = hashlib.sha256()
    for folder in (package, package / "data"):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.is_file():
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.name} {content}\n".encode())
    return digest.hexdigest()


def settings_of(
    gateway: Gateway, transfer: Transfer, project: ProjectSettings | None = None
) -> ProjectSettings:
    """The project's settings as they hold for one transfer.

    Who stands in ``redcap.trusted_senders`` is trusted to name the participant where a routing rule placed
    the study and the participant is its one PatientID. What a person, the coupling list or auto-ID assigned
    goes by the project's file alone: there an id that the hospital knows is a mistake.

    Args:
        gateway: the open gateway.
        transfer: of a study to the project.
        project: its settings in force, if they are at hand.

    Raises:
        ConfigurationError: no such project, or its file was never good.
    """
    project = project or gateway.project(transfer.project)
    everywhere = set(gateway.settings.redcap.trusted_senders) - set(project.trusted_senders)
    if not everywhere or not gateway.ledger.transfers.was_routed(transfer):
        return project
    try:
        (patient_id,) = person(gateway, transfer.study).patient_ids
    except (ValueError, PermanentError):  # late images brought another one, or the archive can't say
        return project
    if patient_id != transfer.participant:
        return project
    return project.model_copy(update={"trusted_senders": (*project.trusted_senders, *sorted(everywhere))})


def require_project(gateway: Gateway, transfer: Transfer) -> ProjectSettings:
    """The project's settings in force for this transfer, if it still takes this participant and event.

    Raises:
        RequestRefused: the project was ended, its participants or events are others now, or the person opted
            out.
        OptOutUnavailable: the opt-out list is configured and can't be used.
        ConfigurationError: its file is gone.
    """
    project = settings_of(gateway, transfer)
    if not project.active:
        raise RequestRefused(
            f"project {transfer.project} is not active any more; nothing is sent for it. What waits goes on "
            "when it is active again"
        )
    where = f"project {transfer.project}"
    if not projects.matches(project.participant_pattern, transfer.participant, where):
        raise RequestRefused(
            f"the participant id does not match the pattern of project {transfer.project} any more; "
            "correct the request, or the project's file"
        )
    if project.events and transfer.event not in project.events:
        raise RequestRefused(
            f"project {transfer.project} has no such event any more; correct the request or the file"
        )
    projects.require_entry(gateway, transfer.project, transfer.participant)
    optout.require_willing(gateway, transfer.study)
    return project


def require_rules(gateway: Gateway, transfer: Transfer) -> None:
    """The copy of a transfer was made by the rules in force; otherwise the transfer starts again.

    Raises:
        RequestRefused: see :func:`require_project`.
        Superseded: the rules changed; a new attempt of the same request is due.
    """
    project = require_project(gateway, transfer)
    if transfer.rules != rules_digest(project):
        gateway.ledger.transfers.start_over(transfer, "the rules of the project changed")
        raise Superseded(
            f"study {transfer.study}, project {transfer.project}: the rules changed since the copy was made; "
            "nothing of it is sent, it is de-identified again"
        )


class Watch:
    """Asks for the rules while something is sent, whenever the project's file or the opt-out list changes."""

    def __init__(self, gateway: Gateway, transfer: Transfer) -> None:
        self._gateway, self._transfer = gateway, transfer
        self._file = gateway.root.project_files / f"{transfer.project}.json"
        self._seen = self._stamp()
        require_rules(gateway, transfer)

    def _stamp(self) -> tuple[object, ...]:
        listed = optout.stamp(self._gateway)
        try:
            status = self._file.stat()
        except OSError:
            return None, listed
        return status.st_ino, status.st_size, status.st_mtime_ns, listed

    def check(self) -> None:
        """Raises as :func:`require_rules`; costs one look at the file when nothing changed."""
        stamp = self._stamp()
        if stamp != self._seen:
            require_rules(self._gateway, self._transfer)
            self._seen = stamp


def require_site(study: Study, project: str) -> None:
    """What arrived at a site of ``SITES`` goes to that site's project only.

    Asked when a request is taken up and again whenever originals are read, since a person may decide in
    between that the study counts at another site.

    Raises:
        RequestRefused: it counts at a site of another project.
    """
    if study.site and project != study.site:
        raise RequestRefused(
            f"the study arrived at site {study.site}; it can be assigned to project {study.site} only"
        )
