"""Partitions: studies by StudyInstanceUID, once for intake and once for each project.

Belongs here: names of partition sets. Stays out: which keys they hold (the ledger decides).
"""

from __future__ import annotations

import dagster as dg

STUDIES = "studies"

studies = dg.DynamicPartitionsDefinition(name=STUDIES)


def project_set(project: str) -> str:
    """Name of a project's partition set."""
    return f"{STUDIES}_{project}"


def project_studies(project: str) -> dg.DynamicPartitionsDefinition:
    """The studies that were requested by a project, and no others."""
    return dg.DynamicPartitionsDefinition(name=project_set(project))
