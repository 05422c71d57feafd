"""Requests as they become transfers: taken up, replaced, refused, stopped, started again."""

from __future__ import annotations

import sqlite3

from fiona_dagster.errors import RemovalAwaited
from fiona_dagster.ledger.releases import Releases
from fiona_dagster.ledger.requested import Requested
from fiona_dagster.ledger.rows import (
    OTHER_PROJECT,
    OTHER_USE,
    OTHER_WORDS,
    Request,
    Transfer,
    TransferState,
    transfer_of,
)
from fiona_dagster.ledger.sendings import PREVIOUS_SYSTEM
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.withdrawals import LIVING, WithdrawalKind, Withdrawals
from fiona_dagster.ledger.work import WorkList


def superseded_words(newer: int) -> str:
    """What the record of a request says that a newer one replaced."""
    return f"superseded: request {newer} for the same project is newer"


class Requests(Requested):
    """Which transfer of a study and project counts, and what becomes of the others."""

    def __init__(self, store: Store, work: WorkList) -> None:
        super().__init__(store)
        self._work = work
        self.withdrawals = Withdrawals(store)
        self.releases = Releases(store)

    def require_removed(self, wanted: Request | Transfer) -> None:
        """No target of the project may hold the study under another participant or event.

        Raises:
            RemovalAwaited: one may, since sending began; and nobody confirmed the removal.
        """
        elsewhere = self._elsewhere(wanted)
        if PREVIOUS_SYSTEM in elsewhere:
            raise RemovalAwaited(
                f"the system before this one sent the study to {wanted.project}, under UIDs that only it "
                "knows; have that copy removed, then confirm it with "
                f"`fiona removed {wanted.study} --project {wanted.project}`"
            )
        if elsewhere:
            raise RemovalAwaited(
                f"the study was sent to {wanted.project}, at least in part, under another participant or "
                f"event (targets: {', '.join(elsewhere)}); have that copy removed there, then confirm "
                f"it with `fiona removed {wanted.study} --project {wanted.project}`"
            )

    def accept(self, request: Request, revision: int) -> Transfer:
        """Takes up a request; an older one of the same study and project is superseded.

        Args:
            request: what REDCap says.
            revision: the study's revision that is transferred.

        Raises:
            RemovalAwaited: the study was begun to be sent there under another participant or event.
            ConsentWithdrawn: the participant withdrew the consent.
        """
        study, project = request.study, request.project
        with self._store.writing() as db:
            # In the transaction: a delivery that begins at this moment is either seen here or sees this.
            self.require_removed(request)
            self.withdrawals.require_consent(request)
            self._tell_superseded(db, request)
            self._supersede(db, study, project)
            self.stop_others(request)
            transfer = self._insert(db, request, revision, "accepted", "")
            self._work.need("transfer", study, revision, project=project, again=True)
            self._store.note(study, f"request {request.instance} accepted for project {project}")
        return transfer

    def stop_others(self, request: Request, *, only_place: bool = False) -> list[Transfer]:
        """What was taken up of this instance while it named another project, participant or event stops.

        A request is one instance of REDCap's instrument and what it says. Whether it was edited or deleted
        and its number given out again can't be told; in either case nobody asks any more for what it said
        before. A date alone that differs asks for the same again. Idempotent.

        Args:
            request: what REDCap says.
            only_place: a study has room for one request: the next project is asked for in the same place, so
                that what was delivered before is no mistake to be followed up.

        Returns:
            What was stopped, as it stood before.
        """
        stopped = []
        with self._store.writing() as db:
            marks = ", ".join("?" for _ in LIVING)
            found = db.execute(
                f"""SELECT * FROM transfers WHERE study = ? AND request = ? AND state IN ({marks})
                    AND (project != ? OR participant != ? OR event != ? OR ? = '')""",  # noqa: S608 - question marks
                (
                    request.study,
                    request.instance,
                    *LIVING,
                    request.project,
                    request.participant,
                    request.event,
                    request.requested_date,
                ),
            ).fetchall()
            for transfer in map(transfer_of, found):
                reason = _other_words(transfer, request, only_place)
                if transfer.state == "stopped" and not (
                    transfer.reason == OTHER_WORDS and reason == OTHER_PROJECT
                ):
                    continue
                current = self.current(transfer.study, transfer.project)
                if current is not None and current.id == transfer.id:
                    self._work.drop(transfer.study, transfer.project)
                db.execute(
                    "UPDATE transfers SET state = 'stopped', reason = ?, changed = ? WHERE id = ?",
                    (reason, utc_now(), transfer.id),
                )
                self._store.note(transfer.study, f"{transfer.project}: {reason}")
                stopped.append(transfer)
        return stopped

    def adopt(self, request: Request, mapped_uid: str, when: str) -> Transfer:
        """Books that the system before this one carried the request out; it is never sent again by itself.

        Args:
            request: what REDCap says.
            mapped_uid: StudyInstanceUID of that copy, as REDCap has it; may be empty.
            when: REDCap's ``transfer_date``, for the history.
        """
        with self._store.writing() as db:
            transfer = self._insert(db, request, 0, "adopted", "delivered by the previous system")
            db.execute("UPDATE transfers SET mapped_uid = ? WHERE id = ?", (mapped_uid, transfer.id))
            self.sendings.adopt(db, transfer.id)
            self._store.note(
                request.study,
                f"request {request.instance} for project {request.project} adopted: the previous system "
                f"delivered it, {when}",
            )
        return transfer

    def supersede(self, request: Request, newer: int) -> Transfer:
        """Books a request of which a newer one of the same study and project was taken up before it."""
        with self._store.writing() as db:
            transfer = self._insert(db, request, 0, "superseded", superseded_words(newer))
            self.outcome_due(transfer)
            self._store.note(
                request.study, f"request {request.instance} for project {request.project}: {transfer.reason}"
            )
        return transfer

    def start_over(self, transfer: Transfer, why: str) -> Transfer:
        """The same request again, from the de-identification on; what was made before is never sent.

        Raises:
            Superseded: the transfer does not count any more.
        """
        with self._store.writing() as db:
            self.require_current(transfer)
            self._supersede(db, transfer.study, transfer.project)
            request = Request(
                study=transfer.study,
                project=transfer.project,
                instance=transfer.request,
                requested_date=transfer.requested_date,
                participant=transfer.participant,
                event=transfer.event,
            )
            new = self._insert(db, request, transfer.revision, "accepted", "")
            self._work.need("transfer", new.study, new.revision, project=new.project, again=True)
            self._store.note(new.study, f"{new.project}: starts again: {why}")
        return new

    def _supersede(self, db: sqlite3.Connection, study: str, project: str) -> None:
        db.execute(
            """UPDATE transfers SET state = 'superseded', changed = ?
               WHERE study = ? AND project = ?
               AND state NOT IN ('superseded', 'refused', 'withdrawn', 'adopted')""",
            (utc_now(), study, project),
        )
        self._work.drop(study, project)

    def _tell_superseded(self, db: sqlite3.Connection, newer: Request) -> None:
        """Other requests of the study and project that count until now say by which they are replaced."""
        changed = db.execute(
            """UPDATE transfers SET reason = ? WHERE study = ? AND project = ? AND request != ?
               AND state IN ('accepted', 'packaged', 'failed')""",
            (superseded_words(newer.instance), newer.study, newer.project, newer.instance),
        ).rowcount
        if changed:
            self._work.need("status", newer.study, 0, project=newer.project, again=True)

    def refuse(self, request: Request, reason: str, *, awaits_removal: bool = False) -> Transfer:
        """Books a request that can't be carried out; the reason goes into its REDCap record.

        Args:
            request: what REDCap says.
            reason: why not; nothing identifying.
            awaits_removal: it is looked at again when the removal of the older copy is confirmed, and until
                then nothing more is sent under the older assignment.
        """
        study, project = request.study, request.project
        with self._store.writing() as db:
            transfer = self._insert(db, request, 0, "refused", reason, awaits_removal=awaits_removal)
            self._work.need("status", study, transfer.id, project=project, again=True)
            self._store.note(study, f"request {request.instance} for project {project} refused: {reason}")
            if awaits_removal:
                self.stop(
                    study,
                    project,
                    "stopped: a newer request names another participant or event; "
                    "nothing more is sent until the removal of this copy is confirmed",
                )
        return transfer

    def stop(self, study: str, project: str, reason: str) -> None:
        """Nothing more is sent under the transfer that counts; what is under way stops. Idempotent."""
        with self._store.writing() as db:
            current = self.current(study, project)
            if current is None:
                return
            self._work.drop(study, project)
            db.execute(
                "UPDATE transfers SET state = 'stopped', reason = ?, changed = ? WHERE id = ?",
                (reason, utc_now(), current.id),
            )
            self.outcome_due(current)
            self._store.note(study, f"{project}: {reason}")

    def withdraw(self, transfer: Transfer, kind: WithdrawalKind, reason: str, *, by: str = "") -> None:
        """A person took the request back: nothing more is sent under it. Idempotent.

        Args:
            transfer: any transfer of the request; all of the same request and date are withdrawn.
            kind: how it is known.
            reason: for its REDCap record and the history; nothing identifying.
            by: who decided, if a person decided here.
        """
        study, project = transfer.study, transfer.project
        with self._store.writing() as db:
            self.withdrawals.book(transfer, kind, "carried", by=by)
            current = self.current(study, project)
            if current is not None and current.request == transfer.request:
                self._work.drop(study, project)
            marks = ", ".join("?" for _ in LIVING)
            changed = db.execute(
                f"""UPDATE transfers SET state = 'withdrawn', reason = ?, changed = ? WHERE study = ?
                    AND project = ? AND request = ? AND requested_date = ?
                    AND state IN ({marks})""",  # noqa: S608 - question marks
                (reason, utc_now(), study, project, transfer.request, transfer.requested_date, *LIVING),
            ).rowcount
            if changed:
                if kind != "missing":  # else there is no record to tell
                    self.outcome_due(transfer)
                self._store.note(study, f"{project}: {reason}" + (f" ({by})" if by else ""))

    def _insert(
        self,
        db: sqlite3.Connection,
        request: Request,
        revision: int,
        state: TransferState,
        reason: str,
        *,
        awaits_removal: bool = False,
    ) -> Transfer:
        now = utc_now()
        cursor = db.execute(
            """INSERT INTO transfers (study, project, request, requested_date, participant, event, generation,
                   revision, state, reason, created, changed, awaits_removal)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (
                request.study,
                request.project,
                request.instance,
                request.requested_date,
                request.participant,
                request.event,
                self.sendings.generation_for(
                    request.study, request.project, request.participant, request.event
                ),
                revision,
                state,
                reason,
                now,
                now,
                int(awaits_removal),
            ),
        )
        return transfer_of(db.execute("SELECT * FROM transfers WHERE id = ?", (cursor.lastrowid,)).fetchone())

    def outcome_due(self, transfer: Transfer) -> None:
        """REDCap has to be told how this transfer stands."""
        self._work.need("status", transfer.study, transfer.id, project=transfer.project, again=True)


def _other_words(transfer: Transfer, request: Request, only_place: bool) -> str:
    """Why a transfer is stopped whose request says something else."""
    if request.project in ("", transfer.project):
        return OTHER_WORDS
    again = transfer.state == "delivered" and transfer.requested_date != request.requested_date
    return OTHER_USE if only_place and again else OTHER_PROJECT
