"""Derived data: series that a workstation made of delivered copies and sent back under the copies' UID.

They join the project, participant and event of the study they were made of, keep what is mapped already, and
go through the same gate as everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fiona_dagster.errors import RequestRefused
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.context import Gateway

if TYPE_CHECKING:
    from fiona_dagster.deid import ProjectKey
    from fiona_dagster.deid.derived import DerivedIdentities, Mapped

GONE = (
    "came back under the UID of a copy whose transfer does not count any more (withdrawn or corrected); "
    "a person decides"
)


_read: dict[tuple[str, int, int], Mapped] = {}


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
        RequestRefused: the request names another project, participant or event.
    """
    source = source_of(gateway, study)
    if source is not None and (source.project, source.participant, source.event) != (
        project,
        participant,
        event,
    ):
        raise RequestRefused(
            "the study came back under a de-identified UID; it can go to the project, participant and event "
            f"of the study it was made of only (project {source.project})"
        )


def mapped_of(gateway: Gateway, source: Transfer, key: ProjectKey) -> Mapped:
    """What the copies of a transfer hold in place of the originals' values; read once in a process."""
    place = (str(gateway.root.path), source.id, source.revision)
    if place in _read:
        return _read[place]
    from fiona_dagster.deid.derived import already_mapped
    from fiona_dagster.deid.identities import Identities

    identities = Identities(key.secret, source.participant, source.generation)
    rows = gateway.ledger.receipts.instances(source.study)
    found = already_mapped([gateway.root.path / row["path"] for row in rows], identities)
    _read.clear()
    _read[place] = found
    return found


def identities_of(gateway: Gateway, source: Transfer, key: ProjectKey) -> DerivedIdentities:
    """Identities for data that were made of the copies of a transfer."""
    from fiona_dagster.deid.derived import DerivedIdentities

    return DerivedIdentities(
        key.secret,
        source.participant,
        source.generation,
        original=source.study,
        mapped=mapped_of(gateway, source, key),
    )
