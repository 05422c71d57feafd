"""Studies that came back under a de-identified StudyInstanceUID: what a workstation made of copies."""

from __future__ import annotations

from dataclasses import dataclass

from fiona_dagster.ledger.rows import Transfer, transfer_of
from fiona_dagster.ledger.sendings import part_of, root_of
from fiona_dagster.ledger.store import Store, utc_now
from fiona_dagster.ledger.withdrawals import LIVING


@dataclass(frozen=True)
class Derived:
    """A study that came back.

    Attributes:
        study: the mapped StudyInstanceUID under which it came.
        original: the study whose copy has this UID.
        transfer: number of the transfer that made the UID.
    """

    study: str
    original: str
    project: str
    transfer: int
    found: str


class DerivedBook:
    """The table of derived studies."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recognise(self, study: str) -> Derived | None:
        """Whether a transfer made this StudyInstanceUID; the newest that did is written down. Idempotent."""
        row = self._store.row(
            "SELECT * FROM transfers WHERE mapped_uid = ? AND study != ? ORDER BY id DESC LIMIT 1",
            study,
            study,
        )
        if row is None:
            return None
        known = self.of(study)
        if known is None or known.transfer != row["id"]:
            with self._store.writing() as db:
                db.execute(
                    "INSERT OR REPLACE INTO derived_studies (study, original, project, transfer, found) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (study, row["study"], row["project"], row["id"], utc_now()),
                )
                self._store.note(study, f"came back under a de-identified UID of project {row['project']}")
                self._store.note(row["study"], f"{row['project']}: derived data came back")
        return self.of(study)

    def of(self, study: str) -> Derived | None:
        """What is known of a study that came back; None for every other study."""
        row = self._store.row("SELECT * FROM derived_studies WHERE study = ?", study)
        return None if row is None else Derived(**dict(row))

    def studies(self) -> frozenset[str]:
        """Every study that came back."""
        return frozenset(row["study"] for row in self._store.rows("SELECT study FROM derived_studies"))

    def of_erased(self, study: str) -> list[str]:
        """Projects of which erased copies may have had this StudyInstanceUID, as one UID of 256 may."""
        if self.recognise(study) is not None:
            return []
        rows = self._store.rows(
            "SELECT project FROM erased_copies WHERE root = ? AND part = ? ORDER BY project",
            root_of(study),
            part_of(study),
        )
        return [row["project"] for row in rows]

    def source(self, derived: Derived) -> Transfer | None:
        """The transfer whose copy it was made of, while that counts; None: withdrawn, corrected, gone."""
        row = self._store.row("SELECT * FROM transfers WHERE id = ?", derived.transfer)
        return transfer_of(row) if row is not None and row["state"] in LIVING[:-1] else None
