"""The ledger: where every study, instance, transfer, attempt and delivery stands.

Belongs here: tables, their transactions, and taking over the journals of receipts. Stays out: deciding
what to do next (studies, transfers) and anything that talks to a peer.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import records
from fiona_dagster.ledger.accounts import STATES, AccountedInstance, Accounts
from fiona_dagster.ledger.assignments import AssignmentBook, Person, StudyAssignment, person_of
from fiona_dagster.ledger.circuits import Circuit, Circuits
from fiona_dagster.ledger.derived import Derived, DerivedBook
from fiona_dagster.ledger.evidence import Completion, Count, EvidenceBook, Fetch, Steps
from fiona_dagster.ledger.receipts import ALTERED, Receipts, Sender, Study
from fiona_dagster.ledger.records import records_folder, remove_parts
from fiona_dagster.ledger.releases import FIRST_STUDIES, Releases, Review, content_of, describe_review
from fiona_dagster.ledger.restoring import read_records, restore_common, restore_record, restore_sent
from fiona_dagster.ledger.rows import (
    OTHER_WORDS,
    Delivery,
    Package,
    Request,
    Transfer,
    TransferState,
    set_back,
)
from fiona_dagster.ledger.sendings import Content, Sending, Sendings
from fiona_dagster.ledger.store import Store, is_to_come, utc_after, utc_now, utc_text
from fiona_dagster.ledger.transfers import LEFT_OUT, Transfers
from fiona_dagster.ledger.variants import SeriesVariants, VariantBook
from fiona_dagster.ledger.withdrawals import Withdrawal, Withdrawals
from fiona_dagster.ledger.work import Kind, Work, WorkList, work_key


class Ledger:
    """The open ledger of a data root; one for each thread.

    Attributes:
        receipts: studies and instances.
        transfers: requests, verification records, packages, deliveries.
        withdrawals: requests that were taken back, and withdrawn consents.
        derived: studies that were made of delivered copies and came back.
        sendings: what was begun to be sent, and may lie at targets.
        work: what is to be done and when.
        releases: verified copies that a person has to look at, and what was decided.
        circuits: which targets don't answer.
        evidence: what is known about the completeness of studies.
        accounts: the state of every accepted instance.
        assignments: whose a study is, and what automatic assignment made of it.
        variants: the distinct headers of every series, as far as rules can look at them.
    """

    def __init__(self, root: DataRoot, file: Path | None = None) -> None:
        self.root = root
        self.store = Store(root, file)
        self.work = WorkList(self.store)
        self.receipts = Receipts(self.store, self.work)
        self.transfers = Transfers(self.store, self.work)
        self.sendings = self.transfers.sendings
        self.derived = DerivedBook(self.store)
        self.withdrawals = self.transfers.withdrawals
        self.releases = self.transfers.releases
        self.evidence = EvidenceBook(self.store, self.work)
        self.circuits = Circuits(self.store)
        self.accounts = Accounts(self.store)
        self.variants = VariantBook(self.store)
        self.assignments = AssignmentBook(self.store)

    def key_fingerprint(self, project: str) -> str | None:
        """Fingerprint of the project's key that was recorded at its first use."""
        row = self.store.row("SELECT fingerprint FROM key_fingerprints WHERE project = ?", project)
        return None if row is None else str(row["fingerprint"])

    def record_key_fingerprint(self, project: str, fingerprint: str) -> None:
        """Records the fingerprint of a project's key, once; a recorded one is never replaced."""
        with self.store.writing() as db:
            new = db.execute(
                "INSERT OR IGNORE INTO key_fingerprints (project, fingerprint, recorded) VALUES (?, ?, ?)",
                (project, fingerprint, utc_now()),
            ).rowcount
            if new:
                records.write_common(db, self.root)

    def write_missing_records(self) -> int:
        """Writes the records of studies that have none, or an older one of a restored ``site/``.

        Returns:
            How many were written.
        """
        with self.store.writing() as db:
            stale = records.may_be_stale(db)
            studies = records.without_record(db, self.root, all_of_them=stale)
            records.correct_common(db, self.root)
        written = 0
        for study in studies:  # others may write in between
            with self.store.writing() as db:
                written += records.correct_record(db, self.root, study)
        if stale:
            with self.store.writing() as db:
                records.compared(db)
        return written

    def close(self) -> None:
        """Closes the connection to the database."""
        self.store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = [
    "ALTERED",
    "FIRST_STUDIES",
    "LEFT_OUT",
    "OTHER_WORDS",
    "STATES",
    "AccountedInstance",
    "Accounts",
    "AssignmentBook",
    "Circuit",
    "Circuits",
    "Completion",
    "Content",
    "Count",
    "Delivery",
    "Derived",
    "DerivedBook",
    "EvidenceBook",
    "Fetch",
    "Kind",
    "Ledger",
    "Package",
    "Person",
    "Receipts",
    "Releases",
    "Request",
    "Review",
    "Sender",
    "Sending",
    "Sendings",
    "SeriesVariants",
    "Steps",
    "Store",
    "Study",
    "StudyAssignment",
    "Transfer",
    "TransferState",
    "Transfers",
    "VariantBook",
    "Withdrawal",
    "Withdrawals",
    "Work",
    "WorkList",
    "content_of",
    "describe_review",
    "is_to_come",
    "person_of",
    "read_records",
    "records_folder",
    "remove_parts",
    "restore_common",
    "restore_record",
    "restore_sent",
    "set_back",
    "utc_after",
    "utc_now",
    "utc_text",
    "work_key",
]
