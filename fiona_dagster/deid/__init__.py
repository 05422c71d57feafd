"""De-identification (PS3.15 annex E): profiles, actions, identities, project tags, verification.

Belongs here: from the bytes of an object to a copy without identity, and the independent look at that copy.
Stays out: where files come from and go to, requests, REDCap, the ledger (callers hand its two functions in).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fiona_dagster.deid.assignment import Assignment
from fiona_dagster.deid.defined import defined_modality
from fiona_dagster.deid.deidentify import (
    Deidentifier,
    Failure,
    FileReport,
    StudyReport,
    basic_profile_only,
)
from fiona_dagster.deid.flushing import flushed
from fiona_dagster.deid.keys import ProjectKey, project_key
from fiona_dagster.deid.profile import Profile
from fiona_dagster.deid.study import deidentify_study

if TYPE_CHECKING:
    from fiona_dagster.deid.assigned import identifiers_used
    from fiona_dagster.deid.inspection import Finding
    from fiona_dagster.deid.verify import Said, Verification, search_made_of, verify_outputs

__all__ = [
    "Assignment",
    "Deidentifier",
    "Failure",
    "FileReport",
    "Finding",
    "Profile",
    "ProjectKey",
    "Said",
    "StudyReport",
    "Verification",
    "basic_profile_only",
    "defined_modality",
    "deidentify_study",
    "flushed",
    "identifiers_used",
    "project_key",
    "search_made_of",
    "verify_outputs",
]

_LATER = {
    "Finding": "inspection",
    "Said": "verify",
    "Verification": "verify",
    "identifiers_used": "assigned",
    "search_made_of": "verify",
    "verify_outputs": "verify",
}
"""What reads by pydicom: imported when asked for; de-identifying has no need of its time and memory."""


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
