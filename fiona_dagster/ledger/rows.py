"""Rows of the ledger about transfers, as plain records."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TransferState = Literal[
    "accepted",
    "packaged",
    "delivered",
    "refused",
    "failed",
    "superseded",
    "stopped",
    "withdrawn",
    "adopted",
]
"""``stopped``: a request names another participant or event than the one that was sent, the request itself
says something else now, or the copy was removed on purpose; ``withdrawn``: a person took the request back;
``adopted``: the system before this one carried it out. Nothing more is sent under any of them."""


SAYS_OTHERWISE = "stopped: the request in REDCap "
"""Begins the reason of what was stopped because its request does not say that any more."""
OTHER_WORDS = SAYS_OTHERWISE + "says something else now"
OTHER_PROJECT = SAYS_OTHERWISE + "names another project now"
OTHER_USE = SAYS_OTHERWISE + "was made again for another project, after this one had been delivered"


@dataclass(frozen=True)
class Transfer:
    """One transfer request and how far it came.

    Attributes:
        revision: the pinned revision of the study.
        rules: digest of the rules that its working copy was made by, or ``""``.
        awaits_removal: refused until the removal of an older copy is confirmed.
    """

    id: int
    study: str
    project: str
    request: int
    requested_date: str
    participant: str = field(repr=False)
    event: str = field(repr=False)
    generation: int
    revision: int
    state: TransferState
    reason: str
    mapped_uid: str = field(repr=False)
    created: str
    changed: str
    rules: str
    awaits_removal: bool

    @property
    def said_otherwise(self) -> bool:
        """Whether it was stopped since its request says something else; undoing that asks for it again."""
        return self.state == "stopped" and self.reason.startswith(SAYS_OTHERWISE)


def set_back(row: Transfer, newest: Transfer) -> bool:
    """Whether a request says again, under its old date too, what a newer transfer had taken the place of.

    Args:
        row: the newest transfer of the request's date, with its words.
        newest: the newest of the instance, whatever it said.
    """
    words = (newest.project, newest.participant, newest.event)
    other = (row.project, row.participant, row.event) != words
    return row.state == "superseded" and newest.id > row.id and other and newest.said_otherwise


@dataclass(frozen=True)
class Request:
    """What a person asked for: one instance of REDCap's instrument *transfers*."""

    study: str
    project: str
    instance: int
    requested_date: str
    participant: str = field(repr=False)
    event: str = field(repr=False)


@dataclass(frozen=True)
class Package:
    """A package that was made from verified bytes. ``path`` is relative to the data root."""

    path: str
    size: int
    md5: str
    sha256: str
    instances: int
    time: str


@dataclass(frozen=True)
class Delivery:
    """A target that is proven to have a package."""

    target: str
    sha256: str
    proof: dict[str, Any]
    time: str


def transfer_of(row: sqlite3.Row | Mapping[str, Any]) -> Transfer:
    """A row of the table ``transfers``."""
    values = dict(row)
    values["awaits_removal"] = bool(values["awaits_removal"])
    return Transfer(**values)
