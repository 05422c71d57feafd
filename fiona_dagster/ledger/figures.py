"""Numbers over the whole ledger, cheap enough to be asked for every few seconds."""

from __future__ import annotations

from dataclasses import dataclass

from fiona_dagster.ledger.store import Store


@dataclass(frozen=True)
class Figures:
    """How much there is of what.

    Attributes:
        studies: studies that the ledger knows and that are not retired.
        instances: instances of them.
        flagged: studies that wait for a person.
        aside: instances that were set aside, by state.
        transfers: transfers by state.
        work: work that is to be done, by kind.
        blocked: work that waits for a person, by kind.
    """

    studies: int
    instances: int
    flagged: int
    aside: dict[str, int]
    transfers: dict[str, int]
    work: dict[str, int]
    blocked: dict[str, int]


def figures(store: Store) -> Figures:
    """Counts now."""

    def one(query: str) -> int:
        row = store.row(query)
        return int(row[0]) if row is not None else 0

    def by(query: str) -> dict[str, int]:
        return {str(row[0]): int(row[1]) for row in store.rows(query)}

    return Figures(
        studies=one("SELECT count(*) FROM studies WHERE retired IS NULL"),
        instances=one("SELECT count(*) FROM instances"),
        flagged=one("SELECT count(*) FROM studies WHERE retired IS NULL AND flags != '[]'"),
        aside=by("SELECT state, count(*) FROM set_aside GROUP BY state"),
        transfers=by("SELECT state, count(*) FROM transfers GROUP BY state"),
        work=by("SELECT kind, count(*) FROM work WHERE blocked = 0 GROUP BY kind"),
        blocked=by("SELECT kind, count(*) FROM work WHERE blocked = 1 GROUP BY kind"),
    )
