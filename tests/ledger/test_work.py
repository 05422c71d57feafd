"""What is to be done, and when it is tried again."""

from __future__ import annotations

from fiona_dagster.ledger import Ledger, is_to_come, utc_after, utc_now


def test_requested_work_is_not_due_again_at_once(ledger: Ledger) -> None:
    ledger.work.need("transfer", "1.2", 1, project="P")
    (work,) = ledger.work.due("transfer")
    ledger.work.requested(work.key)

    assert ledger.work.due("transfer") == []


def test_asking_again_for_known_work_changes_nothing(ledger: Ledger) -> None:
    ledger.work.need("transfer", "1.2", 1, project="P")
    first = ledger.work.due("transfer")[0]
    ledger.work.need("transfer", "1.2", 1, project="P")

    assert ledger.work.due("transfer")[0].run_key == first.run_key


def test_a_new_need_gets_a_run_key_that_dagster_has_never_seen(ledger: Ledger) -> None:
    ledger.work.need("status", "1.2", 1, project="P")
    first = ledger.work.due("status")[0]
    ledger.work.done(first.key, 1)
    ledger.work.need("status", "1.2", 1, project="P")

    assert ledger.work.due("status")[0].run_key != first.run_key


def test_a_failure_waits_and_a_permanent_one_blocks(ledger: Ledger) -> None:
    ledger.work.need("deliver", "1.2", 1, project="P", target="t")
    key = "deliver:1.2:P:t"
    ledger.work.failed(key, "peer is down", permanent=False)
    work = ledger.work.get(key)
    assert work is not None
    assert work.attempt == 2
    assert work.not_before > utc_now()

    ledger.work.failed(key, "refused", permanent=True)
    assert ledger.work.due("deliver") == []
    ledger.work.unblock()
    assert [due.key for due in ledger.work.due("deliver")] == [key]


def test_a_failure_that_was_booked_already_is_not_booked_twice(ledger: Ledger) -> None:
    ledger.work.need("process", "1.2", 1)
    ledger.work.failed("process:1.2", "first", permanent=False, attempt=1)
    ledger.work.failed("process:1.2", "late word about the same attempt", permanent=False, attempt=1)

    work = ledger.work.get("process:1.2")
    assert work is not None
    assert (work.attempt, work.error) == (2, "first")


def test_done_leaves_a_newer_revision(ledger: Ledger) -> None:
    ledger.work.need("process", "1.2", 1)
    ledger.work.need("process", "1.2", 2)
    ledger.work.done("process:1.2", 1)

    work = ledger.work.get("process:1.2")
    assert work is not None
    assert work.revision == 2


def test_done_with_an_old_token_leaves_a_renewed_need(ledger: Ledger) -> None:
    ledger.work.need("status", "1.2", 1, project="P")
    old = ledger.work.due("status")[0]
    ledger.work.need("status", "1.2", 1, project="P", again=True)
    ledger.work.done(old.key, 1, old.token)

    assert ledger.work.get(old.key) is not None


def test_a_clock_that_was_set_back_holds_nothing_up(ledger: Ledger) -> None:
    """What it wrote before lies a day ahead: when work was asked for, and when it is to be tried again."""
    for study, column in (("1.2", "requested"), ("1.3", "not_before")):
        ledger.work.need("transfer", study, 1, project="P")
        with ledger.store.writing() as db:
            db.execute(f"UPDATE work SET {column} = ? WHERE study = ?", (utc_after(86400), study))  # noqa: S608
    assert {work.study for work in ledger.work.due("transfer")} == {"1.2", "1.3"}

    assert [is_to_come(moment, 60.0) for moment in ("", utc_after(-1), utc_after(50), utc_after(86400))] == [
        False,
        False,
        True,
        False,
    ]
