"""What may come back of copies whose link to a person was erased: nobody knows any more whose it is."""

from __future__ import annotations

from collections.abc import Collection

from fiona_dagster.errors import RequestRefused
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.projects import matches

MAYBE_ERASED = "maybe_erased"
"""Flag of a study that may be made of such copies, until a person looked into it."""


def may_be_of_erased(gateway: Gateway, study: str, patient_ids: Collection[str]) -> bool:
    """Whether a study may be data that a workstation made of erased copies.

    Its UID is of the form of theirs and one of 256 that they may have had, and it bears what could be a
    participant id of their project. What stands in its header counts only for being careful.

    Args:
        gateway: the open gateway.
        study: the StudyInstanceUID under which it came.
        patient_ids: every PatientID in it.
    """
    return any(
        not gateway.has_project(name)
        or any(_may_be_participant(gateway, name, value) for value in patient_ids)
        for name in gateway.ledger.derived.of_erased(study)
    )


def _may_be_participant(gateway: Gateway, project: str, value: str) -> bool:
    try:
        return matches(gateway.project(project).participant_pattern, value, f"project {project}")
    except RequestRefused:  # its pattern takes too long to say no
        return True
