"""Which rows an erasure takes, and which it leaves: of what others have nothing goes."""

from __future__ import annotations

import pytest

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import (
    Content,
    Ledger,
    Package,
    Request,
    Transfer,
    content_of,
    erasing,
    restore_common,
)
from fiona_dagster.ledger.link import Link, counts_of, read_link
from tests.ledger.conftest import Arrive

STUDY, OTHER = "1.2", "1.5"
ORIGINAL, MAPPED = f"{STUDY}.3.1", "2.25.7"


def asked(participant: str, *, project: str = "P", study: str = STUDY, instance: int = 1) -> Request:
    return Request(study, project, instance, "2026-11-23 10:00", participant, "E1")


def erase(ledger: Ledger, participant: str, project: str = "P") -> Link:
    root = ledger.root
    link = read_link(root, project, participant)
    erasing.erase_rows(root, link, counts_of(root, link))
    return link


def sent(ledger: Ledger, transfer: Transfer, *, removed: bool = False) -> None:
    ledger.transfers.begin_sending(transfer, "pacs", Content("digest"))
    if removed:
        ledger.sendings.confirm_removed(ledger.sendings.at(transfer.study, transfer.project), "Jo")


def made(ledger: Ledger, request: Request, mapped: str = MAPPED, *, package: bool = True) -> int:
    """A transfer up to its package, with UIDs below ``mapped``; returns its number."""
    transfer = ledger.transfers.accept(request, 1)
    ledger.transfers.record_held_back(transfer, {f"{STUDY}.3.9": "document"})
    ledger.transfers.record_verification(
        transfer, passed=True, files={f"{mapped}.1.dcm": "digest"}, report={}, mapped_uid=mapped
    )
    ledger.releases.decide(transfer, {f"{mapped}.1.dcm": "digest"}, "released", by="Jo", reason="looked")
    if package:
        path = f"outbox/{request.project}/{request.participant}.zip"
        ledger.transfers.record_package(transfer, Package(path, 1, "m", "s", 1, ""), ("pacs",))
    return transfer.id


def told(ledger: Ledger, study: str = STUDY) -> dict[str, list[dict[str, object]]]:
    """Every row of a study and of its transfers, by table."""
    tables = [row["name"] for row in ledger.store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {}
    for table in tables:
        names = {row["name"] for row in ledger.store.rows(f"PRAGMA table_info({table})")}
        if "transfer" in names and "study" not in names:
            where = "transfer IN (SELECT id FROM transfers WHERE study = ?)"
        elif "study" in names:
            where = "study = ?"
        else:
            continue
        query = f"SELECT * FROM {table} WHERE {where}"  # noqa: S608 - names from above
        found[table] = [dict(row) for row in ledger.store.rows(query, study)]
    return found


def of(rows: dict[str, list[dict[str, object]]], number: int) -> dict[str, list[dict[str, object]]]:
    """What belongs to one transfer."""
    return {
        table: [row for row in each if number == row.get("id" if table == "transfers" else "transfer")]
        for table, each in rows.items()
    }


@pytest.fixture
def study(root: DataRoot, ledger: Ledger, arrive: Arrive) -> str:
    arrive(STUDY, ORIGINAL)
    arrive(STUDY, f"{STUDY}.3.9")
    ledger.receipts.read_journals()
    ledger.receipts.close_revision(STUDY)
    return STUDY


def test_two_participants_of_a_project_may_share_the_uids_of_a_copy(ledger: Ledger, study: str) -> None:
    """The first one's request was a mistake: nothing was sent, the second has the same mapped UIDs."""
    first = made(ledger, asked("X1"), package=False)
    second = made(ledger, asked("X2", instance=2))
    before = told(ledger)
    link = erase(ledger, "X1")
    after = told(ledger)
    assert (link.shared, link.whole, link.numbers) == ((study,), (), (first,))
    assert of(after, second) == of(before, second)
    assert not any(of(after, first).values())
    assert after["work"] == before["work"]
    assert after["releases"] == before["releases"], "the same bytes, released for both"
    assert after["site_instances"] == before["site_instances"]


def test_nor_does_anything_go_of_a_project_that_keeps_uids(ledger: Ledger, study: str) -> None:
    mine = made(ledger, asked("X1"))
    keeping = made(ledger, asked("Y1", project="KEEP", instance=2), mapped=STUDY)
    ledger.store.note(study, "KEEP: a line that tells of project P2 and CT1")
    before = told(ledger)
    erase(ledger, "X1")
    after = told(ledger)
    assert of(after, keeping) == of(before, keeping)
    assert not any(of(after, mine).values())
    assert [row for row in before["history"] if row not in after["history"]]
    assert not [row["what"] for row in after["history"] if str(row["what"]).startswith("P: ")]
    kept = [row for row in before["history"] if "KEEP" in str(row["what"])]
    assert [row for row in after["history"] if "KEEP" in str(row["what"])] == kept
    for table in ("work", "releases"):
        assert after[table] == [row for row in before[table] if row["project"] != "P"], table
    assert after["studies"] == before["studies"]
    assert after["site_instances"] == before["site_instances"]


def test_what_a_project_that_keeps_uids_had_goes_alone(ledger: Ledger, study: str, arrive: Arrive) -> None:
    arrive(OTHER, f"{OTHER}.3.1")
    other = made(ledger, asked("Y2", project="KEEP", study=OTHER), mapped=OTHER)
    keeping = made(ledger, asked("Y1", project="KEEP"), mapped=STUDY)
    theirs = made(ledger, asked("X1", instance=2))
    before = told(ledger), told(ledger, OTHER)
    link = erase(ledger, "Y1", "KEEP")
    after = told(ledger), told(ledger, OTHER)
    assert not link.uids & {STUDY, ORIGINAL, OTHER}
    assert link.mapped == {STUDY}, "so is the entry in the project's own REDCap called"
    assert of(after[0], theirs) == of(before[0], theirs)
    assert after[1] == before[1]
    assert of(after[1], other)["packages"]
    assert not any(of(after[0], keeping).values())


@pytest.mark.parametrize(("waits", "awaits_removal"), [("refused", False), ("awaits removal", True)])
def test_originals_stay_for_who_still_waits(
    ledger: Ledger, study: str, waits: str, awaits_removal: bool
) -> None:
    made(ledger, asked("X1"))
    waiting = ledger.transfers.refuse(asked("X2", instance=2), waits, awaits_removal=awaits_removal)
    link = erase(ledger, "X1")
    assert (link.shared, link.whole) == ((study,), ())
    assert [transfer.id for transfer in ledger.transfers.all(study)] == [waiting.id]
    assert ledger.receipts.study(study).instances == 2
    assert not ledger.transfers.handled(asked("X2", instance=2)) or not awaits_removal


def test_a_refusal_that_a_newer_request_mended_keeps_nothing(ledger: Ledger, study: str) -> None:
    ledger.transfers.refuse(asked("x1"), "no such participant")
    made(ledger, asked("X1"))
    assert erase(ledger, "X1").whole == (study,)
    assert not any(told(ledger).values())


def test_what_names_an_erased_uid_beside_goes_or_is_blanked(
    ledger: Ledger, study: str, arrive: Arrive
) -> None:
    """Evidence of a step about two studies, and texts of others."""
    arrive(OTHER, f"{OTHER}.3.1")
    made(ledger, asked("X1"))
    other = made(ledger, asked("Y1", project="Q", study=OTHER), mapped="2.25.8")
    with ledger.store.writing() as db:
        db.execute("INSERT INTO expected_instances VALUES (?, '1.77', ?, '1.2.3')", (OTHER, ORIGINAL))
        db.execute("UPDATE transfers SET reason = ? WHERE id = ?", (f"see {ORIGINAL}, 1.2.34", other))
        db.execute("INSERT INTO facts VALUES ('last', ?)", (f"{MAPPED} and {OTHER}",))
    ledger.store.note(OTHER, f"like study {STUDY}")
    erase(ledger, "X1")
    after = told(ledger, OTHER)
    assert after["expected_instances"] == []
    assert after["transfers"][0]["reason"] == "see erased, 1.2.34"
    assert after["history"][-1]["what"] == "like study erased"
    assert ledger.store.fact("last") == f"erased and {OTHER}"
    assert of(after, other)["packages"]
    record = (ledger.root.site / ".ledger" / f"{OTHER}.json").read_text()
    assert "like study erased" in record
    assert ORIGINAL not in record


def test_data_derived_from_others_copies_are_theirs(ledger: Ledger, study: str, arrive: Arrive) -> None:
    made(ledger, asked("X1"))
    made(ledger, asked("Y1", project="Q", instance=2), mapped="2.25.8")
    for uid in (MAPPED, "2.25.8"):
        arrive(uid, f"{uid}.1")
        assert ledger.derived.recognise(uid)
    assert erase(ledger, "X1").whole == (MAPPED,)
    assert ledger.derived.of(MAPPED) is None
    derived = ledger.derived.of("2.25.8")
    assert derived is not None
    assert ledger.derived.source(derived) is not None


def test_a_release_of_other_bytes_goes_beside_another_participant(ledger: Ledger, study: str) -> None:
    made(ledger, asked("X1"), package=False)
    made(ledger, asked("X2", instance=2), mapped="2.25.8")
    erase(ledger, "X1")
    (left,) = told(ledger)["releases"]
    assert left["content"] == content_of({"2.25.8.1.dcm": "digest"})


def test_what_was_sent_before_an_erasure_never_shares_its_uids(ledger: Ledger, study: str) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1))
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X1"), 1).generation == 1
    assert ledger.transfers.accept(asked("X1", project="Q"), 1).generation == 0, "another project is free"


def test_nor_does_another_participant_of_a_shared_study(ledger: Ledger, study: str) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1), removed=True)
    ledger.transfers.accept(asked("Y1", project="Q", instance=9), 1)  # needs the originals
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X2", instance=2), 1).generation == 1
    assert ledger.transfers.accept(asked("Y1", project="Q", instance=9), 1).generation == 0


def test_what_was_never_sent_uses_up_nothing(ledger: Ledger, study: str) -> None:
    ledger.transfers.accept(asked("X1"), 1)
    erase(ledger, "X1")
    assert ledger.transfers.accept(asked("X1"), 1).generation == 0


def test_a_new_ledger_knows_what_erasures_used_up_and_how_much_went(
    root: DataRoot, ledger: Ledger, study: str
) -> None:
    sent(ledger, ledger.transfers.accept(asked("X1"), 1))
    erase(ledger, "X1")
    with Ledger(root, root.ledger_file.with_name("new.sqlite")) as rebuilt:
        with rebuilt.store.restoring() as db:
            assert restore_common(db, root)
        assert rebuilt.sendings.generation_for(study, "P", "X1", "E1") == 1
        assert rebuilt.store.rows("SELECT studies FROM erasures")[0]["studies"] == 1
