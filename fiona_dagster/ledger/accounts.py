"""Reads the states of instances from the ledger: counts for all studies, each instance of one study."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import get_args

from fiona_dagster.ledger.states import (
    InstanceState,
    StudyFacts,
    TransferFacts,
    instance_state,
    project_states,
    sorted_counts,
)
from fiona_dagster.ledger.store import Store

STATES: tuple[InstanceState, ...] = get_args(InstanceState)


@dataclass(frozen=True)
class AccountedInstance:
    """One accepted instance, or one whole file beside the archive.

    Attributes:
        sop_instance: SOPInstanceUID.
        path: its file, relative to the data root.
        state: see ``ledger.states``.
        projects: state in each project that asked for it.
        size: bytes.
        revision: first revision of the study that holds these bytes, 0 for none.
        digest: SHA-256 over transfer syntax and data set, "" if not taken yet.
    """

    sop_instance: str
    path: str
    state: InstanceState
    projects: dict[str, InstanceState]
    size: int
    revision: int
    digest: str


class Accounts:
    """States of instances; reads only."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def counts(self) -> dict[str, dict[str, int]]:
        """StudyInstanceUID -> state -> number of instances, for every study."""
        transfers = self._transfers()
        found: dict[str, Counter[str]] = {}
        for row in self._store.rows(_GROUPS):
            state = instance_state(
                StudyFacts(row["registered"], row["flags"] != "[]"),
                row["revision"],
                altered=bool(row["altered"]),
                transfers=transfers.get(row["study"], []),
                held_back_by=_projects(row["held"]),
            )
            found.setdefault(row["study"], Counter())[state] += row["number"]
        aside = (
            "SELECT study, state, count(*) AS number FROM set_aside WHERE state != 'accepted' GROUP BY 1, 2"
        )
        for row in self._store.rows(aside):
            found.setdefault(row["study"], Counter())[row["state"]] += row["number"]
        return {study: sorted_counts(counts, STATES) for study, counts in found.items()}

    def instances(self, study: str) -> list[AccountedInstance]:
        """Every instance of a study and every file of it that was set aside."""
        transfers = self._transfers(study).get(study, [])
        found = []
        for row in self._store.rows(_INSTANCES, study):
            held = _projects(row["held"])
            state = instance_state(
                StudyFacts(row["registered"], row["flags"] != "[]"),
                row["revision"],
                altered=bool(row["altered"]),
                transfers=transfers,
                held_back_by=held,
            )
            projects = project_states(row["revision"], transfers, held) if row["revision"] else {}
            found.append(
                AccountedInstance(
                    row["sop_instance"],
                    row["path"],
                    state,
                    projects,
                    row["size"],
                    row["revision"],
                    row["digest"],
                )
            )
        query = "SELECT * FROM set_aside WHERE study = ? AND state != 'accepted' ORDER BY path"
        for row in self._store.rows(query, study):
            found.append(
                AccountedInstance(row["sop_instance"], row["path"], row["state"], {}, row["size"], 0, "")
            )
        return found

    def _transfers(self, study: str | None = None) -> dict[str, list[TransferFacts]]:
        found: dict[str, list[TransferFacts]] = {}
        for row in self._store.rows(_TRANSFERS, study, study):
            facts = TransferFacts(row["project"], row["state"], row["revision"], bool(row["verified"]))
            found.setdefault(row["study"], []).append(facts)
        return found


def _projects(text: str | None) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()


_HELD = """LEFT JOIN (SELECT t.study, h.sop_instance, group_concat(DISTINCT t.project) AS projects
        FROM held_back h JOIN transfers t ON t.id = h.transfer AND t.revision = h.revision
        WHERE t.state NOT IN ('refused', 'superseded', 'withdrawn')
        GROUP BY t.study, h.sop_instance) AS held_by
    ON held_by.study = i.study AND held_by.sop_instance = i.sop_instance"""

_GROUPS = f"""SELECT i.study, s.registered, s.flags, i.revision, i.altered != '' AS altered,
        held_by.projects AS held, count(*) AS number
    FROM instances i JOIN studies s ON s.study = i.study {_HELD}
    GROUP BY i.study, i.revision, i.altered != '', held_by.projects"""  # noqa: S608 - constants only

_INSTANCES = f"""SELECT i.*, s.registered, s.flags, held_by.projects AS held
    FROM instances i JOIN studies s ON s.study = i.study {_HELD}
    WHERE i.study = ? ORDER BY i.sop_instance"""  # noqa: S608 - constants only

_TRANSFERS = """SELECT t.study, t.project, t.state, t.revision, EXISTS (SELECT 1 FROM verifications v
        WHERE v.transfer = t.id AND v.revision = t.revision AND v.passed = 1) AS verified
    FROM transfers t WHERE ? IS NULL OR t.study = ?"""
