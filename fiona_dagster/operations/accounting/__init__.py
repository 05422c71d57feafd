"""Can the gateway account for everything? Journals, archive, conflicts, quarantine, ledger, packages.

Belongs here: comparing what stands on disk with what the ledger says; it changes nothing but takes over
journal lines that the ledger lacks. Stays out: Dagster's storage (``defs.accounting``), repairing (landing,
``operations.rebuild``).
"""

from __future__ import annotations

import time

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import Ledger
from fiona_dagster.operations.accounting.archive import altered_files, check_archive, list_archive, read_lines
from fiona_dagster.operations.accounting.beside import check_quarantine, check_set_aside, check_unfinished
from fiona_dagster.operations.accounting.findings import Account, Finding
from fiona_dagster.operations.accounting.work import (
    Books,
    altered_packages,
    check_flags,
    check_packages,
    check_studies,
    check_transfers,
    check_work,
    check_working_copies,
)

SETTLE_SECONDS = 0.3


def account_for(root: DataRoot, *, verify: bool = False) -> Account:
    """Looks at everything once; safe beside everything that runs, what is in progress is no finding.

    Args:
        root: the data root.
        verify: read every archived byte again and compare it with the digest; a difference flags the study.
            Packages are read again too.
    """
    account = _look(root, verify=verify)
    if account.unaccounted:  # something may have moved while we looked: only what stays counts
        time.sleep(SETTLE_SECONDS)
        again = _look(root, verify=False)
        again.checked = account.checked
        again.unaccounted = [finding for finding in again.unaccounted if finding in account.unaccounted]
        account = again
    if verify:
        altered_packages(root, account)
    return account


def _look(root: DataRoot, *, verify: bool) -> Account:
    account = Account()
    with Ledger(root) as ledger:
        listing = list_archive(root, account)
        ledger.receipts.read_journals()
        lines = read_lines(root)
        if verify:
            found = list(altered_files(root, ledger))
            for study, sop_instance, _, _ in found:
                ledger.receipts.mark_altered(study, [sop_instance])
            account.checked["digests compared"] = ledger.receipts.digest_count()
        with ledger.store.reading():
            check_archive(root, ledger, listing, lines, account)
            check_set_aside(root, ledger, lines, account)
            check_flags(ledger, account)
            books = Books.read(ledger)
        check_studies(books, account)
        check_transfers(root, books, account)
        check_work(root, books, account)
        check_packages(root, books, account)
        check_working_copies(root, books, account)
    check_quarantine(root, account)
    check_unfinished(root, account)
    return account


__all__ = ["Account", "Finding", "account_for"]
