"""What was begun to be sent, where, and what lies there now as far as this ledger can tell.

A row is written before the first byte leaves, so that neither a broken connection nor a kill hides that a
target may hold something. Only a person closes it, by confirming that the copy was removed there; until then
the study can't go to the same project under another participant or event.

Bytes under a known SOP Instance UID are known to be ours when the target did not have them before and nothing
but these bytes was ever begun. Everything else that a research PACS lists is *uncertain*: C-FIND shows names,
not contents, and many PACS keep what they have when the same UID comes again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fiona_dagster.ledger.rows import Transfer
from fiona_dagster.ledger.store import Store, utc_now

PREVIOUS_SYSTEM = "previous system"
"""Target of what the system before this one had sent."""
SendingState = Literal["begun", "proven", "unproven", "agreed"]


@dataclass(frozen=True)
class Sending:
    """Something that was begun to be sent.

    Attributes:
        id: of the row.
        transfer: whose.
        target: where to.
        revision: of the study.
        generation: of the UIDs.
        mapped_uid: StudyInstanceUID at the target.
        sha256: digest of the package.
        instances: mapped SOP Instance UID -> SHA-256 (research PACS only).
        uncertain: of these, what was there before with bytes that we can't vouch for, or was found to be
            something else.
        state: begun; proven; unproven: present there, content unproven; agreed: delivered, unproven by
            agreement.
        began: when.
        changed: when the state was last set.
        removed: when a person confirmed the removal, or ``""``.
        removed_by: who.
        problems: mapped SOP Instance UID -> why the target did not have it, or not provably, at the last
            attempt.
    """

    id: int
    transfer: int
    target: str
    revision: int
    generation: int
    mapped_uid: str = field(repr=False)
    sha256: str
    instances: dict[str, str] = field(repr=False)
    uncertain: frozenset[str] = field(repr=False)
    state: SendingState
    began: str
    changed: str
    removed: str
    removed_by: str
    problems: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Content:
    """What is about to be sent, and what the target said that it has.

    Attributes:
        sha256: digest of the package.
        instances: mapped SOP Instance UID -> SHA-256; empty for targets that take packages.
        listed: those that the target has already, whatever their bytes; None: it can only count.
        counted: how many instances of the study it has, for a target that can only count.
    """

    sha256: str
    instances: Mapping[str, str] = field(default_factory=dict, repr=False)
    listed: frozenset[str] | None = field(default=frozenset(), repr=False)
    counted: int = 0


def part_of(study: str) -> int:
    """The one of 256 parts of all UIDs that a StudyInstanceUID falls into; many share each."""
    return hashlib.sha256(study.encode()).digest()[0]


def root_of(uid: str) -> str:
    """A de-identified UID without its last component: the same for every UID that a scheme makes."""
    return uid.rpartition(".")[0]


class Sendings:
    """The table of sendings."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def at(self, study: str, project: str, target: str | None = None) -> list[Sending]:
        """What may lie at the targets (or one of them), oldest first; what was removed is not among it."""
        return [
            sending
            for sending in self.of(study, project)
            if not sending.removed and target in (None, sending.target)
        ]

    def of(self, study: str, project: str) -> list[Sending]:
        """Everything that was ever begun for a study and project, oldest first."""
        found = self._store.rows(
            "SELECT * FROM sendings WHERE study = ? AND project = ? ORDER BY id", study, project
        )
        return [_sending(row) for row in found]

    def of_others(self, study: str, project: str, participant: str, event: str) -> list[str]:
        """Targets that may hold the study under another participant or event of this project.

        What the system before this one sent is among them in any case: nobody else knows its UIDs.
        """
        found = self._store.rows(
            """SELECT DISTINCT s.target FROM sendings s JOIN transfers t ON t.id = s.transfer
               WHERE s.study = ? AND s.project = ? AND s.removed = ''
               AND (t.participant != ? OR t.event != ? OR s.target = ?) ORDER BY s.target""",
            study,
            project,
            participant,
            event,
            PREVIOUS_SYSTEM,
        )
        return [row["target"] for row in found]

    def generation_for(self, study: str, project: str, participant: str, event: str) -> int:
        """The generation of UIDs for this assignment: one more when another assignment was sent last.

        What an erasure left at targets counts as well, though nobody knows any more whose it is.
        """
        row = self._store.row(
            """SELECT s.generation, t.participant, t.event,
               (SELECT max(generation) FROM sendings WHERE study = s.study AND project = s.project) AS highest
               FROM sendings s JOIN transfers t ON t.id = s.transfer
               WHERE s.study = ? AND s.project = ? ORDER BY s.id DESC LIMIT 1""",
            study,
            project,
        )
        if row is not None and (row["participant"], row["event"]) == (participant, event):
            return int(row["generation"])
        erased = self._store.row(
            "SELECT next FROM erased_generations WHERE project = ? AND part = ?", project, part_of(study)
        )
        return max(
            0 if row is None else int(row["highest"]) + 1, 0 if erased is None else int(erased["next"])
        )

    def edition(self, transfer: Transfer) -> int:
        """Which copy of its revision and generation this is, counted by the rules that they were made by.

        What was begun to be sent by older rules keeps its name at the targets, where nothing is overwritten.
        What the same rules made before is the same bytes, and has the same number.
        """
        rows = self._store.rows(
            """SELECT rules FROM sendings WHERE study = ? AND project = ? AND revision = ? AND generation = ?
               AND rules != '' GROUP BY rules ORDER BY min(id)""",  # nobody knows them after a rebuild
            transfer.study,
            transfer.project,
            transfer.revision,
            transfer.generation,
        )
        known = [row["rules"] for row in rows]
        return (known.index(transfer.rules) if transfer.rules in known else len(known)) + 1

    def uncertain(self, study: str, project: str, target: str, content: Content) -> frozenset[str]:
        """What the target lists and we can't vouch for.

        The newest sending of a UID counts, if it is proven or nothing else was ever begun under this UID.
        Otherwise what is listed may be of an older one: that the target listed nothing when the newest began
        does not say that it had nothing (an index that lags, a gateway that answers for it).
        """
        sendings = self.at(study, project, target)[::-1]
        unsure = set()
        for uid in _maybe_there(content, sendings):
            begun = [sending for sending in sendings if uid in sending.instances]
            if not begun or not _vouches(begun[0], begun[1:], uid, content.instances[uid]):
                unsure.add(uid)
        return frozenset(unsure)

    def begin(
        self,
        db: sqlite3.Connection,
        *,
        transfer: int,
        target: str,
        content: Content,
    ) -> Sending:
        """Writes down that sending begins; a repeat of the same finds its row again.

        Args:
            db: the open transaction, in which the caller has made sure that the transfer still counts.
            transfer: whose.
            target: where to.
            content: what, and what is there.
        """
        of = db.execute("SELECT * FROM transfers WHERE id = ?", (transfer,)).fetchone()
        unsure = json.dumps(sorted(self.uncertain(of["study"], of["project"], target, content)))
        now = utc_now()
        there = db.execute(
            """SELECT max(id) AS id FROM sendings WHERE transfer = ? AND target = ? AND revision = ?
               AND sha256 = ? AND removed = ''""",
            (transfer, target, of["revision"], content.sha256),
        ).fetchone()["id"]
        newest = db.execute(
            """SELECT max(id) AS id FROM sendings WHERE study = ? AND project = ? AND target = ?
               AND removed = ''""",
            (of["study"], of["project"], target),
        ).fetchone()["id"]
        if there is not None and there == newest:
            db.execute(
                """UPDATE sendings SET uncertain = ?, state = 'begun', changed = ?, problems = '{}'
                   WHERE id = ?""",
                (unsure, now, there),
            )
        else:
            there = db.execute(
                """INSERT INTO sendings (transfer, study, project, target, revision, generation, mapped_uid,
                   rules, sha256, instances, uncertain, state, began, changed)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'begun', ?, ?)""",
                (
                    transfer,
                    of["study"],
                    of["project"],
                    target,
                    of["revision"],
                    of["generation"],
                    of["mapped_uid"],
                    of["rules"],
                    content.sha256,
                    json.dumps(dict(content.instances), sort_keys=True),
                    unsure,
                    now,
                    now,
                ),
            ).lastrowid
        return _sending(db.execute("SELECT * FROM sendings WHERE id = ?", (there,)).fetchone())

    def adopt(self, db: sqlite3.Connection, transfer: int) -> None:
        """Something lies where the system before this one had sent it; only a confirmed removal ends that."""
        now = utc_now()
        db.execute(
            """INSERT INTO sendings (transfer, study, project, target, revision, generation, mapped_uid,
                   rules, sha256, instances, state, began, changed)
               SELECT id, study, project, ?, 0, 0, mapped_uid, '', '', '{}', 'unproven', ?, ?
               FROM transfers WHERE id = ?""",
            (PREVIOUS_SYSTEM, now, now, transfer),
        )

    def prove(self, transfer: int, target: str, sha256: str, proof: Mapping[str, Any]) -> None:
        """The target is proven to have these bytes; the proof is kept, also when the copy is removed."""
        state = "agreed" if proof.get("kind") == "agreement" else "proven"
        with self._store.writing() as db:
            db.execute(
                """UPDATE sendings SET state = ?, changed = ?, proof = ? WHERE transfer = ?
                   AND target = ? AND sha256 = ? AND removed = ''""",
                (state, utc_now(), json.dumps(dict(proof), sort_keys=True), transfer, target, sha256),
            )

    def complain(self, sending: Sending, problems: Mapping[str, str]) -> None:
        """An attempt ended, and these instances are not there, or not provably.

        Args:
            sending: the attempt.
            problems: mapped SOP Instance UID -> DIMSE status or reason.
        """
        with self._store.writing() as db:
            db.execute(
                "UPDATE sendings SET problems = ? WHERE id = ?",
                (json.dumps(dict(problems), sort_keys=True), sending.id),
            )

    def unproven(self, sending: Sending, instances: Collection[str]) -> None:
        """The target lists everything, but some of it may be other bytes under the same UIDs.

        Args:
            sending: the attempt.
            instances: mapped SOP Instance UIDs in question; nobody vouches for them from now on.
        """
        unsure = json.dumps(sorted({*sending.uncertain, *instances}))
        with self._store.writing() as db:
            db.execute(
                "UPDATE sendings SET state = 'unproven', uncertain = ?, changed = ? WHERE id = ?",
                (unsure, utc_now(), sending.id),
            )

    def confirm_removed(self, sendings: Collection[Sending], by: str) -> None:
        """A person confirms that nothing of these is at their targets any more."""
        with self._store.writing() as db:
            now = utc_now()
            db.executemany(
                "UPDATE sendings SET removed = ?, removed_by = ? WHERE id = ? AND removed = ''",
                [(now, by, sending.id) for sending in sendings],
            )
            db.executemany(
                "DELETE FROM deliveries WHERE transfer = ? AND target = ?",
                [(sending.transfer, sending.target) for sending in sendings],
            )


def _vouches(newest: Sending, older: Collection[Sending], uid: str, digest: str) -> bool:
    """Whether what lies under a UID can only be these bytes."""
    if uid in newest.uncertain or newest.instances[uid] != digest:
        return False
    return newest.state == "proven" or all(sending.instances[uid] == digest for sending in older)


def _maybe_there(content: Content, sendings: Collection[Sending]) -> frozenset[str]:
    wanted = frozenset(content.instances)
    if content.listed is not None:
        return wanted & content.listed
    if not content.counted:
        return frozenset()
    ours = frozenset(uid for sending in sendings for uid in sending.instances)
    return wanted & ours if content.counted <= len(ours) else wanted


def _sending(row: sqlite3.Row) -> Sending:
    return Sending(
        id=row["id"],
        transfer=row["transfer"],
        target=row["target"],
        revision=row["revision"],
        generation=row["generation"],
        mapped_uid=row["mapped_uid"],
        sha256=row["sha256"],
        instances=json.loads(row["instances"]),
        uncertain=frozenset(json.loads(row["uncertain"])),
        state=row["state"],
        began=row["began"],
        changed=row["changed"],
        removed=row["removed"],
        removed_by=row["removed_by"],
        problems=json.loads(row["problems"]),
    )
