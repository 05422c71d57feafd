"""Transfers: accepted requests, verification records, packages and proven deliveries.

The verification record is the gate of the second promise: packaging and every sender ask
:meth:`Transfers.verified_files` and :meth:`Transfers.package` and compare the bytes in hand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fiona_dagster.errors import NotVerified
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.work import WorkList

TransferState = Literal["accepted", "packaged", "delivered", "refused", "failed", "superseded"]


@dataclass(frozen=True)
class Transfer:
    """One transfer request and how far it came. ``revision`` is the pinned revision of the study."""

    id: int
    study: str
    project: str
    request: int
    requested_date: str
    participant: str
    event: str
    generation: int
    revision: int
    state: TransferState
    reason: str
    mapped_uid: str
    created: str
    changed: str


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


class Transfers:
    """The tables of transfers, verifications, packages and deliveries."""

    def __init__(self, store: Store, work: WorkList) -> None:
        self._store = store
        self._work = work

    # -- requests -------------------------------------------------------------------------------

    def handled(self, request: Request) -> bool:
        """Whether this request, with this date, was taken up before, or refused with these very words.

        A refused request that a person corrected is looked at again, also under the old date.
        """
        found = self._store.row(
            """SELECT id FROM transfers WHERE study = ? AND project = ? AND request = ?
               AND requested_date = ? AND (state != 'refused' OR (participant = ? AND event = ?))""",
            *_request_values(request),
        )
        return found is not None

    def accept(self, request: Request, revision: int) -> Transfer:
        """Takes up a request; an older one of the same study and project is superseded.

        Args:
            request: what REDCap says.
            revision: the study's revision that is transferred.
        """
        study, project = request.study, request.project
        with self._store.writing() as db:
            db.execute(
                """UPDATE transfers SET state = 'superseded', changed = ?
                   WHERE study = ? AND project = ? AND state != 'superseded'""",
                (utc_now(), study, project),
            )
            transfer = self._insert(db, request, revision, "accepted", "")
            self._work.drop(study, project)
            self._work.need("transfer", study, revision, project=project, again=True)
            self._store.note(study, f"request {request.instance} accepted for project {project}")
        return transfer

    def refuse(self, request: Request, reason: str) -> Transfer:
        """Books a request that can't be carried out; the reason goes into its REDCap record."""
        study, project = request.study, request.project
        with self._store.writing() as db:
            transfer = self._insert(db, request, 0, "refused", reason)
            self._work.need("status", study, transfer.id, project=project, again=True)
            self._store.note(study, f"request {request.instance} for project {project} refused: {reason}")
        return transfer

    def _insert(
        self, db: sqlite3.Connection, request: Request, revision: int, state: TransferState, reason: str
    ) -> Transfer:
        now = utc_now()
        cursor = db.execute(
            """INSERT INTO transfers (study, project, request, requested_date, participant, event, revision,
                   state, reason, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            (*_request_values(request), revision, state, reason, now, now),
        )
        return _transfer(db.execute("SELECT * FROM transfers WHERE id = ?", (cursor.lastrowid,)).fetchone())

    def current(self, study: str, project: str) -> Transfer | None:
        """The transfer of this study and project that counts: the newest that was not refused."""
        row = self._store.row(
            """SELECT * FROM transfers WHERE study = ? AND project = ?
               AND state NOT IN ('refused', 'superseded')
               ORDER BY id DESC LIMIT 1""",
            study,
            project,
        )
        return None if row is None else _transfer(row)

    def previous_delivered(self, study: str, project: str) -> Transfer | None:
        """The newest transfer of this study and project of which anything was delivered."""
        row = self._store.row(
            """SELECT t.* FROM transfers t WHERE t.study = ? AND t.project = ? AND EXISTS
               (SELECT 1 FROM deliveries d WHERE d.transfer = t.id) ORDER BY t.id DESC LIMIT 1""",
            study,
            project,
        )
        return None if row is None else _transfer(row)

    def all(self, study: str | None = None) -> list[Transfer]:
        """All transfers, of one study or of all, oldest first."""
        if study is None:
            return [_transfer(row) for row in self._store.rows("SELECT * FROM transfers ORDER BY id")]
        found = self._store.rows("SELECT * FROM transfers WHERE study = ? ORDER BY id", study)
        return [_transfer(row) for row in found]

    def set_state(self, transfer: Transfer, state: TransferState, reason: str = "") -> None:
        """Moves a transfer on; ``reason`` holds nothing identifying."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE transfers SET state = ?, reason = ?, changed = ? WHERE id = ?",
                (state, reason[:2000], utc_now(), transfer.id),
            )
            self._store.note(
                transfer.study, f"{transfer.project}: {state}" + (f": {reason}" if reason else "")
            )

    def new_revision(self, study: str, revision: int) -> list[Transfer]:
        """Late images: transfers of older revisions of this study start again with the same assignment."""
        again: list[Transfer] = []
        with self._store.writing() as db:
            found = db.execute(
                """SELECT * FROM transfers WHERE study = ? AND revision < ?
                   AND state IN ('accepted', 'packaged', 'delivered', 'failed')""",
                (study, revision),
            ).fetchall()
            for row in found:
                transfer = _transfer(row)
                db.execute(
                    """UPDATE transfers SET revision = ?, state = 'accepted', reason = '', changed = ?
                       WHERE id = ?""",
                    (revision, utc_now(), transfer.id),
                )
                self._work.drop(study, transfer.project)
                self._work.need("transfer", study, revision, project=transfer.project, again=True)
                again.append(transfer)
        return again

    def record_held_back(self, transfer: Transfer, kinds: Mapping[str, str]) -> None:
        """Which instances of the pinned revision were held back.

        Args:
            transfer: the transfer.
            kinds: SOPInstanceUID (as received) -> kind of object; replaces what was recorded before.
        """
        with self._store.writing() as db:
            db.execute("DELETE FROM held_back WHERE transfer = ?", (transfer.id,))
            db.executemany(
                "INSERT INTO held_back (transfer, revision, sop_instance, kind) VALUES (?, ?, ?, ?)",
                [(transfer.id, transfer.revision, uid, kind) for uid, kind in sorted(kinds.items())],
            )

    # -- the gate -------------------------------------------------------------------------------

    def record_verification(
        self,
        transfer: Transfer,
        *,
        passed: bool,
        files: dict[str, str],
        report: dict[str, Any],
        mapped_uid: str,
    ) -> None:
        """Writes the verification record of a transfer's pinned revision, replacing an older one."""
        with self._store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO verifications (transfer, revision, passed, files, report, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    transfer.id,
                    transfer.revision,
                    int(passed),
                    json.dumps(files, sort_keys=True),
                    json.dumps(report, sort_keys=True),
                    utc_now(),
                ),
            )
            db.execute("UPDATE transfers SET mapped_uid = ? WHERE id = ?", (mapped_uid, transfer.id))

    def verified_files(self, transfer: Transfer) -> dict[str, str]:
        """Relative name -> SHA-256 of the files that passed the verification.

        Raises:
            NotVerified: there is no record for this transfer and revision, or it did not pass.
        """
        row = self._store.row(
            "SELECT passed, files FROM verifications WHERE transfer = ? AND revision = ?",
            transfer.id,
            transfer.revision,
        )
        if row is None or not row["passed"]:
            raise NotVerified(
                f"transfer {transfer.id}, revision {transfer.revision}: no passed verification; "
                f"run transfer_{transfer.project} for study {transfer.study}"
            )
        files: dict[str, str] = json.loads(row["files"])
        return files

    def verification_report(self, transfer: Transfer) -> dict[str, Any] | None:
        """The report that was stored with the verification record."""
        row = self._store.row(
            "SELECT report FROM verifications WHERE transfer = ? AND revision = ?",
            transfer.id,
            transfer.revision,
        )
        return None if row is None else json.loads(row["report"])

    # -- packages and deliveries ----------------------------------------------------------------

    def record_package(self, transfer: Transfer, package: Package, targets: tuple[str, ...]) -> None:
        """A package was made: the deliveries to its targets are due."""
        with self._store.writing() as db:
            db.execute(
                """INSERT OR REPLACE INTO packages (transfer, revision, path, size, md5, sha256, instances,
                   time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    transfer.id,
                    transfer.revision,
                    package.path,
                    package.size,
                    package.md5,
                    package.sha256,
                    package.instances,
                    utc_now(),
                ),
            )
            self.set_state(transfer, "packaged")
            self._work.done(f"transfer:{transfer.study}:{transfer.project}", transfer.revision)
            for target in targets:
                self._work.need(
                    "deliver", transfer.study, transfer.revision, project=transfer.project, target=target
                )

    def package(self, transfer: Transfer) -> Package | None:
        """The package of the pinned revision."""
        row = self._store.row(
            "SELECT * FROM packages WHERE transfer = ? AND revision = ?", transfer.id, transfer.revision
        )
        if row is None:
            return None
        return Package(
            path=row["path"],
            size=row["size"],
            md5=row["md5"],
            sha256=row["sha256"],
            instances=row["instances"],
            time=row["time"],
        )

    def move_package(self, transfer: Transfer, path: str) -> None:
        """The package lies elsewhere now; ``path`` is relative to the data root."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE packages SET path = ? WHERE transfer = ? AND revision = ?",
                (path, transfer.id, transfer.revision),
            )

    def record_delivery(self, transfer: Transfer, target: str, sha256: str, proof: dict[str, Any]) -> None:
        """A target is proven to have the package."""
        with self._store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO deliveries (transfer, revision, target, sha256, proof, time) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    transfer.id,
                    transfer.revision,
                    target,
                    sha256,
                    json.dumps(proof, sort_keys=True),
                    utc_now(),
                ),
            )
            key = f"deliver:{transfer.study}:{transfer.project}:{target}"
            self._work.done(key, transfer.revision)
            self._store.note(transfer.study, f"{transfer.project}: {target} proven to have the package")

    def deliveries(self, transfer: Transfer) -> dict[str, Delivery]:
        """Proven deliveries of the pinned revision, by target."""
        found = self._store.rows(
            "SELECT * FROM deliveries WHERE transfer = ? AND revision = ?", transfer.id, transfer.revision
        )
        return {
            row["target"]: Delivery(
                target=row["target"], sha256=row["sha256"], proof=json.loads(row["proof"]), time=row["time"]
            )
            for row in found
        }

    def undelivered(self) -> list[Transfer]:
        """Transfers whose pinned revision is verified and packaged but not closed, oldest first.

        Those that failed at a target are among them: what failed may have been mended since.
        """
        found = self._store.rows(
            """SELECT t.* FROM transfers t
               JOIN packages p ON p.transfer = t.id AND p.revision = t.revision
               JOIN verifications v ON v.transfer = t.id AND v.revision = t.revision AND v.passed
               WHERE t.state IN ('packaged', 'failed') ORDER BY t.id"""
        )
        return [_transfer(row) for row in found]

    def unproven(self, transfer: Transfer, targets: Collection[str]) -> list[str]:
        """Those of ``targets`` that are not proven to have the package of the pinned revision."""
        package, proven = self.package(transfer), self.deliveries(transfer)
        return [
            name
            for name in targets
            if package is None or name not in proven or proven[name].sha256 != package.sha256
        ]

    def align_deliveries(self, transfer: Transfer, targets: Collection[str]) -> tuple[int, int]:
        """Makes the deliveries that are to be done those that the project names now; idempotent.

        A target that was added since the package was made gets it, one that was taken out is forgotten.
        What is known already is left as it is, failures included.

        Returns:
            How many deliveries were added, and how many were forgotten.
        """
        waiting = {
            work.target
            for work in self._work.open(transfer.study)
            if work.kind == "deliver" and work.project == transfer.project
        }
        missing = [name for name in self.unproven(transfer, targets) if name not in waiting]
        if not missing and waiting <= set(targets):
            return 0, 0  # nearly always: no reason to write
        with self._store.writing():
            for name in missing:
                self._work.need(
                    "deliver", transfer.study, transfer.revision, project=transfer.project, target=name
                )
            dropped = self._work.drop_deliveries(transfer.study, transfer.project, targets)
            self._store.note(
                transfer.study,
                f"{transfer.project}: targets changed ({len(missing)} added, {dropped} taken out)",
            )
        return len(missing), dropped

    def outcome_due(self, transfer: Transfer) -> None:
        """REDCap has to be told how this transfer stands."""
        self._work.need("status", transfer.study, transfer.id, project=transfer.project, again=True)

    def outcome_to_write(self, study: str, project: str) -> list[Transfer]:
        """Transfers of a study and project in a state that REDCap should know, oldest first."""
        found = self._store.rows(
            """SELECT * FROM transfers WHERE study = ? AND project = ?
               AND state IN ('delivered', 'refused', 'failed') ORDER BY id""",
            study,
            project,
        )
        return [_transfer(row) for row in found]


def _transfer(row: sqlite3.Row) -> Transfer:
    return Transfer(**dict(row))


def _request_values(request: Request) -> tuple[str, str, int, str, str, str]:
    return (
        request.study,
        request.project,
        request.instance,
        request.requested_date,
        request.participant,
        request.event,
    )
