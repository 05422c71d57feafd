"""What the ledger knows of requests and of the transfers that were made of them; changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from fiona_dagster.errors import Superseded
from fiona_dagster.ledger.rows import Request, Transfer, set_back, transfer_of
from fiona_dagster.ledger.sendings import Sendings
from fiona_dagster.ledger.store import Store


class Requested:
    """Reads the table of transfers.

    Args:
        store: the open ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.sendings = Sendings(store)

    def handled(self, request: Request) -> bool:
        """Whether this request, with this date and these very words, is the one that was dealt with last.

        A request whose project, participant or event was edited is looked at again, in whatever state it is;
        so is one that awaited the removal of an older copy, once that is confirmed, and one that was stopped
        while REDCap said something else and that says these words again.
        """
        row = self._store.row(
            """SELECT * FROM transfers WHERE study = ? AND request = ? AND requested_date = ?
               ORDER BY id DESC LIMIT 1""",
            request.study,
            request.instance,
            request.requested_date,
        )
        wanted = (request.project, request.participant, request.event)
        if row is None or (row["project"], row["participant"], row["event"]) != wanted:
            return False
        if transfer_of(row).said_otherwise or self._was_set_back(row):
            return False
        return not row["awaits_removal"] or bool(self._elsewhere(request))

    def _was_set_back(self, row: sqlite3.Row) -> bool:
        """Whether what took its place was stopped since REDCap says this again, its date included."""
        newest = self._store.row(
            "SELECT * FROM transfers WHERE study = ? AND request = ? ORDER BY id DESC LIMIT 1",
            row["study"],
            row["request"],
        )
        return newest is not None and set_back(transfer_of(row), transfer_of(newest))

    def _elsewhere(self, wanted: Request | Transfer) -> list[str]:
        return self.sendings.of_others(wanted.study, wanted.project, wanted.participant, wanted.event)

    def superseded_by(self, request: Request) -> int | None:
        """The instance of another request of the study and project that is newer and was taken up already."""
        row = self._store.row(
            """SELECT request FROM transfers t WHERE study = ? AND project = ? AND request != ?
               AND (requested_date > ? OR (requested_date = ? AND request > ?))
               AND state IN ('accepted', 'packaged', 'delivered', 'failed', 'stopped')
               ORDER BY id DESC LIMIT 1""",
            request.study,
            request.project,
            request.instance,
            request.requested_date,
            request.requested_date,
            request.instance,
        )
        return None if row is None else int(row["request"])

    def was_routed(self, transfer: Transfer) -> bool:
        """Whether a routing rule wrote the request: its place in REDCap, project and participant.

        A later date asks for the same again, and an event that a person corrected makes no other participant
        of it.
        """
        found = self._store.row(
            """SELECT 1 FROM routed r JOIN transfers t USING (study, project, requested_date)
               WHERE t.study = ? AND t.project = ? AND t.request = ? AND t.participant = ?""",
            transfer.study,
            transfer.project,
            transfer.request,
            transfer.participant,
        )
        return found is not None

    def last_change(self, study: str, instance: int) -> str | None:
        """When the last transfer of this very request changed (UTC); None: it never was one."""
        row = self._store.row(
            "SELECT max(changed) AS changed FROM transfers WHERE study = ? AND request = ?", study, instance
        )
        return None if row is None else row["changed"]

    def current(self, study: str, project: str) -> Transfer | None:
        """The transfer of this study and project that counts: the newest that was not taken out."""
        row = self._store.row(
            """SELECT * FROM transfers WHERE study = ? AND project = ?
               AND state NOT IN ('refused', 'superseded', 'stopped', 'withdrawn', 'adopted')
               ORDER BY id DESC LIMIT 1""",
            study,
            project,
        )
        return None if row is None else transfer_of(row)

    def stopped(self, study: str, project: str) -> Transfer | None:
        """The transfer that was stopped or withdrawn and that no newer one has replaced."""
        row = self._store.row(
            """SELECT * FROM transfers WHERE study = ? AND project = ?
               AND state NOT IN ('refused', 'superseded', 'adopted') ORDER BY id DESC LIMIT 1""",
            study,
            project,
        )
        return transfer_of(row) if row is not None and row["state"] in ("stopped", "withdrawn") else None

    def require_current(self, transfer: Transfer) -> None:
        """Lets the work on a transfer go on while it counts; cheap enough to be asked all the time.

        Raises:
            Superseded: another request took its place, it was stopped, or images came late.
        """
        row = self._store.row(
            """SELECT 1 FROM transfers WHERE id = ? AND revision = ?
               AND state NOT IN ('refused', 'superseded', 'stopped', 'withdrawn', 'adopted')""",
            transfer.id,
            transfer.revision,
        )
        if row is None:
            raise Superseded(
                f"study {transfer.study}, project {transfer.project}: another request, a correction or late "
                "images took the place of this transfer; what it did is not counted"
            )

    def any(self) -> bool:
        """Whether there was ever a request."""
        return self._store.row("SELECT 1 FROM transfers LIMIT 1") is not None

    def newest_of_requests(self) -> dict[tuple[str, int, str], Transfer]:
        """(study, instance, requested date) -> the transfer that was made of it last."""
        return {(t.study, t.request, t.requested_date): t for t in self.all()}

    def all(self, study: str | None = None) -> list[Transfer]:
        """All transfers, of one study or of all, oldest first."""
        if study is None:
            return [transfer_of(row) for row in self._store.rows("SELECT * FROM transfers ORDER BY id")]
        found = self._store.rows("SELECT * FROM transfers WHERE study = ? ORDER BY id", study)
        return [transfer_of(row) for row in found]

    def newest_of(self, project: str, limit: int | None = None) -> list[Transfer]:
        """Transfers of a project, the newest first; at most ``limit`` of them."""
        found = self._store.rows(
            "SELECT * FROM transfers WHERE project = ? ORDER BY id DESC LIMIT ?",
            project,
            -1 if limit is None else limit,
        )
        return [transfer_of(row) for row in found]

    def ended_between(self, project: str, since: str, until: str, states: Collection[str]) -> dict[str, int]:
        """State -> how many transfers of a project came to it after ``since``, up to ``until``."""
        rows = self._store.rows(
            """SELECT state, count(*) AS number FROM transfers
               WHERE project = ? AND changed > ? AND changed <= ? GROUP BY state""",
            *(project, since, until),
        )
        return {row["state"]: row["number"] for row in rows if row["state"] in states}

    def participants(self, project: str) -> set[str]:
        """Every participant id that was ever asked for in a project."""
        rows = self._store.rows("SELECT DISTINCT participant FROM transfers WHERE project = ?", project)
        return {row["participant"] for row in rows}
