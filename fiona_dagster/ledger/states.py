"""One state for every accepted instance: a pure function over what the ledger holds.

============  ==========================================================================================
state         what the ledger says
============  ==========================================================================================
received      acknowledged; the study may still be arriving (its revision does not hold these bytes yet)
processing    part of a revision that is not registered yet
held          registered; waits for a transfer request
requested     a request was accepted; the copy is not verified yet
verified      the de-identified copy passed the verification (the gate)
packaged      in a package; at least one target is not proven yet
delivered     every target of every project that asked for it is proven to have it
filtered      held back by kind (``allow_kinds``), or left out since it can't be de-identified
              (``unprocessable``), in every project that asked for it
failed        a transfer can't go on until a person acts; the reason stands with the transfer
flagged       the study needs a person before anything goes on (two patients, damage, an open conflict)
altered       the archived bytes are no longer those that were received (digest); nothing of the study leaves
conflict      other bytes under a known SOP Instance UID, kept aside until a person decides
rejected      such bytes after a person rejected them
superseded    bytes that stood in the archive before a person accepted others
quarantined   bytes of this study that stood in the archive and were found unfit for it
============  ==========================================================================================

The states ``conflict``, ``rejected``, ``superseded`` and ``quarantined`` are those of whole files beside the
archive, all others of the instance in the archive. With several projects the one that has most left to do
counts; :data:`ORDER` says what that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

InstanceState = Literal[
    "received",
    "processing",
    "held",
    "requested",
    "verified",
    "packaged",
    "delivered",
    "filtered",
    "failed",
    "flagged",
    "altered",
    "conflict",
    "rejected",
    "superseded",
    "quarantined",
]

ORDER: tuple[InstanceState, ...] = ("failed", "requested", "verified", "packaged", "delivered", "filtered")
"""What has most left to do comes first."""


@dataclass(frozen=True)
class StudyFacts:
    """What of a study bears on its instances."""

    registered: int
    flagged: bool


@dataclass(frozen=True)
class TransferFacts:
    """What of a transfer bears on the instances of its pinned revision.

    Attributes:
        project: which project asked.
        state: the transfer's state; refused, superseded and withdrawn ones say nothing.
        revision: the pinned revision; later instances are not in it.
        verified: a passed verification of this revision is recorded.
    """

    project: str
    state: str
    revision: int
    verified: bool


def instance_state(
    study: StudyFacts,
    revision: int,
    *,
    altered: bool,
    transfers: Iterable[TransferFacts],
    held_back_by: frozenset[str] = frozenset(),
) -> InstanceState:
    """The state of one instance in the archive.

    Args:
        study: its study.
        revision: the first revision of the study that holds these bytes; 0 for none yet.
        altered: the archived bytes differ from the recorded digest.
        transfers: all transfers of the study.
        held_back_by: projects whose pinned revision held this instance back.
    """
    if altered:
        return "altered"
    if not revision:
        return "received"
    if revision > study.registered:
        return "processing"
    if study.flagged:
        return "flagged"
    found = project_states(revision, transfers, held_back_by).values()
    return min(found, key=ORDER.index, default="held")


def project_states(
    revision: int, transfers: Iterable[TransferFacts], held_back_by: frozenset[str] = frozenset()
) -> dict[str, InstanceState]:
    """The state of one instance in each project that asked for it; arguments as :func:`instance_state`."""
    found: dict[str, InstanceState] = {}
    for transfer in transfers:
        if (
            transfer.state in ("refused", "superseded", "withdrawn", "adopted")
            or transfer.revision < revision
        ):
            continue
        state = _transfer_state(transfer, held_back=transfer.project in held_back_by)
        found[transfer.project] = min(found.get(transfer.project, state), state, key=ORDER.index)
    return found


def _transfer_state(transfer: TransferFacts, *, held_back: bool) -> InstanceState:
    if held_back:
        return "filtered"
    if transfer.state == "accepted":
        return "verified" if transfer.verified else "requested"
    if transfer.state == "packaged":
        return "packaged"
    return "delivered" if transfer.state == "delivered" else "failed"


def sorted_counts(counts: dict[str, int], order: Sequence[str]) -> dict[str, int]:
    """Counts above zero in the order of the states."""
    return {state: counts[state] for state in order if counts.get(state)}
