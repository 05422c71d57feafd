"""Verified copies that wait for a person, and what the person decided: the second half of the gate.

A decision belongs to the very bytes that were verified, not to a transfer: a copy of other bytes (other
rules, late images, another participant) is looked at anew, one of the same bytes is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fiona_dagster.errors import ReleaseAwaited
from fiona_dagster.ledger.rows import Transfer, transfer_of
from fiona_dagster.ledger.store import Store, utc_now

Decision = Literal["released", "rejected"]
FIRST_STUDIES = "first_studies"
"""The reason that ends by itself, once so many studies of the project were released."""


def content_of(files: Mapping[str, str]) -> str:
    """Digest of verified files.

    Args:
        files: relative name -> SHA-256.
    """
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Review:
    """A verified copy that a person has to look at.

    Attributes:
        transfer: whose copy.
        reasons: why -> how many (weak hits, studies, ...); those that still hold.
        asked: whether there was any reason when it was verified.
        files: how many files were verified.
        decision: ``""`` while nobody decided about these bytes.
        by: login name of who decided.
        why: what that person said.
        time: of the decision, or of the verification.
    """

    transfer: Transfer
    reasons: dict[str, int]
    asked: bool
    files: int
    decision: str
    by: str
    why: str
    time: str

    @property
    def waits(self) -> bool:
        """Whether somebody still has to decide."""
        return bool(self.reasons) and not self.decision


class Releases:
    """The table of releases."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def review(self, transfer: Transfer) -> Review | None:
        """How the verified copy of the pinned revision stands; None if there is none that passed."""
        row = self._store.row(
            """SELECT t.*, v.files AS verified, v.review AS review, v.time AS verified_at FROM transfers t
               JOIN verifications v ON v.transfer = t.id AND v.revision = t.revision AND v.passed
               WHERE t.id = ? AND t.revision = ?""",
            transfer.id,
            transfer.revision,
        )
        return None if row is None else self._review(dict(row))

    def waiting(self, project: str | None = None) -> list[Review]:
        """Copies that wait for a person, of one project or of all, oldest first."""
        found = self._store.rows(
            """SELECT t.*, v.files AS verified, v.review AS review, v.time AS verified_at FROM transfers t
               JOIN verifications v ON v.transfer = t.id AND v.revision = t.revision AND v.passed
               WHERE t.state = 'accepted' AND v.review != '{}' AND t.project = coalesce(?, t.project)
               ORDER BY v.time, t.id""",
            project,
        )
        reviews = (self._review(dict(row)) for row in found)
        return [review for review in reviews if review.waits]

    def _review(self, row: dict[str, Any]) -> Review:
        files, reasons = json.loads(row.pop("verified")), json.loads(row.pop("review"))
        verified_at, asked = row.pop("verified_at"), bool(reasons)
        transfer = transfer_of(row)
        first = reasons.get(FIRST_STUDIES)
        if first is not None and self.released_studies(transfer.project) >= first:
            del reasons[FIRST_STUDIES]
        decided = self._store.row(
            "SELECT * FROM releases WHERE study = ? AND project = ? AND content = ?",
            transfer.study,
            transfer.project,
            content_of(files),
        )
        return Review(
            transfer,
            reasons,
            asked,
            len(files),
            decided["decision"] if decided else "",
            decided["by"] if decided else "",
            decided["reason"] if decided else "",
            decided["time"] if decided else verified_at,
        )

    def released_studies(self, project: str) -> int:
        """How many studies of a project a person has released so far."""
        row = self._store.row(
            "SELECT count(DISTINCT study) AS n FROM releases WHERE project = ? AND decision = 'released'",
            project,
        )
        return int(row["n"]) if row is not None else 0

    def decide(
        self, transfer: Transfer, files: Mapping[str, str], decision: Decision, *, by: str, reason: str
    ) -> None:
        """Books what a person decided about these bytes; a later decision replaces an earlier one.

        Args:
            transfer: whose copy.
            files: what was verified, and looked at: relative name -> SHA-256.
            decision: what was decided.
            by: login name.
            reason: why; nothing identifying.
        """
        with self._store.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO releases (study, project, content, decision, by, reason, time) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (transfer.study, transfer.project, content_of(files), decision, by, reason, utc_now()),
            )
            self._store.note(transfer.study, f"{transfer.project}: {decision} by {by}: {reason}")

    def require(self, transfer: Transfer) -> None:
        """The gate: a copy that a person has to look at leaves only when that person released its bytes.

        Raises:
            ReleaseAwaited: nobody released it, or somebody rejected it.
        """
        review = self.review(transfer)
        if review is None or review.decision == "released":
            return
        if review.decision == "rejected":
            raise ReleaseAwaited(
                f"study {transfer.study}, project {transfer.project}: the copy was rejected at its review; "
                f"nothing of it is sent unless `fiona release {transfer.study} --project {transfer.project}` "
                "releases it after all"
            )
        if review.reasons:
            raise ReleaseAwaited(
                f"study {transfer.study}, project {transfer.project}: the verified copy waits for a person "
                f"({describe_review(review.reasons)}); look at it with `fiona review {transfer.project} "
                f"--study {transfer.study}`, then `fiona release {transfer.study} --project "
                f"{transfer.project}`"
            )


_DESCRIBED = {
    "project": "the project reviews every study",
    FIRST_STUDIES: "one of the first {} studies of the project",
    "unsearchable": "{} values that can't be searched (documents, pictures, compressed data)",
    "weak_hits": "{} weak hits of the residual search",
}


def describe_review(reasons: Mapping[str, int]) -> str:
    """Why a person has to look, in words."""
    return "; ".join(_DESCRIBED.get(name, name).format(count) for name, count in sorted(reasons.items()))
