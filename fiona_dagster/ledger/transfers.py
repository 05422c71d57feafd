"""Transfers: accepted requests, verification records, packages and proven deliveries.

The verification record is the gate of the second promise: packaging and every sender ask
:meth:`Transfers.verified_files` and :meth:`Transfers.package` and compare the bytes in hand.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from fiona_dagster.errors import NotVerified, Superseded
from fiona_dagster.ledger.requests import Requests
from fiona_dagster.ledger.rows import Delivery, Package, Transfer, TransferState, transfer_of
from fiona_dagster.ledger.sendings import Content, Sending
from fiona_dagster.ledger.store import utc_now
from fiona_dagster.ledger.work import work_key

LEFT_OUT = "not_processable"
"""Among the kinds of what was held back: it can't be de-identified, and the project goes on without."""


class Transfers(Requests):
    """The tables of transfers, verifications, packages and deliveries."""

    def set_state(self, transfer: Transfer, state: TransferState, reason: str = "") -> None:
        """Moves a transfer on; ``reason`` holds nothing identifying.

        Raises:
            Superseded: it does not count any more.
        """
        with self._store.writing() as db:
            self.require_current(transfer)
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
                transfer = transfer_of(row)
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

    def not_sent(self, transfer: Transfer) -> dict[str, str]:
        """SOPInstanceUID as received -> kind, of what the pinned revision's copy does not have."""
        rows = self._store.rows(
            "SELECT sop_instance, kind FROM held_back WHERE transfer = ? AND revision = ? ORDER BY 1",
            transfer.id,
            transfer.revision,
        )
        return {row["sop_instance"]: row["kind"] for row in rows}

    def left_out(self, transfer: Transfer) -> int:
        """How many instances of the pinned revision can't be de-identified and were left out."""
        return sum(kind == LEFT_OUT for kind in self.not_sent(transfer).values())

    def record_rules(self, transfer: Transfer, digest: str) -> None:
        """By which rules the working copy was made.

        Raises:
            Superseded: the transfer does not count any more.
        """
        with self._store.writing() as db:
            self.require_current(transfer)
            db.execute("UPDATE transfers SET rules = ? WHERE id = ?", (digest, transfer.id))

    # -- the gate -------------------------------------------------------------------------------

    def record_verification(
        self,
        transfer: Transfer,
        *,
        passed: bool,
        files: dict[str, str],
        report: dict[str, Any],
        mapped_uid: str,
        review: Mapping[str, int] | None = None,
    ) -> None:
        """Writes the verification record of a transfer's pinned revision, replacing an older one.

        Args:
            transfer: the transfer.
            passed: nothing identifying was found.
            files: relative name -> SHA-256 of what was looked at.
            report: for people; nothing identifying.
            mapped_uid: new Study Instance UID.
            review: why a person has to look before it leaves: reason -> number.

        Raises:
            Superseded: the transfer does not count any more.
        """
        with self._store.writing() as db:
            self.require_current(transfer)
            db.execute(
                """INSERT OR REPLACE INTO verifications (transfer, revision, passed, files, report, time,
                   review) VALUES (?, ?, ?, ?, ?, ?, ?)""",
                (
                    transfer.id,
                    transfer.revision,
                    int(passed),
                    json.dumps(files, sort_keys=True),
                    json.dumps(report, sort_keys=True),
                    utc_now(),
                    json.dumps(dict(review or {}), sort_keys=True),
                ),
            )
            db.execute("UPDATE transfers SET mapped_uid = ? WHERE id = ?", (mapped_uid, transfer.id))

    def withdraw_verification(self, transfer: Transfer) -> None:
        """The bytes in hand are not those that were verified: nothing leaves by this record any more.

        Whoever makes the copy again and verifies it writes another.
        """
        with self._store.writing() as db:
            changed = db.execute(
                "UPDATE verifications SET passed = 0 WHERE transfer = ? AND revision = ? AND passed",
                (transfer.id, transfer.revision),
            ).rowcount
            if changed:
                self._store.note(
                    transfer.study,
                    f"{transfer.project}: what is on disk is not what was verified; its verification is "
                    f"withdrawn, transfer_{transfer.project} makes and verifies the copy again",
                )

    def verified_files(self, transfer: Transfer) -> dict[str, str]:
        """Relative name -> SHA-256 of the files that passed the verification and may leave.

        Raises:
            NotVerified: there is no record for this transfer and revision, or it did not pass.
            ReleaseAwaited: a person has to look at it first.
        """
        files = self.files_to_review(transfer)
        self.releases.require(transfer)
        return files

    def files_to_review(self, transfer: Transfer) -> dict[str, str]:
        """The same for those who look at a copy before it may leave; nobody else may go by it.

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
        """A package was made: the deliveries to its targets are due.

        Raises:
            Superseded: the transfer does not count any more.
        """
        with self._store.writing() as db:
            self.require_current(transfer)
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
            self._work.done(work_key("transfer", transfer.study, transfer.project), transfer.revision)
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

    def package_paths(self) -> set[str]:
        """Where all packages lie that are booked, relative to the data root."""
        return {row["path"] for row in self._store.rows("SELECT path FROM packages WHERE path != ''")}

    def move_package(self, transfer: Transfer, path: str) -> None:
        """The package lies elsewhere now; ``path`` is relative to the data root."""
        with self._store.writing() as db:
            db.execute(
                "UPDATE packages SET path = ? WHERE transfer = ? AND revision = ?",
                (path, transfer.id, transfer.revision),
            )

    def require_wanted(self, transfer: Transfer) -> None:
        """Whether anything may leave for a transfer at this moment; asked at the door and while it is sent.

        Raises:
            Superseded: the transfer does not count any more.
            WithdrawalAsked: a person has to decide whether the request stands.
            ConsentWithdrawn: the participant withdrew the consent.
        """
        self.require_current(transfer)
        self.withdrawals.require_unasked(transfer)
        self.withdrawals.require_consent(transfer)

    def begin_sending(self, transfer: Transfer, target: str, content: Content) -> Sending:
        """Writes down that sending begins; to be called before the first byte leaves.

        Raises:
            Superseded: the transfer does not count any more.
            RemovalAwaited: the target, or another one of the project, may hold the study under another
                participant or event.
            WithdrawalAsked: a person has to decide whether the request stands.
            ConsentWithdrawn: the participant withdrew the consent.
        """
        with self._store.writing() as db:
            self.require_wanted(transfer)
            self.require_removed(transfer)
            return self.sendings.begin(db, transfer=transfer.id, target=target, content=content)

    def record_delivery(self, transfer: Transfer, target: str, sha256: str, proof: dict[str, Any]) -> None:
        """A target is proven to have the package, or it was agreed that it needs no proof.

        Raises:
            Superseded: the transfer does not count any more; that the target has it is still written down.
        """
        with self._store.writing() as db:
            self.sendings.prove(transfer.id, target, sha256, proof)
            try:
                self.require_current(transfer)
            except Superseded:
                counts = False
            else:
                counts = True
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
                self._work.done(
                    work_key("deliver", transfer.study, transfer.project, target), transfer.revision
                )
            how = (
                "delivered, unproven by agreement"
                if proof.get("kind") == "agreement"
                else "proven to have it"
            )
            self._store.note(transfer.study, f"{transfer.project}: package at {target}: {how}")
        if not counts:
            self.require_current(transfer)

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
        return [transfer_of(row) for row in found]

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

    def outcome_to_write(self, study: str, project: str) -> list[Transfer]:
        """Transfers of a study and project in a state that REDCap should know, oldest first."""
        found = self._store.rows(
            """SELECT * FROM transfers t WHERE study = ? AND project = ?
               AND (state IN ('delivered', 'refused', 'failed', 'stopped', 'withdrawn')
                   OR (state = 'superseded' AND reason LIKE 'superseded: %' AND id = (SELECT max(n.id)
                       FROM transfers n WHERE n.study = t.study AND n.request = t.request)))
               ORDER BY id""",
            study,
            project,
        )
        return [transfer_of(row) for row in found]
