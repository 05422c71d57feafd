"""The records of studies hold what journals don't: a table that is forgotten is a fact that is lost."""

from __future__ import annotations

from fiona_dagster.ledger import Ledger
from fiona_dagster.ledger.records import _WATCHED, BY_STUDY, BY_TRANSFER, COMMON_TABLES

FROM_JOURNALS = {
    *("journals", "studies", "study_sites", "senders", "series_senders", "site_instances", "set_aside"),
    *("performed_steps", "expected_instances", "committed", "flag_decisions"),
}
MADE_AGAIN = {
    *("facts", "header_variants", "variant_covers", "persons"),  # from the archive, or hints only
    *("assignments", "project_entries"),  # from REDCap
    *("source_counts", "fetches"),  # from the source, within their limits
}


def test_every_table_comes_back_from_somewhere(ledger: Ledger) -> None:
    there = {
        row["name"]
        for row in ledger.store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not row["name"].startswith("sqlite_")
    }
    recorded = {*BY_STUDY, *BY_TRANSFER, *COMMON_TABLES}
    assert there == recorded | FROM_JOURNALS | MADE_AGAIN
    assert not recorded & FROM_JOURNALS


def test_every_change_of_a_recorded_table_is_seen(ledger: Ledger) -> None:
    """But for tables that change together with another of the same study."""
    watched = {table for table, _, _ in _WATCHED}
    assert {*BY_STUDY, *BY_TRANSFER} - watched == {"revisions", "history"}
