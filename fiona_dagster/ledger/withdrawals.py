"""Requests that a person withdrew: what was seen, what was asked, what was carried out; withdrawn consents.

A request that is missing from REDCap is *seen* and nothing else until it is confirmed. Where too many are
withdrawn at once all of them are *asked*: a person decides, and until then nothing is sent for them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from fiona_dagster.errors import ConsentWithdrawn, WithdrawalAsked
from fiona_dagster.ledger.records import write_common
from fiona_dagster.ledger.rows import OTHER_PROJECT, Request, Transfer, transfer_of
from fiona_dagster.ledger.store import Store, utc_now

WithdrawalKind = Literal["marked", "missing", "command", "consent"]
WithdrawalState = Literal["seen", "asked", "carried", "rejected"]
LIVING = ("accepted", "packaged", "delivered", "failed", "stopped")
"""States of transfers that a withdrawal has something to say to."""


@dataclass(frozen=True)
class Withdrawal:
    """A request that was withdrawn, or may have been.

    Attributes:
        requested_date: of the request, as REDCap had it.
        exports: complete exports, one after the other, that lacked it.
        decided_by: who decided about one that was asked.
    """

    study: str
    project: str
    request: int
    requested_date: str
    kind: WithdrawalKind
    state: WithdrawalState
    exports: int
    first_seen: str
    changed: str
    decided_by: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What it is known by."""
        return self.study, self.project, self.request, self.requested_date


class Withdrawals:
    """The tables of withdrawals and of withdrawn consents."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self, *states: WithdrawalState) -> list[Withdrawal]:
        """Everything in these states (default: all), oldest first."""
        rows = self._store.rows("SELECT * FROM withdrawals ORDER BY first_seen, study, project, request")
        return [Withdrawal(**dict(row)) for row in rows if not states or row["state"] in states]

    def of(self, transfer: Transfer) -> Withdrawal | None:
        """What is known about the request of a transfer."""
        row = self._store.row(
            """SELECT * FROM withdrawals WHERE study = ? AND project = ? AND request = ?
               AND requested_date = ?""",
            *_key(transfer),
        )
        return None if row is None else Withdrawal(**dict(row))

    def book(
        self,
        transfer: Transfer,
        kind: WithdrawalKind,
        state: WithdrawalState,
        *,
        exports: int = 0,
        by: str = "",
    ) -> None:
        """Writes down what is known now about the request of a transfer; the first time of it is kept."""
        now = utc_now()
        with self._store.writing() as db:
            db.execute(
                """INSERT INTO withdrawals (study, project, request, requested_date, kind, state, exports,
                       first_seen, changed, decided_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT DO UPDATE SET kind = excluded.kind, state = excluded.state,
                       exports = excluded.exports, changed = excluded.changed,
                       decided_by = excluded.decided_by""",
                (*_key(transfer), kind, state, exports, now, now, by),
            )

    def living(self, study: str | None = None) -> list[Transfer]:
        """Transfers whose request may still be withdrawn, of one study or of all, oldest first."""
        marks = ", ".join("?" for _ in LIVING)
        found = self._store.rows(
            f"""SELECT * FROM transfers WHERE state IN ({marks}) AND study = coalesce(?, study)
                ORDER BY id""",  # noqa: S608 - question marks
            *LIVING,
            study,
        )
        return [transfer_of(row) for row in found]

    def transfers_of(self, found: Withdrawal) -> list[Transfer]:
        """The living transfers of a request; one of them stands for all."""
        return [t for t in self.living(found.study) if _key(t) == found.key][-1:]

    def to_clean(self) -> list[tuple[Transfer, list[str]]]:
        """Withdrawn transfers with the paths of their packages that were not delivered.

        Those whose request names another project now are among them: nobody asks for these copies either.
        """
        packages: dict[int, list[str]] = {}
        for row in self._store.rows("SELECT transfer, path FROM packages WHERE path LIKE 'outbox/%'"):
            packages.setdefault(row["transfer"], []).append(row["path"])
        found = self._store.rows(
            "SELECT * FROM transfers WHERE state = 'withdrawn' OR (state = 'stopped' AND reason = ?)",
            OTHER_PROJECT,
        )
        return [(transfer_of(row), packages.get(row["id"], [])) for row in found]

    def cleaned(self, transfer: Transfer) -> None:
        """The undelivered packages of a transfer are gone."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE packages SET path = '' WHERE transfer = ? AND path LIKE 'outbox/%'", (transfer.id,)
            )

    def forget(self, found: Withdrawal) -> None:
        """What a person decided is of the past: REDCap says otherwise by now. The history keeps it."""
        with self._store.writing() as db:
            db.execute(
                """DELETE FROM withdrawals WHERE study = ? AND project = ? AND request = ?
                   AND requested_date = ? AND state = ?""",
                (*found.key, found.state),
            )

    def forget_seen(self, keep: Collection[tuple[str, str, int, str]]) -> None:
        """What was missing once and is there again was never withdrawn; ``keep``: what is still missing."""
        gone = [found.key for found in self.all("seen") if found.key not in keep]
        if gone:
            with self._store.writing() as db:
                db.executemany(
                    """DELETE FROM withdrawals WHERE study = ? AND project = ? AND request = ?
                       AND requested_date = ? AND state = 'seen'""",
                    gone,
                )

    def require_unasked(self, transfer: Transfer) -> None:
        """Nothing leaves while a person has to decide whether the request stands.

        Raises:
            WithdrawalAsked: nobody decided yet.
        """
        found = self.of(transfer)
        if found is not None and found.state == "asked":
            raise WithdrawalAsked(
                f"study {transfer.study}, project {transfer.project}: the request may have been withdrawn, "
                "with more others at once than redcap.withdrawals_at_once; nothing is sent until somebody "
                "decides with `fiona withdrawals --confirm` or `--reject`"
            )

    def require_consent(self, wanted: Request | Transfer) -> None:
        """Nothing goes to a project for a participant who withdrew the consent.

        Raises:
            ConsentWithdrawn: that is so.
        """
        if self.consent_withdrawn(wanted.project, wanted.participant):
            raise ConsentWithdrawn(
                f"the consent of this participant of project {wanted.project} was withdrawn; nothing is "
                "sent. If it was given again, `fiona withdraw --project ... --participant ... --given-again`"
            )

    def consent_withdrawn(self, project: str, participant: str) -> bool:
        """Whether the participant's consent was withdrawn in this project."""
        return (
            self._store.row(
                "SELECT 1 FROM withdrawn_consents WHERE project = ? AND participant = ?", project, participant
            )
            is not None
        )

    def withdraw_consent(self, project: str, participant: str, by: str) -> None:
        """From now on no request for this participant is accepted. Idempotent."""
        with self._store.writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO withdrawn_consents (project, participant, time, told_by) "
                "VALUES (?, ?, ?, ?)",
                (project, participant, utc_now(), by),
            )
            write_common(db, self._store.root)

    def give_consent_again(self, project: str, participant: str) -> bool:
        """New requests for this participant are accepted again; whether anything was withdrawn."""
        with self._store.writing() as db:
            gone = db.execute(
                "DELETE FROM withdrawn_consents WHERE project = ? AND participant = ?", (project, participant)
            ).rowcount
            write_common(db, self._store.root)
        return bool(gone)


def _key(transfer: Transfer) -> tuple[str, str, int, str]:
    return transfer.study, transfer.project, transfer.request, transfer.requested_date
