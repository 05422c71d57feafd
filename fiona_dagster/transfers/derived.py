"""Derived data: series that a workstation made of delivered copies and sent back under the copies' UID.

They join the project, participant and event of the study they were made of, keep what is mapped already, and
go through the same gate as everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fiona_dagster.config import ProjectSettings
from fiona_dagster.errors import OriginalUnavailable, RequestRefused
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway
from fiona_dagster.transfers.rules import rules_digest

if TYPE_CHECKING:
    from fiona_dagster.deid import ProjectKey
    from fiona_dagster.deid.derived import DerivedIdentities, Mapped
    from fiona_dagster.deid.identities import Identities

GONE = (
    "came back under the UID of a copy whose transfer does not count any more (withdrawn or corrected); "
    "a person decides"
)
MISSING = (
    "came back under the UID of a copy whose originals are not here any more, so that it can't be searched "
    "for what identifies the person; have them sent again, or decide outside of the gateway"
)
_read: dict[tuple[str, int, int, str], Mapped] = {}


def source_of(gateway: Gateway, study: str) -> Transfer | None:
    """The transfer whose copies a study was made of; None for a study that is not derived.

    Raises:
        RequestRefused: that transfer does not count any more.
    """
    derived = gateway.ledger.derived.recognise(study)
    if derived is None:
        return None
    source = gateway.ledger.derived.source(derived)
    if source is None:
        raise RequestRefused(f"study {study}: {GONE}")
    return source


def require_same(gateway: Gateway, study: str, project: str, participant: str, event: str) -> None:
    """Derived data go where the study went that they were made of, and nowhere else.

    Raises:
        RequestRefused: the request names another project, participant or event, or the originals of that
            study are not here any more.
    """
    source = source_of(gateway, study)
    if source is not None and not originals_of(gateway, source):
        raise RequestRefused(f"study {study}: {MISSING}")
    if source is not None and (source.project, source.participant, source.event) != (
        project,
        participant,
        event,
    ):
        raise RequestRefused(
            "the study came back under a de-identified UID; it can go to the project, participant and event "
            f"of the study it was made of only (project {source.project})"
        )


def originals_of(gateway: Gateway, source: Transfer) -> list[Path]:
    """The originals of the copies that data were made of; none if they are not all here any more."""
    rows = gateway.ledger.receipts.instances(source.study)
    paths = [gateway.root.path / row["path"] for row in rows]
    return paths if all(path.is_file() for path in paths) else []


def mapped_of(gateway: Gateway, source: Transfer, key: ProjectKey) -> Mapped:
    """What originals and copies of a transfer hold; read once in a process.

    Raises:
        RequestRefused: the originals are not here any more.
    """
    from fiona_dagster.deid import Assignment
    from fiona_dagster.deid.derived import already_mapped
    from fiona_dagster.deid.profile import Profile

    project = gateway.project(source.project)
    place = (str(gateway.root.path), source.id, source.revision, rules_digest(project))
    paths = originals_of(gateway, source)
    if not paths:
        raise RequestRefused(f"study {source.mapped_uid}: {MISSING}")
    if place not in _read:
        names = Assignment(source.project, source.participant, source.event).names()
        identities = _identities(project, source, key)
        try:
            found = already_mapped(paths, identities, Profile.of(project, names))
        except OriginalUnavailable:
            if all(path.is_file() for path in paths):
                raise
            raise RequestRefused(f"study {source.mapped_uid}: {MISSING}") from None
        _read.clear()
        _read[place] = found
    return _read[place]


def _identities(project: ProjectSettings, source: Transfer, key: ProjectKey) -> Identities:
    from fiona_dagster.deid.compatibility import identities_for

    return identities_for(project, key, source.participant, source.generation)


def identities_of(gateway: Gateway, source: Transfer, key: ProjectKey) -> DerivedIdentities:
    """Identities for data that were made of the copies of a transfer.

    Raises:
        RequestRefused: the originals are not here any more.
    """
    from fiona_dagster.deid.derived import DerivedIdentities

    return DerivedIdentities(
        _identities(gateway.project(source.project), source, key),
        original=source.study,
        mapped=mapped_of(gateway, source, key),
    )
