"""Whose a study is and what automatic assignment made of it, as the ledger keeps it."""

from __future__ import annotations

import pytest

from fiona_dagster.ledger import Ledger, Person, person_of
from fiona_dagster.ledger import assignments as module


def held(ledger: Ledger, study: str, revision: int = 1, flags: str = "[]") -> None:
    with ledger.store.writing() as db:
        db.execute(
            """INSERT INTO studies (study, first_arrival, last_arrival, calling_ae, called_ae, caller_ip,
               revision, registered, open, flags) VALUES (?, 't', 't', 'a', 'b', 'c', ?, ?, 0, ?)""",
            (study, revision, revision, flags),
        )


def test_a_person_is_kept_sealed_and_replaced(ledger: Ledger) -> None:
    book = ledger.assignments
    assert book.person("1.2") is None

    book.record_person("1.2", person_of(["P1 ", "P1"], ["Doe^J", ""], {"A1"}, ["P9"]))
    assert book.person("1.2") == Person(("P1",), ("Doe^J",), ("A1",), ("P9",))
    assert "Doe" not in repr(book.person("1.2"))
    for file in ledger.root.ledger_file.parent.glob("*.sqlite*"):
        assert b"Doe" not in file.read_bytes()

    book.record_person("1.2", person_of(["P2"]))
    assert book.person("1.2") == Person(("P2",))


@pytest.mark.parametrize("key", [b"", b"no key at all"], ids=["lost", "damaged"])
def test_without_its_key_a_person_is_read_from_the_archive_again(ledger: Ledger, key: bytes) -> None:
    book = ledger.assignments
    book.record_person("1.2", person_of(["P1"]))
    file = ledger.root.secrets / "persons.seal"
    assert file.stat().st_mode & 0o077 == 0
    file.unlink()
    if key:
        file.write_bytes(key)

    assert book.person("1.2") is None
    book.record_person("1.2", person_of(["P1"]))
    assert book.person("1.2") == Person(("P1",))


def test_a_study_is_looked_at_once_with_the_same_tables(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = ledger.assignments
    held(ledger, "1.2")
    held(ledger, "1.3", flags='["two_patients"]')
    assert book.to_look_at("tables") == ["1.2"], "a flagged study waits for a person"

    assert book.decide("1.2", 1, "waiting", "tables", reason="nothing matches")
    assert book.to_look_at("tables") == []
    assert book.to_look_at("other tables") == ["1.2"]
    assert not book.decide("1.2", 1, "waiting", "other tables", reason="nothing matches"), "nothing new"

    assert book.decide("1.2", 1, "asked", "tables", way="coupling", project="HEART")
    assert book.to_look_at("tables") == []
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", -1.0)
    assert book.to_look_at("tables") == ["1.2"], "the request was lost on the way"


def test_the_table_of_projects_is_replaced_as_a_whole(ledger: Ledger) -> None:
    book = ledger.assignments
    assert not book.has_projects()
    book.replace_projects({"HEART": {"project_active": "1"}, "LUNG": {}})
    book.replace_projects({"HEART": {"project_active": "0"}})
    assert book.project_entry("HEART") == {"project_active": "0"}
    assert book.project_entry("LUNG") is None
